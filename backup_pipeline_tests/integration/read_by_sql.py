"""A database read by SQL, and not by a dump: what the tests compare two databases with."""

from typing import Any

import psycopg

from backup_pipeline.engine.model import Contents, LargeObjects, SequenceValue, TableContents
from backup_pipeline.engine.script import decoded, encoded, quoted

Connection = psycopg.Connection[tuple[Any, ...]]

_CHUNK = 64 << 20
"""Bytes of a large object at a time; the server gives no more than 1 GB in one value."""


def read_by_sql(connection: Connection, encoding: str) -> Contents:
    """Read a whole database, each row once.

    The text form of values must not depend on the session, so its settings are pinned.
    """
    connection.execute(_PINNED)
    return Contents(
        tables=tuple(
            _table(connection, schema, name, encoding)
            for schema, name in _names(connection, "r", encoding)
        ),
        sequences=tuple(
            _sequence(connection, schema, name, encoding)
            for schema, name in _names(connection, "S", encoding)
        ),
        large_objects=_large_objects(connection),
    )


_PINNED = """
    SELECT set_config(name, value, false) FROM (VALUES
        ('DateStyle', 'ISO'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'),
        ('extra_float_digits', '1'), ('bytea_output', 'hex'), ('row_security', 'off'),
        ('lc_monetary', 'C')
    ) AS pinned (name, value)
"""
# Names as bytes: in databases that are not in UTF-8 they must be those of pg_dump's text.
_RELATIONS = """
    SELECT convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = %s AND relpersistence <> 't'
      AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_toast'
      AND NOT EXISTS (
          SELECT FROM pg_depend
          WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""


def _names(connection: Connection, kind: str, encoding: str) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(_RELATIONS, (kind,)).fetchall()
    return tuple(
        sorted((decoded(schema, encoding), decoded(name, encoding)) for schema, name in rows)
    )


def _relation(schema: str, name: str, encoding: str) -> bytes:
    return b".".join(quoted(encoded(part, encoding)) for part in (schema, name))


def _table(connection: Connection, schema: str, name: str, encoding: str) -> TableContents:
    # A sum of 64-bit hashes: the order of rows does not matter, and equal rows still count.
    # Hash partitioning relies on these hashes, so they are the same in every version.
    # `record_out` and not a cast to text, because anybody can define a cast of his own row type.
    count, digest = _row(
        connection,
        b"SELECT count(*), coalesce(sum(hashtextextended(textin(record_out(row_.*)), 0)), 0)::text"
        b" FROM ONLY " + _relation(schema, name, encoding) + b" AS row_",
    )
    return TableContents(schema, name, count, digest)


def _sequence(connection: Connection, schema: str, name: str, encoding: str) -> SequenceValue:
    relation = _relation(schema, name, encoding)
    value, called = _row(connection, b"SELECT last_value, is_called FROM " + relation)
    return SequenceValue(schema, name, value, called)


_LARGE_OBJECTS = """
    SELECT count(*), coalesce(sum(hashtextextended(
               oid::text || ' ' || %(at)s || ' ' || md5(lo_get(oid, %(at)s, %(chunk)s)), 0)), 0),
           array_agg(oid::bigint) FILTER (
               WHERE length(lo_get(oid, %(at)s, %(chunk)s)) = %(chunk)s)
    FROM pg_largeobject_metadata
    WHERE %(oids)s::bigint[] IS NULL OR oid::bigint = ANY(%(oids)s)
"""


def _large_objects(connection: Connection) -> LargeObjects:
    """Chunk by chunk of all of them, as far as they are long enough to have another one."""
    total, digest, at = None, 0, 0
    longer: list[int] | None = None
    while total is None or longer:
        found = {"at": at, "chunk": _CHUNK, "oids": longer}
        row = connection.execute(_LARGE_OBJECTS, found).fetchone()
        assert row is not None
        total, longer = row[0] if total is None else total, row[2]
        digest += int(row[1])
        at += _CHUNK
    return LargeObjects(total, str(digest))


def _row(connection: Connection, query: bytes) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
