"""What the server says of the database that is dumped, inside the snapshot."""

from datetime import UTC
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.model import Extension, Source

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]


def read_source(connection: "Connection") -> Source:
    """What the server says of the database, inside the transaction of the snapshot.

    Without its `access`, which takes longer than all the rest where there are many tables.
    """
    version_num = connection.info.server_version
    row = connection.execute(_SOURCE).fetchone()
    assert row is not None
    provider, locale = _locale(connection, version_num)
    lsn = "pg_last_wal_replay_lsn()" if row[6] else "pg_current_wal_lsn()"
    extensions = connection.execute(
        "SELECT extname, extversion FROM pg_extension ORDER BY extname"
    ).fetchall()
    return Source(
        database=row[0],
        database_size=row[1],
        server_version=row[2],
        server_version_num=version_num,
        encoding=row[3],
        locale_provider=provider,
        collate=row[4],
        ctype=row[5],
        locale=locale,
        extensions=tuple(Extension(name, version) for name, version in extensions),
        snapshot_at=row[7].astimezone(UTC),
        snapshot_lsn=value(connection, f"SELECT {lsn}::text"),  # one of two constants
        roles=tuple(row[0] for row in connection.execute(_ROLES).fetchall()),
    )


_SOURCE = """
    SELECT datname, pg_database_size(oid), current_setting('server_version'),
           pg_encoding_to_char(encoding), datcollate, datctype, pg_is_in_recovery(),
           transaction_timestamp()
    FROM pg_database WHERE datname = current_database()
"""
# PUBLIC is none of pg_roles.  The dump has no owners and no privileges, which would name others.
_ROLES = """
    SELECT rolname FROM pg_roles
    WHERE oid IN (SELECT unnest(polroles) FROM pg_policy UNION SELECT umuser FROM pg_user_mappings)
    ORDER BY rolname
"""
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


def _locale(connection: "Connection", version_num: int) -> tuple[Any, str | None]:
    if version_num < 150000:  # until PostgreSQL 14 a database's locale was always libc's
        return "libc", None
    column = "datlocale" if version_num >= 170000 else "daticulocale"
    row = connection.execute(
        f"SELECT datlocprovider, {column} FROM pg_database WHERE datname = current_database()"  # noqa: S608  # one of two constants
    ).fetchone()
    assert row is not None
    return _PROVIDERS[row[0]], row[1]


def free_connections(connection: "Connection") -> int:
    """How many more connections the server, this database and this role have room for."""
    return int(value(connection, _FREE_CONNECTIONS))


_FREE_CONNECTIONS = """
    SELECT least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            -- What others do is shown to few; how many they are, to everybody.
            - (SELECT sum(numbackends) FROM pg_stat_database),
        (SELECT nullif(datconnlimit, -1) - (
                SELECT count(*) FROM pg_stat_activity WHERE datid = pg_database.oid)
         FROM pg_database WHERE datname = current_database()),
        (SELECT nullif(rolconnlimit, -1) - (
                SELECT count(*) FROM pg_stat_activity WHERE usesysid = pg_roles.oid)
         FROM pg_roles WHERE rolname = current_user))
"""


def value(connection: "Connection", query: str) -> str:
    """The only value that a query gives, as text."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])
