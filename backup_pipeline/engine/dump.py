"""The dump: one snapshot, and the pg_dump streams that together are one plain SQL script.

pg_dump writes all of the SQL; nothing here parses or invents any.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backup_pipeline.engine.beside import beside
from backup_pipeline.engine.contents import read_contents, read_tables
from backup_pipeline.engine.model import (
    Contents,
    Extension,
    Section,
    SequenceValue,
    Source,
    TableContents,
    TableRows,
)
from backup_pipeline.engine.postgres import (
    Clients,
    Server,
    choose_clients,
    environment_of,
    find_clients,
)
from backup_pipeline.engine.process import Reader, output, reading
from backup_pipeline.engine.script import CLOSING_LINE
from backup_pipeline.errors import BackupRunning, PostgresFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

# The first half of the lock's key; a number that nobody else would hit upon.
_LOCK = 0x6261636B

_PLAIN = ("--no-owner", "--no-privileges")
_CLEAN = ("--clean", "--if-exists")


@dataclass(frozen=True, slots=True)
class DumpStream:
    """One member's worth of SQL, not read yet."""

    section: Section
    open: Callable[[], AbstractContextManager[Reader]]


class Dump(Protocol):
    """An open snapshot of a database, ready to be read."""

    source: Source
    pg_dump_version: str
    tables: Sequence[tuple[str, str]]
    """Schema and name of each table whose rows have to be in the data."""

    def reading_contents(self) -> AbstractContextManager[Callable[[], Contents | None]]:
        """Read what the snapshot holds while the block lasts, and give it to who calls.

        It is `None` where that was not asked for.
        """

    def streams(self) -> Sequence[DumpStream]:
        """The members in the order in which they must stand in the object."""

    def schema_archive(self) -> bytes:
        """The schema of the same snapshot as an archive for pg_restore."""


class DumpSource(Protocol):
    """A database that can be dumped."""

    def open_dump(self) -> AbstractContextManager[Dump]:
        """Take a snapshot and hold it until the block is left."""


def agreed(
    dump: Dump,
    written: Iterable[TableRows],
    sequences: Iterable[SequenceValue],
    read: Contents | None,
) -> Contents:
    """What the database holds, as pg_dump has `written` it and as it was `read` beside.

    Raises `PostgresFailed` where pg_dump left out a table or rows of one.
    """
    rows_written = {(table.schema, table.table): table.rows for table in written}
    by_name = {(table.schema, table.table): table for table in (read.tables if read else ())}
    tables = []
    for schema, table in sorted(dump.tables):
        rows, digested = rows_written.get((schema, table)), by_name.get((schema, table))
        if rows is None or (digested and digested.rows != rows):
            raise PostgresFailed(
                f"pg_dump wrote {'no' if rows is None else rows} rows of {schema}.{table}"
                + (f" where the snapshot holds {digested.rows}" if digested else ""),
                hint="Is row-level security or a wrapper round pg_dump in the way?",
            )
        tables.append(digested or TableContents(schema, table, rows))
    return Contents(
        tables=tuple(tables),
        sequences=tuple(sorted(sequences)),
        large_objects=read.large_objects if read else None,
    )


@dataclass(frozen=True)
class PostgresDumpSource:
    """A database on a PostgreSQL server, and where to look for pg_dump."""

    server: Server
    bin_dirs: Sequence[Path]
    lock_timeout: float = 300.0
    """Seconds to wait for somebody's lock on a table before giving up."""
    digests: bool = True
    """Whether each table is read a second time, by SQL, for a digest of its rows."""

    @contextmanager
    def open_dump(self) -> "Iterator[PostgresDump]":
        """Export a snapshot from a REPEATABLE READ, READ ONLY transaction and hold it.

        One dump of a database is made at a time, wherever it was started; another waits for it as
        long as for any lock.
        Raises `PostgresUnreachable`, `ClientTooOld`, `BackupRunning` and `PostgresFailed`.
        """
        with self.server.connect() as connection:
            version_num = connection.info.server_version
            clients = choose_clients(find_clients(self.bin_dirs), version_num)
            # The connection idles while pg_dump works, and must not be ended for that.
            connection.execute("SET idle_in_transaction_session_timeout = 0")
            connection.execute("SET statement_timeout = 0")
            _wait_for_turn(connection, self.lock_timeout)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            snapshot = _value(connection, "SELECT pg_export_snapshot()")
            yield PostgresDump(
                connection, snapshot, clients, self.lock_timeout, digests=self.digests
            )


def _wait_for_turn(connection: "psycopg.Connection[TupleRow]", timeout: float) -> None:
    """Take the advisory lock that is this software's in each database; the session holds it."""
    from psycopg import errors

    milliseconds = str(int(timeout * 1000))
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (milliseconds,))
    try:
        connection.execute("SELECT pg_advisory_lock(%s, 0)", (_LOCK,))
    except errors.LockNotAvailable as error:
        raise BackupRunning(
            f"another backup of {connection.info.dbname!r} has been running for more than "
            f"{timeout:g} s"
        ) from error


class PostgresDump:
    """A dump of one exported snapshot.

    The order of members is that of an undivided `pg_dump --clean --if-exists`, cut at its
    sections.
    One thing has to move: with `--clean` a section drops only its own objects, so the tables of
    pre-data would be dropped while foreign keys of post-data still hold them; the drops of
    post-data therefore stand first, as a script of their own.
    """

    def __init__(
        self,
        connection: "psycopg.Connection[TupleRow]",
        snapshot: str,
        clients: Clients,
        lock_timeout: float,
        *,
        digests: bool,
    ) -> None:
        self._connection = connection
        self._digests = digests
        self._clients = clients
        self._env = environment_of(connection)
        self._options = (
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={int(lock_timeout * 1000)}",
            "--no-password",
            *_PLAIN,
        )
        self.pg_dump_version = clients.version
        self.source = read_source(connection)
        self.tables: Sequence[tuple[str, str]] = read_tables(connection, self.source.encoding)

    @contextmanager
    def reading_contents(self) -> Iterator[Callable[[], Contents | None]]:
        """Read the snapshot in the connection that holds it, which idles while pg_dump works."""
        if not self._digests:
            yield lambda: None
            return
        read = partial(read_contents, self._connection, self.source.encoding)
        with beside(read, stop=self._connection.cancel) as contents:
            yield contents

    def streams(self) -> Sequence[DumpStream]:
        """The drops of post-data, pre-data, data (large objects included), post-data."""
        post_data = output(self._pg_dump("--section=post-data"), self._env)
        cleaning = output(self._pg_dump("--section=post-data", *_CLEAN), self._env)
        drops = drops_of(cleaning, post_data)
        return (
            DumpStream(Section.DROPS, partial(_in_memory, drops)),
            DumpStream(Section.PRE_DATA, self._child("--section=pre-data", *_CLEAN)),
            DumpStream(Section.DATA, self._child("--section=data", *_CLEAN)),
            DumpStream(Section.POST_DATA, partial(_in_memory, post_data)),
        )

    def schema_archive(self) -> bytes:
        """The schema alone, in pg_dump's custom format."""
        return output(self._pg_dump("--format=custom", "--schema-only"), self._env)

    def _child(self, *options: str) -> Callable[[], AbstractContextManager[Reader]]:
        return partial(reading, self._pg_dump(*options), self._env)

    def _pg_dump(self, *options: str) -> list[str | Path]:
        return [self._clients.tool("pg_dump"), *self._options, *options]


def schema_of(connection: "psycopg.Connection[TupleRow]", clients: Clients) -> bytes:
    """The schema of a database as `PRE_DATA` and `POST_DATA` of a backup of it would have it."""
    env = environment_of(connection)
    pg_dump: tuple[str | Path, ...] = (clients.tool("pg_dump"), "--no-password", *_PLAIN)
    pre_data = output([*pg_dump, "--section=pre-data", *_CLEAN], env)
    return pre_data + output([*pg_dump, "--section=post-data"], env)


def drops_of(cleaning: bytes, plain: bytes) -> bytes:
    """The script that drops what a section creates, out of two dumps of that section.

    `cleaning` was written with `--clean` and `plain` without: they differ in one contiguous
    insertion, the drops, and in the random key of their `\\restrict` lines.
    The result keeps pg_dump's own beginning and closing lines round the insertion, so it is a
    whole script by itself.

    Raises `PostgresFailed` where the two differ in any other way.
    """
    long, closing = _split(cleaning)
    short, _ = _split(plain)
    pairs = enumerate(zip(long, short, strict=False))
    start = next((i for i, pair in pairs if _differ(*pair)), len(short))
    end = start + len(long) - len(short)
    if end < start or any(_differ(*pair) for pair in zip(long[end:], short[start:], strict=True)):
        raise PostgresFailed(
            "pg_dump --clean writes post-data in a way that is not known here",
            hint="Report it with the versions of the server and of pg_dump.",
        )
    return b"".join([*long[:end], *closing])


def _split(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """The lines of a dump before its closing comment, and those from there on."""
    lines = text.splitlines(keepends=True)
    closing = next((i for i, line in enumerate(lines) if line.startswith(CLOSING_LINE)), 1) - 1
    return lines[:closing], lines[closing:]


def _differ(one: bytes, other: bytes) -> bool:
    guards = (b"\\restrict ", b"\\unrestrict ")
    return one != other and not (one.startswith(guards) and other.startswith(guards))


def read_source(connection: "psycopg.Connection[TupleRow]") -> Source:
    """What the server says of the database, inside the transaction of the snapshot."""
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
        snapshot_lsn=_value(connection, f"SELECT {lsn}::text"),  # one of two constants
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


def _locale(connection: "psycopg.Connection[TupleRow]", version_num: int) -> tuple[Any, str | None]:
    if version_num < 150000:  # until PostgreSQL 14 a database's locale was always libc's
        return "libc", None
    column = "datlocale" if version_num >= 170000 else "daticulocale"
    row = connection.execute(
        f"SELECT datlocprovider, {column} FROM pg_database WHERE datname = current_database()"  # noqa: S608  # one of two constants
    ).fetchone()
    assert row is not None
    return _PROVIDERS[row[0]], row[1]


def _value(connection: "psycopg.Connection[TupleRow]", query: str) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def _in_memory(text: bytes) -> AbstractContextManager[Reader]:
    return nullcontext(io.BytesIO(text))
