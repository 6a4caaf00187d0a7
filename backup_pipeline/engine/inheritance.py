"""Inheritance: under whose name rows are written, and where a restore puts columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from backup_pipeline.engine.plan import Table
from backup_pipeline.engine.script import decoded

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What the tables of a database have from each other, as far as a dump must know it."""

    roots: Mapping[Table, Table] = field(default_factory=dict)
    """The topmost parent of each partition: pg_dump writes rows under its name where a partition
    may not be the one that they come back to."""
    columns: Mapping[Table, tuple[str, ...]] = field(default_factory=dict)
    """In the order that they have after a restore, where rows may come with another one."""


def read_inheritance(connection: "Connection", encoding: str) -> Inheritance:
    """What the server says of it; names come as `script.decoded` has them."""
    names: dict[int, Table] = {
        oid: (decoded(schema, encoding), decoded(name, encoding))
        for oid, schema, name in connection.execute(_NAMES).fetchall()
    }
    tops: dict[int, int] = {}
    parents: dict[int, list[int]] = {}
    for child, parent, is_partition in connection.execute(_PARENTS).fetchall():
        if is_partition:
            tops[child] = parent
        else:
            parents.setdefault(child, []).append(parent)
    for child, parent in tops.items():
        top = parent
        while top in tops:
            top = tops[top]
        tops[child] = top
    wanted = {*tops.values(), *parents, *(each for some in parents.values() for each in some)}
    # Of those that have any.
    columns: dict[int, tuple[str, ...]] = {
        oid: tuple(decoded(name, encoding) for name in found)
        for oid, found in connection.execute(_COLUMNS, [list(wanted)]).fetchall()
    }

    @cache
    def restored(oid: int) -> tuple[str, ...]:
        """CREATE TABLE takes the columns of the parents first, whenever they were added."""
        inherited = [name for each in parents.get(oid, ()) for name in restored(each)]
        return tuple(dict.fromkeys([*inherited, *columns.get(oid, ())]))

    return Inheritance(
        roots={names[child]: names[top] for child, top in tops.items()},
        columns={names[oid]: restored(oid) for oid in {*tops.values(), *parents}},
    )


_NAMES = """
    SELECT pg_class.oid::bigint, convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid IN (SELECT inhrelid FROM pg_inherits UNION SELECT inhparent FROM pg_inherits)
"""
_PARENTS = """
    SELECT inhrelid::bigint, inhparent::bigint, relispartition
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE relkind IN ('r', 'p') OR relkind = 'f' AND NOT relispartition
    ORDER BY inhrelid, inhseqno
"""
_COLUMNS = """
    SELECT attrelid::bigint,
           array_agg(convert_to(attname::text, getdatabaseencoding()) ORDER BY attnum)
    FROM pg_attribute
    WHERE attrelid = ANY(%s::bigint[]) AND attnum > 0 AND NOT attisdropped
    GROUP BY attrelid
"""
