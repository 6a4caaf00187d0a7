"""Sync: one live database straight into another server, with nothing in between."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.engine.contents import differences, read_contents
from backup_pipeline.engine.dump import Dump, DumpSource, DumpStream, agreed
from backup_pipeline.engine.execute import events_of, execute
from backup_pipeline.engine.model import Progress, Report, Section, TableRows, silent
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.script import Inventory, Tail
from backup_pipeline.engine.target import (
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
)
from backup_pipeline.errors import PostgresFailed, VerificationFailed

_CHUNK = 1 << 20


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
    *,
    replace: bool = False,
    disconnect: bool = False,
    wait: float = 0.0,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> SyncResult:
    """Make `target` on `server` what `source` holds in one snapshot, as a restore would make it.

    pg_dump writes while the target loads, and what is loaded is compared with the snapshot before
    it gets its name; whatever goes wrong, `target` is as it was.

    Raises what a dump and a restore raise.
    """
    started_at = clock()
    with server.using(maintenance(target)).connect() as admin:
        require_free(admin, target, replace=replace, patient=disconnect or wait > 0)
        with source.open_dump() as dump:
            require_suitable(admin, dump.source)
            remove_leftovers(admin)
            with new_database(admin, dump.source, target) as loading:
                tables = _load(dump, server.using(loading), report)
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
        tables=len(tables),
        rows=sum(table.rows for table in tables),
        seconds=(clock() - started_at).total_seconds(),
    )


def _load(dump: Dump, server: Server, report: Report) -> tuple[TableRows, ...]:
    """Load a dump into an empty database, compare and analyse it; gives what was loaded."""
    inventory = Inventory(dump.source.encoding)
    with server.connect() as connection, dump.reading_contents() as contents:
        connection.prepare_threshold = None
        connection.execute("SET synchronous_commit = off")
        done = 0
        for stream in dump.streams():
            if stream.section is not Section.DROPS:
                for sent in execute(connection, events_of(_read(stream, inventory))):
                    report(Progress("sync", done + sent))
                done += sent
        inventory.close()
        tables = inventory.take_tables()
        expected = agreed(dump, tables, inventory.sequences, contents())
        found = read_contents(connection, dump.source.encoding)
        if wrong := list(differences(expected, found)):
            raise VerificationFailed(
                f"the copy is not what the source holds: {'; '.join(wrong)}",
                hint="The target is as it was. A rule or trigger may change rows as they load.",
            )
        connection.execute("ANALYZE")
    return tables


def _read(stream: DumpStream, inventory: Inventory) -> Iterator[bytes]:
    tail = Tail()
    with stream.open() as reader:
        while chunk := reader.read(_CHUNK):
            tail.feed(chunk)
            if stream.section is Section.DATA:
                inventory.feed(chunk)
            yield chunk
    if not tail.closed:
        raise PostgresFailed(
            f"pg_dump ended with 0, but its {stream.section} section lacks the closing line"
        )
