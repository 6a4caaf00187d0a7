"""Restore: bring a backup back under a name, and swap it in for the live database when asked."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.execute import events_of_member, execute
from backup_pipeline.engine.model import Manifest, Progress, Report, Section, TableContents, silent
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.script import encoded, quoted
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.engine.target import (
    exists,
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
)
from backup_pipeline.engine.verify import read_members, require_whole
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_LOADED = (Section.PRE_DATA, Section.DATA, Section.POST_DATA)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore made."""

    database: str
    previous: str | None
    """The name under which the replaced database is kept."""
    tables: int
    rows: int
    size: int
    verify_seconds: float
    load_seconds: float
    switch_seconds: float

    @property
    def seconds(self) -> float:
        """From the first byte to a database in place."""
        return self.verify_seconds + self.load_seconds + self.switch_seconds


def restore(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    server: Server,
    target: str,
    *,
    replace: bool = False,
    disconnect: bool = False,
    wait: float = 0,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> RestoreResult:
    """Restore a backup as the database `target` of `server`.

    Everything that can be known is settled before the server is touched: the bytes of the backup,
    and that the server can hold it.
    Then it is loaded into a database of another name, its rows are compared with the manifest,
    and only then it is renamed to `target`.
    With `replace` a database that has the name already is renamed in the same transaction and
    kept.
    Sessions on it refuse that at once, unless they may go by themselves for `wait` seconds of the
    switch; with `disconnect` those that are left then are ended.
    Whatever goes wrong, an interruption included, `target` is as it was.
    What a restore that was killed outright left on the server is removed by the next one.

    Raises `NotFound`, `VerificationFailed`, `TargetExists`, `TargetInUse`, `TargetUnsuitable`,
    `PostgresUnreachable`, `PostgresFailed`, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    with server.using(maintenance(target)).connect() as admin:
        require_free(admin, target, replace=replace, patient=disconnect or wait > 0)
        require_suitable(admin, manifest.source)
        stored = require_whole(store, keys, manifest, 2, report)
        verified_at = clock()
        remove_leftovers(admin)
        with new_database(admin, manifest.source, target) as loading:
            load(server.using(loading), store, stored, manifest, report)
            loaded_at = clock()
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
    return RestoreResult(
        database=target,
        previous=previous,
        tables=len(manifest.tables),
        rows=manifest.rows,
        size=stored.size,
        verify_seconds=(verified_at - started_at).total_seconds(),
        load_seconds=(loaded_at - verified_at).total_seconds(),
        switch_seconds=(clock() - loaded_at).total_seconds(),
    )


def load(
    server: Server,
    store: ObjectStore,
    stored: ObjectInfo,
    manifest: Manifest,
    report: Report = silent,
) -> None:
    """Load a backup into the empty database of `server`, compare its rows, and analyse it.

    The drops are left out: there is nothing to drop.
    Raises `PostgresFailed` at the first statement that the server refuses.
    """
    members = [member for member in manifest.members if member.section in _LOADED]
    total, done = sum(member.raw_length for member in members), 0
    with server.connect() as connection:
        connection.prepare_threshold = None
        # The switch commits synchronously, and with it everything that was written before.
        connection.execute("SET synchronous_commit = off")
        for member, chunks in read_members(store, stored, manifest, members):
            events = events_of_member(member, chunks, manifest.source.encoding)
            for event_end in execute(connection, events):
                report(Progress("restore", done + event_end, total))
            done += member.raw_length
        _require_rows(connection, manifest)
        connection.execute("ANALYZE")


def database_exists(server: Server, database: str) -> bool:
    """Whether the server has a database of that name; raises `PostgresUnreachable`."""
    with server.using(maintenance(database)).connect() as admin:
        return exists(admin, database)


def _require_rows(connection: "psycopg.Connection[TupleRow]", manifest: Manifest) -> None:
    for table in manifest.contents.tables:
        counted = _count(connection, table, manifest.source.encoding)
        if counted != table.rows:
            raise VerificationFailed(
                f"{table.schema}.{table.table} has {counted} rows where {table.rows} were dumped",
                hint="The target is as it was. A rule or trigger may change rows as they load.",
            )


def _count(connection: "psycopg.Connection[TupleRow]", table: TableContents, encoding: str) -> int:
    name = b".".join(quoted(encoded(part, encoding)) for part in (table.schema, table.table))
    row = connection.execute(b"SELECT count(*) FROM ONLY " + name).fetchone()
    assert row is not None
    return int(row[0])
