"""Sync: one live database straight into another server, with nothing in between."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.contents import (
    differences,
    inventory_of,
    read_contents,
    together,
)
from backup_pipeline.engine.crew import Crew, taken_from
from backup_pipeline.engine.dump import Dump, DumpSource, PostgresDumpSource, read_stream
from backup_pipeline.engine.execute import events_of
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.load import Receiver, set_up
from backup_pipeline.engine.model import Contents, Progress, Report, Section, silent
from backup_pipeline.engine.post_data import fitting_clients, restore_post_data
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.script import CopyBegin, Statement
from backup_pipeline.engine.settle import analyse
from backup_pipeline.engine.source import free_connections
from backup_pipeline.engine.target import (
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
    without_event_triggers,
)
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a sync made."""

    database: str
    previous: str | None
    """The name under which the replaced database is kept."""
    tables: int
    rows: int
    seconds: float


def sync(
    source: DumpSource,
    server: Server,
    target: str,
    bin_dirs: Sequence[Path],
    *,
    replace: bool = False,
    disconnect: bool = False,
    wait: float = 0.0,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> SyncResult:
    """Make `target` on `server` what `source` holds in one snapshot, as a restore would make it.

    pg_dump writes while the target loads, and what is loaded is dumped again and compared, before
    it gets its name; whatever goes wrong, `target` is as it was.
    `bin_dirs` are where a pg_dump is that can read the target.

    Raises what a dump and a restore raise.
    """
    started_at = clock()
    with server.using(maintenance(target)).connect() as admin:
        require_free(admin, target, replace=replace, patient=disconnect or wait > 0)
        with source.open_dump() as dump:
            require_suitable(admin, dump.source)
            server = without_event_triggers(server, admin)
            remove_leftovers(server, admin)
            with new_database(server, admin, dump.source, target) as loading:
                copied = _load(dump, server.using(loading), bin_dirs, report)
                previous = switch(
                    server,
                    admin,
                    loading,
                    target,
                    kept_name(target, started_at),
                    replace=replace,
                    disconnect=disconnect,
                    wait=wait,
                )
    return SyncResult(
        database=target,
        previous=previous,
        tables=len(copied.tables),
        rows=sum(table.rows for table in copied.tables),
        seconds=(clock() - started_at).total_seconds(),
    )


def _load(dump: Dump, server: Server, bin_dirs: Sequence[Path], report: Report) -> Contents:
    """Load a dump into an empty database, compare and analyse it; gives what was loaded."""
    loading = _Loading(dump, server, bin_dirs)
    with server.connect() as connection, Crew() as crew:
        for step in (loading.pre_data, loading.data, loading.post_data):
            crew.start(partial(step, connection, crew))
            crew.wait(lambda: report(Progress("sync", loading.done.sum)))
    analyse(server, dump.jobs)
    expected = together(dump, loading.contents)
    with PostgresDumpSource(server, bin_dirs, jobs=dump.jobs).open_dump() as copy:
        found = read_contents(copy)
    if wrong := list(differences(expected, found)):
        raise VerificationFailed(
            f"the copy is not what the source holds: {'; '.join(wrong)}",
            hint="The target is as it was. A rule or trigger may change rows as they load.",
        )
    return expected


class _Loading:
    """A dump on its way into an empty database, each step by a thread of a crew."""

    def __init__(self, dump: Dump, server: Server, bin_dirs: Sequence[Path]) -> None:
        self._dump = dump
        self._bin_dirs = bin_dirs
        # Begun at once, so that no lock comes late.
        self._streams = deque(dump.data())
        self._receiver = Receiver(server, dump.source.encoding)
        self.done = self._receiver.done
        """Bytes of SQL that the server has taken."""
        self.contents: list[Contents] = []
        """What each stream held."""

    def pre_data(self, connection: "Connection", crew: Crew) -> None:
        """Make what tables need, and the tables."""
        set_up(connection)
        self._receiver.make_tables(connection, events_of([self._dump.schema().pre_data]), crew)

    def data(self, connection: "Connection", crew: Crew) -> None:
        """Load the streams, in this thread and in others of the crew."""
        jobs = min(self._dump.jobs, len(self._streams), free_connections(connection))
        for _ in range(jobs - 1):
            crew.start(lambda: self._load_beside(crew))
        self._load(connection, crew)

    def post_data(self, connection: "Connection", crew: Crew) -> None:
        """Make indexes, keys and all that comes behind the rows."""
        schema, jobs = self._dump.schema(), min(self._dump.jobs, free_connections(connection))
        server_version = connection.info.server_version
        clients = fitting_clients(self._bin_dirs, self._dump.pg_dump_version, server_version)
        if jobs > 1 and clients:
            text, alike = schema.post_data, _alike(connection, jobs)
            if restore_post_data(connection, schema.archive, clients, text, jobs, alike=alike):
                return
        self._receiver.take(connection, events_of([schema.post_data]), crew)

    def _load_beside(self, crew: Crew) -> None:
        with self._receiver.connected() as connection:
            self._load(connection, crew)

    def _load(self, connection: "Connection", crew: Crew) -> None:
        with crew.stopping(connection.cancel):
            for stream in taken_from(self._streams):
                inventory = inventory_of(self._dump)
                chunks = _taken_down(read_stream(stream, Section.DATA), inventory)
                # A table is in one stream, and what depends on something stands behind it.
                events = events_of(chunks)
                for event in events:
                    if isinstance(event, CopyBegin):
                        self._receiver.take_rows(connection, event, events, crew, all_of_them=True)
                    elif isinstance(event, Statement):
                        self._receiver.take_statement(connection, event)
                inventory.close()
                self.contents.append(inventory.contents())


def _alike(connection: "Connection", jobs: int) -> bool:
    """Whether no table, as it was loaded, is larger than the share of one job."""
    row = connection.execute(_SIZES).fetchone()
    assert row is not None
    largest, all_of_them = row
    return bool(largest * jobs <= all_of_them)


_SIZES = """
    SELECT coalesce(max(size), 0), coalesce(sum(size), 0)
    FROM (SELECT pg_table_size(oid) FROM pg_class WHERE relkind = 'r' AND oid >= 16384) AS t(size)
"""


def _taken_down(chunks: Iterable[bytes], inventory: Inventory) -> Iterator[bytes]:
    for chunk in chunks:
        inventory.feed(chunk)
        yield chunk
