"""What a database holds, read by SQL in a form in which two databases can be compared exactly."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.model import Contents, LargeObjects, SequenceValue, TableContents
from backup_pipeline.engine.script import decoded, encoded, quoted

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

_CHUNK = 64 << 20
"""Bytes of a large object at a time; the server gives no more than 1 GB in one value."""


def read_tables(connection: "Connection", encoding: str) -> tuple[tuple[str, str], ...]:
    """Schema and name of each table whose rows pg_dump dumps, less those of extensions.

    `encoding` is the database's; names come as `script.decoded` has them.
    """
    return _names(connection, "r", encoding)


def read_contents(connection: "Connection", encoding: str) -> Contents:
    """Read a whole database, each row once, in one snapshot where the caller has begun one.

    The text form of values must not depend on the session, so its settings are pinned.
    """
    connection.execute(_PINNED)
    return Contents(
        tables=tuple(
            _table(connection, schema, name, encoding)
            for schema, name in read_tables(connection, encoding)
        ),
        sequences=tuple(
            _sequence(connection, schema, name, encoding)
            for schema, name in _names(connection, "S", encoding)
        ),
        large_objects=_large_objects(connection),
    )


def differences(expected: Contents, found: Contents) -> Iterator[str]:
    """A sentence for each thing in which a database differs from what it should hold.

    Digests count where both have them.
    """
    yield from _differ(
        "table",
        {(t.schema, t.table): t for t in expected.tables},
        {(t.schema, t.table): t for t in found.tables},
    )
    yield from _differ(
        "sequence",
        {(s.schema, s.sequence): s for s in expected.sequences},
        {(s.schema, s.sequence): s for s in found.sequences},
    )
    objects, there = expected.large_objects, found.large_objects
    if objects and there and objects != there:
        yield (
            f"the {objects.count:,} large objects are not those that were dumped"
            if objects.count == there.count
            else f"there are {there.count:,} large objects where {objects.count:,} were dumped"
        )


def _differ(
    kind: str, expected: Mapping[tuple[str, str], Any], found: Mapping[tuple[str, str], Any]
) -> Iterator[str]:
    for key in sorted({*expected, *found}):
        mine, theirs, name = expected.get(key), found.get(key), ".".join(key)
        if mine is None:
            yield f"{kind} {name} was not dumped"
        elif theirs is None:
            yield f"{kind} {name} is missing"
        elif said := _difference(mine, theirs):
            yield f"{kind} {name} {said}"


def _difference(
    expected: TableContents | SequenceValue, found: TableContents | SequenceValue
) -> str | None:
    if isinstance(expected, TableContents) and isinstance(found, TableContents):
        if expected.rows != found.rows:
            return f"has {found.rows:,} rows where {expected.rows:,} were dumped"
        if None not in (expected.digest, found.digest) and expected.digest != found.digest:
            return f"has {found.rows:,} rows as it should, but not those that were dumped"
        return None
    return None if expected == found else f"stands at {_stands(found)}, not {_stands(expected)}"


def _stands(sequence: Any) -> str:
    return f"{sequence.value}{'' if sequence.called else ' (not given out yet)'}"


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


def _names(connection: "Connection", kind: str, encoding: str) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(_RELATIONS, (kind,)).fetchall()
    return tuple(
        sorted((decoded(schema, encoding), decoded(name, encoding)) for schema, name in rows)
    )


def _relation(schema: str, name: str, encoding: str) -> bytes:
    return b".".join(quoted(encoded(part, encoding)) for part in (schema, name))


def _table(connection: "Connection", schema: str, name: str, encoding: str) -> TableContents:
    # A sum of 64-bit hashes: the order of rows does not matter, and equal rows still count.
    # Hash partitioning relies on these hashes, so they are the same in every version.
    # `record_out` and not a cast to text, because anybody can define a cast of his own row type.
    count, digest = _row(
        connection,
        b"SELECT count(*), coalesce(sum(hashtextextended(textin(record_out(row_.*)), 0)), 0)::text"
        b" FROM ONLY " + _relation(schema, name, encoding) + b" AS row_",
    )
    return TableContents(schema, name, count, digest)


def _sequence(connection: "Connection", schema: str, name: str, encoding: str) -> SequenceValue:
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


def _large_objects(connection: "Connection") -> LargeObjects:
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


def _row(connection: "Connection", query: bytes) -> "TupleRow":
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
