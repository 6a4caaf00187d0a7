"""The tables that a dump has to hold: which, how large, and kept from vanishing meanwhile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from backup_pipeline.engine.findings import few
from backup_pipeline.engine.model import Contents, SequenceValue, TableContents
from backup_pipeline.engine.plan import Table
from backup_pipeline.engine.script import decoded, encoded, quoted
from backup_pipeline.errors import TableLocked

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, as far as a plan must know it."""

    oid: int
    file: int
    """Another one once it was emptied or rewritten."""
    size: int = 0
    """Bytes on disk, TOAST included."""
    sequences: tuple[Table, ...] = ()
    """Those that belong to its columns, and that pg_dump would take for part of it."""


def read_relations(connection: "Connection", encoding: str) -> Mapping[Table, Relation]:
    """Each table that pg_dump dumps, less those of extensions; not how large it is.

    `encoding` is the database's; names come as `script.decoded` has them.
    """
    return _named(connection, "r", encoding)


def read_partitioned(connection: "Connection", encoding: str) -> Iterable[Table]:
    """Each partitioned table: it has no rows, but pg_dump locks it as well."""
    return _named(connection, "p", encoding)


def _named(connection: "Connection", kind: str, encoding: str) -> Mapping[Table, Relation]:
    return {
        (decoded(schema, encoding), decoded(name, encoding)): Relation(oid, file)
        for oid, file, schema, name in connection.execute(_RELATIONS, {"kind": kind}).fetchall()
    }


def read_not_here(connection: "Connection", encoding: str) -> Contents:
    """Unlogged tables and sequences, of which a standby holds nothing, as they will come back."""
    tables, sequences = [], []
    for schema, name, start in connection.execute(_NOT_HERE).fetchall():
        named = decoded(schema, encoding), decoded(name, encoding)
        if start is None:
            tables.append(TableContents(*named, rows=0))
        else:
            sequences.append(SequenceValue(*named, value=start, called=False))
    return Contents(tuple(tables), tuple(sequences), large_objects=None)


def left_out(not_here: Contents) -> str | None:
    """Of which tables a dump has no rows, in words; `None` where it has them all."""
    tables = [f"{each.schema}.{each.table}" for each in not_here.tables]
    if not tables:
        return None
    return f"a standby has no rows of unlogged tables, so they are in no dump of it: {few(tables)}"


def lock_relations(
    connection: "Connection", tables: Iterable[Table], encoding: str, timeout: float
) -> None:
    """Lock them as pg_dump does: none can be dropped or rewritten until the transaction ends.

    `timeout` is what the session has as its `lock_timeout`, in seconds.
    Raises `TableLocked` where somebody holds a table for longer.
    """
    _lock(connection, sorted(tables), encoding, timeout)


def with_sizes(
    connection: "Connection", relations: Mapping[Table, Relation], encoding: str
) -> Mapping[Table, Relation]:
    """The same with what a plan must know; whoever asks waits for the tables' locks."""
    oids = [each.oid for each in relations.values()]
    sizes: dict[int, int | None] = dict(connection.execute(_SIZES, [oids]).fetchall())
    owned: dict[int, list[Table]] = {}
    for table, schema, name in connection.execute(_OWNED_SEQUENCES).fetchall():
        owned.setdefault(table, []).append((decoded(schema, encoding), decoded(name, encoding)))
    return {
        table: replace(each, size=sizes[each.oid] or 0, sequences=tuple(owned.get(each.oid, ())))
        for table, each in relations.items()
    }


# Names as bytes: in databases that are not in UTF-8 they must be those of pg_dump's text.
_OURS = """
    nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_toast'
    AND NOT EXISTS (
        SELECT FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""
_RELATIONS = f"""
    SELECT pg_class.oid::bigint, relfilenode::bigint,
           convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = %(kind)s AND relpersistence <> 't' AND {_OURS}
"""  # noqa: S608  # of constants
_NOT_HERE = f"""
    SELECT convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding()), seqstart
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN pg_sequence ON seqrelid = pg_class.oid
    WHERE pg_is_in_recovery() AND relkind IN ('r', 'S') AND relpersistence = 'u' AND {_OURS}
    ORDER BY 1, 2
"""  # noqa: S608  # of constants
# Without what pg_table_size adds, which is little, and takes several times as long.
_SIZES = """
    SELECT oid::bigint, pg_relation_size(oid)
           + CASE reltoastrelid WHEN 0 THEN 0 ELSE coalesce(pg_relation_size(reltoastrelid), 0) END
    FROM pg_class WHERE oid = ANY(%s::bigint[]::oid[])
"""
_OWNED_SEQUENCES = """
    SELECT refobjid::bigint, convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_depend
    JOIN pg_class ON pg_class.oid = objid AND relkind = 'S'
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
      AND deptype IN ('a', 'i')
"""
_LOCKED_AT_ONCE = 500


def _lock(connection: "Connection", tables: Sequence[Table], encoding: str, timeout: float) -> None:
    from psycopg import errors

    names = [b".".join(quoted(encoded(part, encoding)) for part in table) for table in tables]
    for start in range(0, len(names), _LOCKED_AT_ONCE):
        some = names[start : start + _LOCKED_AT_ONCE]
        try:
            connection.execute(
                b"LOCK TABLE ONLY " + b", ONLY ".join(some) + b" IN ACCESS SHARE MODE"
            )
        except errors.LockNotAvailable as error:
            connection.execute("ROLLBACK")
            raise TableLocked(
                f"a table of {connection.info.dbname!r} has been locked for more than "
                f"{timeout:g} s: {exclusively_locked(connection, first='held')}"
            ) from error


def exclusively_locked(connection: "Connection", *, first: Literal["held", "wanted"]) -> str:
    """Which tables somebody holds or wants for himself, and who; the `first` of these first."""
    # Within a transaction the server tells what it told before.
    connection.execute("SELECT pg_stat_clear_snapshot()")
    rows = connection.execute(_EXCLUSIVELY_LOCKED, {"granted": first == "held"}).fetchall()
    found = (f"{table} ({how} by {pid}, {user})" for table, how, pid, user in rows)
    return ", ".join(found) or "not any more"


_EXCLUSIVELY_LOCKED = """
    SELECT relation::regclass::text, CASE WHEN granted THEN 'held' ELSE 'wanted' END,
           pid, coalesce(usename, 'a prepared transaction')
    FROM pg_locks JOIN pg_class ON pg_class.oid = relation
    LEFT JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND relation >= 16384 AND relkind IN ('r', 'p') AND relpersistence <> 't'
    ORDER BY granted = %(granted)s DESC, 1 LIMIT 5
"""
