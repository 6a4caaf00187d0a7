"""What a database holds, in a form in which two databases can be compared exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class TableContents:
    """The rows of a table, and a digest that does not depend on their order."""

    rows: int
    digest: int


@dataclass(frozen=True)
class Contents:
    """Tables and materialized views, sequences and large objects; equal where all are equal."""

    tables: Mapping[str, TableContents]
    sequences: Mapping[str, tuple[int, bool]]
    large_objects: Mapping[int, str]
    """MD5 by OID."""

    def differences(self, other: "Contents") -> tuple[str, ...]:
        """A sentence for each thing in which `other` differs; none where both are equal."""
        return tuple(
            f"{kind} {name}: {mine.get(name)} here, {theirs.get(name)} there"
            for kind, mine, theirs in (
                ("table", self.tables, other.tables),
                ("sequence", self.sequences, other.sequences),
                ("large object", self.large_objects, other.large_objects),
            )
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        )


def read_contents(connection: "psycopg.Connection[TupleRow]") -> Contents:
    """Read a whole database, each table once, in one snapshot where the caller has begun one.

    The text form of values must not depend on the session, so its settings are pinned.
    """
    connection.execute(_PINNED)
    tables = connection.execute(_TABLES).fetchall()
    sequences = connection.execute(_SEQUENCES).fetchall()
    objects = connection.execute(_LARGE_OBJECTS).fetchall()
    return Contents(
        {shown: _table(connection, schema, name) for shown, schema, name in tables},
        {shown: _sequence(connection, schema, name) for shown, schema, name in sequences},
        dict(objects),
    )


_PINNED = """
    SELECT set_config(name, value, false) FROM (VALUES
        ('DateStyle', 'ISO'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'),
        ('extra_float_digits', '1'), ('bytea_output', 'hex'), ('row_security', 'off'),
        ('lc_monetary', 'C')
    ) AS pinned (name, value)
"""
_RELATIONS = """
    SELECT format('%I.%I', nspname, relname), nspname, relname
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = ANY({kinds}) AND relispopulated AND relpersistence <> 't'
      AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_toast'
    ORDER BY 1
"""
_TABLES = _RELATIONS.format(kinds="'{r,m}'")
_SEQUENCES = _RELATIONS.format(kinds="'{S}'")
_LARGE_OBJECTS = "SELECT oid::bigint, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid"


def _table(connection: "psycopg.Connection[TupleRow]", schema: str, name: str) -> TableContents:
    # A sum of 64-bit hashes: the order of rows does not matter, and equal rows still count.
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended(row_.*::text, 0)), 0) FROM ONLY {} AS row_"
    )
    row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
    assert row is not None
    return TableContents(row[0], int(row[1]))


def _sequence(
    connection: "psycopg.Connection[TupleRow]", schema: str, name: str
) -> tuple[int, bool]:
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0], row[1]
