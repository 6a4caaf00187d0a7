"""Sync: one live database straight into another server, with nothing in between."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.engine.contents import differences, read_contents, together
from backup_pipeline.engine.dump import Dump, DumpSource, PostgresDumpSource, read_stream
from backup_pipeline.engine.execute import events_of, execute
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import Contents, Progress, Report, Section, silent
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.target import (
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
)
from backup_pipeline.errors import VerificationFailed


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
            remove_leftovers(admin)
            with new_database(admin, dump.source, target) as loading:
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
    schema, done = dump.schema(), 0
    pieces: list[Contents] = []
    with server.connect() as connection:
        connection.prepare_threshold = None
        connection.execute("SET synchronous_commit = off")

        def run(chunks: Iterable[bytes]) -> None:
            nonlocal done
            sent = 0
            for sent in execute(connection, events_of(chunks)):
                report(Progress("sync", done + sent))
            done += sent

        run([schema.pre_data])
        for stream in dump.data():
            inventory = Inventory(dump.source.encoding, digests=True)
            run(_taken_down(read_stream(stream, Section.DATA), inventory))
            inventory.close()
            pieces.append(inventory.contents())
        run([schema.post_data])
        connection.execute("ANALYZE")
    expected = together(dump, pieces)
    with PostgresDumpSource(server, bin_dirs, jobs=dump.jobs).open_dump() as copy:
        found = read_contents(copy)
    if wrong := list(differences(expected, found)):
        raise VerificationFailed(
            f"the copy is not what the source holds: {'; '.join(wrong)}",
            hint="The target is as it was. A rule or trigger may change rows as they load.",
        )
    return expected


def _taken_down(chunks: Iterable[bytes], inventory: Inventory) -> Iterator[bytes]:
    for chunk in chunks:
        inventory.feed(chunk)
        yield chunk
