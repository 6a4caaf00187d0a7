"""The dump: one snapshot, and the pg_dump streams that together are one plain SQL script.

pg_dump writes all of the SQL; nothing here parses or invents any.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from backup_pipeline.engine.access import read_access
from backup_pipeline.engine.inheritance import Inheritance, read_inheritance
from backup_pipeline.engine.locks import ONE_AFTER_THE_OTHER, SIDE_BY_SIDE, lock_room
from backup_pipeline.engine.model import Access, Contents, Section, Source
from backup_pipeline.engine.plan import Table, plan
from backup_pipeline.engine.postgres import (
    Clients,
    Server,
    advice_on,
    choose_clients,
    conninfo_of,
    environment_of,
    find_clients,
    patience_with,
)
from backup_pipeline.engine.process import (
    ChildReader,
    Reader,
    begun,
    child_environment,
    output,
    taking,
)
from backup_pipeline.engine.relations import (
    exclusively_locked,
    left_out,
    lock_relations,
    read_not_here,
    read_partitioned,
    read_relations,
    with_sizes,
)
from backup_pipeline.engine.script import (
    CLOSING_LINE,
    CLOSING_LINE_OF_GLOBALS,
    Tail,
    encoded,
    quoted,
)
from backup_pipeline.engine.source import free_connections, read_source, value
from backup_pipeline.errors import BackupRunning, ChildFailed, PostgresFailed, TableLocked

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

# The first half of the lock's key; a number that nobody else would hit upon.
_LOCK = 0x6261636B

# Where the coordinator has a table and a pg_dump waits for it, that stands behind somebody who
# wants it for himself, and so do all who only want to read it.
_QUEUE_TIMEOUT = 10.0

# How rows are written; all else of that pg_dump sets itself.  Digests are taken of the text.
_SAME_ROWS = "-c TimeZone=UTC -c bytea_output=hex"
# What an owner may set to end a statement: pg_dump takes that off by itself, and a pg_dumpall
# before 18 does not.
_ENDLESS = "-c statement_timeout=0 -c lock_timeout=0"

_CHUNK = 1 << 20
_WAITED_IN_VAIN = re.compile(r"due to (?:lock|statement) timeout.* LOCK TABLE", re.DOTALL)
_PLAIN = ("--no-owner", "--no-privileges")
_CLEAN = ("--clean", "--if-exists")


Stream = Callable[[], AbstractContextManager[Reader]]
"""Some SQL that is not read yet."""


@dataclass(frozen=True, slots=True)
class Schema:
    """All of a database that is not data: as SQL in three pieces, and as an archive."""

    archive: bytes
    """For pg_restore, in pg_dump's custom format."""
    drops: bytes
    """What has to be dropped of post-data before pre-data drops its own."""
    pre_data: bytes
    post_data: bytes


class Dump(Protocol):
    """An open snapshot of a database, ready to be read."""

    source: Source
    """Without its access."""
    pg_dump_version: str
    tables: Sequence[Table]
    """Each table whose rows have to be in the data."""
    not_here: Contents
    """What of the database this server does not hold, as it will come back: empty."""
    inheritance: Inheritance
    jobs: int
    """How many streams may be read at once."""
    remarks: Sequence[str]
    """What people should know of how it is made, a sentence each."""

    def schema(self) -> Schema:
        """Read when it is first asked for; any thread may ask."""

    def access(self) -> tuple[Access, ...]:
        """The owners and rights of the snapshot, read when they are first asked for."""

    def globals(self, *, passwords: bool) -> bytes:
        """The roles and other globals of the server as they are now, as pg_dumpall writes them.

        They belong to no database, and so to no snapshot.
        """

    def data(self) -> Sequence[Stream]:
        """Begin to read the data: at most `jobs` streams, the largest first; to be asked once."""


def read_stream(stream: Stream, section: Section) -> Iterator[bytes]:
    """The SQL of a stream, piece by piece.

    Raises `PostgresFailed` where pg_dump ended well and has not closed its text, and the errors
    of the child.
    """
    tail = Tail()
    with stream() as reader:
        while chunk := reader.read(_CHUNK):
            tail.feed(chunk)
            yield chunk
    _require_closed(tail, "pg_dump", f"its {section} section")


def _require_closed(tail: Tail, program: str, what: str) -> None:
    if not tail.closed:
        raise PostgresFailed(
            f"{program} ended with 0, but {what} lacks the closing line",
            hint=f"Check that {program} is PostgreSQL's own and not a wrapper.",
        )


def in_memory(text: bytes) -> Stream:
    """A stream of what is known already."""
    return lambda: nullcontext(io.BytesIO(text))


class DumpSource(Protocol):
    """A database that can be dumped."""

    def open_dump(self) -> AbstractContextManager[Dump]:
        """Take a snapshot and hold it until the block is left."""


@dataclass(frozen=True)
class PostgresDumpSource:
    """A database on a PostgreSQL server, and where to look for pg_dump."""

    server: Server
    bin_dirs: Sequence[Path]
    lock_timeout: float = 300.0
    """Seconds to wait for somebody's lock on a table before giving up."""
    jobs: int = 1
    """How many pg_dumps are meant to read at once, where the server has connections for them."""

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
            _wait_for_turn(connection, self.lock_timeout)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            dump = PostgresDump(connection, clients, self.lock_timeout, self.jobs)
            with closing(dump):
                yield dump


def _wait_for_turn(connection: "Connection", timeout: float) -> None:
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
        self, connection: "Connection", clients: Clients, lock_timeout: float, jobs: int
    ) -> None:
        self._connection = connection
        self._clients = clients
        environment = environment_of(connection)
        self._env = {**environment, "PGOPTIONS": f"{environment['PGOPTIONS']} {_SAME_ROWS}"}
        self._patience = patience_with(connection)
        snapshot = value(connection, "SELECT pg_export_snapshot()")
        self.pg_dump_version = clients.version
        self.source = read_source(connection)
        encoding, room = self.source.encoding, lock_room(connection)
        # The schema is read at the same time.
        free = free_connections(connection) - 1
        self.jobs = max(1, min(jobs, free))
        self._relations = read_relations(connection, encoding)
        self.not_here = read_not_here(connection, encoding)
        remarks = [left_out(self.not_here)]
        if self.jobs > 1 and not room.fits(SIDE_BY_SIDE):
            self.jobs = 1
            remarks.append(f"one pg_dump after the other has read it: {room.shortage()}")
        self.remarks: Sequence[str] = [each for each in remarks if each]
        self._side_by_side = free > 0 and room.fits(SIDE_BY_SIDE)
        self._locked = room.fits(SIDE_BY_SIDE if self.jobs > 1 else ONE_AFTER_THE_OTHER)
        self._lock_timeout = lock_timeout
        if self._locked:
            tables = [*self._relations, *read_partitioned(connection, encoding)]
            lock_relations(connection, tables, encoding, lock_timeout)
        if self._side_by_side:
            self._lock_timeout = min(lock_timeout, _QUEUE_TIMEOUT)
        if self.jobs > 1:
            self._relations = with_sizes(connection, self._relations, encoding)
        self._conninfo = conninfo_of(connection)
        self._options = (
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={int(self._lock_timeout * 1000)}",
            "--no-password",
            f"--dbname={self._conninfo}",
            *_PLAIN,
        )
        without_rows = {(each.schema, each.table) for each in self.not_here.tables}
        self.tables: Sequence[Table] = sorted(self._relations.keys() - without_rows)
        self.inheritance = read_inheritance(connection, encoding)
        # Where nothing is locked the snapshot ends here before the rows are read.
        self._access = None if self._locked else read_access(connection)
        self._reading_schema = Lock()
        self._schema: Schema | None = None
        self._children = ExitStack()
        self._begun: list[ChildReader] = []

    def close(self) -> None:
        """End what has been begun and not been read to its end."""
        try:
            # All are told before the first one is waited for.
            for child in self._begun:
                child.end()
        finally:
            self._children.close()

    def schema(self) -> Schema:
        """One pg_dump reads the archive, and pg_restore writes the SQL from that, as pg_dump would.

        Reading the catalog of a database with many tables takes longer than anything else.
        """
        with self._reading_schema:
            if self._schema is None:
                self._schema = self._read_schema()
            return self._schema

    def access(self) -> tuple[Access, ...]:
        """Who owns what, and who may do what with it."""
        if self._access is None:
            self._access = read_access(self._connection)
        return self._access

    def globals(self, *, passwords: bool) -> bytes:
        """What pg_dumpall writes that is told to leave the databases alone.

        It takes a connection string for the name of the database that it connects to.
        Raises `ChildFailed` with a hint where passwords are wanted that the role may not read.
        """
        pg_dumpall = self._clients.tool("pg_dumpall")
        options = ["--globals-only", "--no-password", f"--database={self._conninfo}"]
        if not passwords:
            options.append("--no-role-passwords")
        if self.source.encoding != "UTF8":
            # A name has the bytes that a session of any database gave it, and keeps them so.
            options.append("--encoding=SQL_ASCII")
        env = {**self._env, "PGOPTIONS": f"{self._env['PGOPTIONS']} {_ENDLESS}"}
        with self._telling_who():
            script = output([pg_dumpall, *options], env, patience=self._patience)
        tail = Tail(CLOSING_LINE_OF_GLOBALS)
        tail.feed(script)
        _require_closed(tail, "pg_dumpall", "what it wrote")
        return script

    def data(self) -> Sequence[Stream]:
        """The groups of the plan, and everything that is in none of them.

        All pg_dumps begin at once, and wait for whoever reads them: each has to lock its tables
        for itself, and one that came later would wait behind a session that wants one of them
        exclusively, which waits for the coordinator until the dump has ended.
        """
        if not self._locked:
            return [self._unlocked]
        if not self._side_by_side:
            return [partial(self._read, part) for part in self._parts()]
        self._begun += map(self._children.enter_context, self._parts())
        return [partial(self._read, nullcontext(child)) for child in self._begun]

    def _parts(self) -> "Sequence[AbstractContextManager[ChildReader]]":
        """A pg_dump for each of the streams, the largest first."""
        groups = plan({table: each.size for table, each in self._relations.items()}, self.jobs)
        large = [table for group in groups for table in group]
        parts = [(self._size(group), self._group(group)) for group in groups]
        rest = [self._pattern("--exclude-table-data=", table) for table in large]
        # Large objects belong to the section of the data.
        parts.append((self._size({*self._relations} - {*large}), self._child(*_CLEAN, *rest)))
        parts.sort(key=lambda part: -part[0])
        return [part for _, part in parts]

    @contextmanager
    def _read(self, part: AbstractContextManager[ChildReader]) -> Iterator[Reader]:
        with self._telling_who(), part as child, taking(child):
            yield child

    @contextmanager
    def _telling_who(self) -> Iterator[None]:
        """Tell who has a table, or wants it, where a pg_dump waited for it in vain."""
        try:
            yield
        except ChildFailed as error:
            if advice := advice_on(error.message):
                raise ChildFailed(error.message, hint=advice) from error
            if not _WAITED_IN_VAIN.search(error.message):
                raise
            raise TableLocked(
                f"pg_dump has waited for a table of {self.source.database!r} for more than "
                f"{self._lock_timeout:g} s: {self._who(error)}",
                hint="Run it again." if self._side_by_side else None,
            ) from error

    def _who(self, error: ChildFailed) -> str:
        from psycopg import Error

        try:
            return exclusively_locked(self._connection, first="wanted")
        except Error:
            raise error from None

    @contextmanager
    def _unlocked(self) -> Iterator[Reader]:
        """Everything, by one pg_dump; of tables that nobody held until it has locked them itself.

        It has before it writes a byte, and has taken over the snapshot as well.
        """
        self.schema()
        with self._read(self._child(*_CLEAN)) as reader:
            yield _Checked(reader, self._require_unmoved)

    def _require_unmoved(self) -> None:
        """Look whether all tables are where they were in the snapshot.

        A snapshot shows a table as empty that was emptied or rewritten after it, and finds by name
        what was renamed.
        """
        self._connection.execute("COMMIT")
        now = read_relations(self._connection, self.source.encoding)
        for table, before in self._relations.items():
            there = now.get(table)
            if there is None or (there.oid, there.file) != (before.oid, before.file):
                raise PostgresFailed(
                    f"{'.'.join(table)} was dropped, renamed, emptied or rewritten before pg_dump "
                    "could lock it",
                    hint="Run it again, or raise max_locks_per_transaction: then all tables are "
                    "locked at the beginning.",
                )

    def _read_schema(self) -> Schema:
        sections = ("--section=pre-data", "--section=post-data")
        with self._telling_who():
            archive = output(
                self._pg_dump("--format=custom", *sections), self._env, patience=self._patience
            )
        post_data = self._script(archive, "--section=post-data")
        cleaning = self._script(archive, "--section=post-data", *_CLEAN)
        return Schema(
            archive=archive,
            drops=drops_of(cleaning, post_data),
            pre_data=self._script(archive, "--section=pre-data", *_CLEAN),
            post_data=post_data,
        )

    def _script(self, archive: bytes, *options: str) -> bytes:
        pg_restore = (self._clients.tool("pg_restore"), "--file=-", *_PLAIN)
        return output([*pg_restore, *options], child_environment({}), given=archive)

    def _group(self, group: Iterable[Table]) -> AbstractContextManager[ChildReader]:
        """A pg_dump of these tables' rows, and not of where their sequences stand."""
        return self._child(
            *(self._pattern("--table=", table) for table in group),
            *(
                self._pattern("--exclude-table-data=", sequence)
                for table in group
                for sequence in self._relations[table].sequences
            ),
        )

    def _size(self, tables: Iterable[Table]) -> int:
        return sum(self._relations[table].size for table in tables)

    def _pattern(self, option: str, name: Table) -> bytes:
        """Double quotes make a pattern literal (manual, psql, "Patterns")."""
        encoding = self.source.encoding
        return option.encode() + b".".join(quoted(encoded(part, encoding)) for part in name)

    def _child(self, *options: str | bytes) -> AbstractContextManager[ChildReader]:
        command = self._pg_dump("--section=data", *options)
        return begun(command, self._env, patience=self._patience)

    def _pg_dump(self, *options: str | bytes) -> list[str | bytes | Path]:
        return [self._clients.tool("pg_dump"), *self._options, *options]


class _Checked:
    """A reader whose first bytes are given only after a look at something."""

    def __init__(self, reader: Reader, look: Callable[[], None]) -> None:
        self._reader = reader
        self._look: Callable[[], None] | None = look

    def read(self, size: int, /) -> bytes:
        """As a reader; raises what the look raises."""
        data = self._reader.read(size)
        if self._look:
            look, self._look = self._look, None
            look()
        return data


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
