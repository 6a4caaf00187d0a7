"""A PostgreSQL in memory, as far as a backup sees one: canned SQL in pg_dump's own form."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.engine.dump import Dump, DumpSource, Schema, Stream
from backup_pipeline.engine.inheritance import Inheritance
from backup_pipeline.engine.model import Access, Contents, Section, Source
from backup_pipeline.engine.plan import Table
from backup_pipeline.engine.postgres import Server

_OPENING = b"--\n-- PostgreSQL database dump\n--\n\n"
_CLOSING = b"--\n-- PostgreSQL database dump complete\n--\n\n"
_SQL = {
    Section.DROPS: b"DROP INDEX IF EXISTS public.trades_at;\n",
    Section.PRE_DATA: b"CREATE TABLE public.trades (id integer, price numeric);\n",
    Section.DATA: b"COPY public.trades (id, price) FROM stdin;\n1\t2.50\n2\t2.75\n3\t2.60\n\\.\n\n",
    Section.POST_DATA: b"CREATE INDEX trades_at ON public.trades (id);\n",
}
ROWS = 3
_GLOBALS = b"""--
-- PostgreSQL database cluster dump
--

CREATE ROLE trader;
ALTER ROLE trader WITH LOGIN%b;

--
-- PostgreSQL database cluster dump complete
--

"""
TABLES: tuple[Table, ...] = (("public", "trades"),)


def section_sql(section: Section) -> bytes:
    """A section as pg_dump writes it, from the opening line to the closing one."""
    return _OPENING + _SQL[section] + _CLOSING


def globals_sql(*, passwords: bool) -> bytes:
    """What pg_dumpall writes of a server with one role."""
    return _GLOBALS % (b" PASSWORD 'SCRAM-SHA-256$4096:salt$stored:server'" if passwords else b"")


@dataclass
class FakeDump:
    """An open snapshot of the canned database."""

    source: Source
    fail: Callable[[Section], None]
    jobs: int = 1
    pg_dump_version: str = "18.7"
    tables: Sequence[Table] = field(default_factory=lambda: TABLES)
    not_here: Contents = field(default_factory=lambda: Contents((), (), None))
    inheritance: Inheritance = field(default_factory=Inheritance)
    remarks: Sequence[str] = ()

    def access(self) -> tuple[Access, ...]:
        return ()

    def globals(self, *, passwords: bool) -> bytes:
        return globals_sql(passwords=passwords)

    def schema(self) -> Schema:
        """The canned sections; `fail` is asked before each."""
        for section in (Section.DROPS, Section.PRE_DATA, Section.POST_DATA):
            self.fail(section)
        return Schema(
            archive=b"PGDMP",  # nobody but pg_restore reads it
            drops=section_sql(Section.DROPS),
            pre_data=section_sql(Section.PRE_DATA),
            post_data=section_sql(Section.POST_DATA),
        )

    def data(self) -> Sequence[Stream]:
        """One stream; `fail` is asked in the middle of it."""
        return [lambda: nullcontext(_FailingReader(Section.DATA, self.fail))]


class _FailingReader:
    """Gives half of a section, asks whether to fail, and gives the rest."""

    def __init__(self, section: Section, fail: Callable[[Section], None]) -> None:
        self._text = section_sql(section)
        self._reader = io.BytesIO(self._text)
        self._section = section
        self._fail = fail

    def read(self, size: int, /) -> bytes:
        if self._reader.tell():
            self._fail(self._section)
        return self._reader.read(min(size, len(self._text) // 2 + 1))


@dataclass
class FakePostgres:
    """A server that can be dumped; `fail` may raise in the middle of any section."""

    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    fail: Callable[[Section], None] = field(default=lambda _: None)
    jobs: int = 1
    dumps: int = 0
    """How many dumps were begun."""

    def dump_source(self, database: str) -> DumpSource:
        """The canned database under any name."""
        return _FakeSource(self, database)

    def server(self, database: str) -> Server:
        """There is none to connect to: port 9 of this machine discards."""
        return Server.of("host=127.0.0.1 port=9 connect_timeout=1").using(database)

    def drill_server(self, database: str) -> Server:
        """Nor is there one for drills."""
        return self.server(database)

    def bin_dirs(self) -> Sequence[Path]:
        """No tools either."""
        return ()


@dataclass(frozen=True)
class _FakeSource:
    server: FakePostgres
    database: str

    @contextmanager
    def open_dump(self) -> Iterator[Dump]:
        self.server.dumps += 1
        source = Source(
            database=self.database,
            database_size=8_000_000,
            server_version="18.1",
            server_version_num=180001,
            encoding="UTF8",
            locale_provider="libc",
            collate="C.UTF-8",
            ctype="C.UTF-8",
            locale=None,
            extensions=(),
            snapshot_at=self.server.clock(),
            snapshot_lsn="0/15D68F8",
        )
        yield FakeDump(source, self.server.fail, self.server.jobs)
