"""Restore: bring a backup back under a name, and swap it in for the live database when asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.access import missing, read_access
from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.crew import Crew
from backup_pipeline.engine.load import Loading
from backup_pipeline.engine.model import (
    Access,
    Progress,
    Report,
    Section,
    Source,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.post_data import fitting_clients, restore_post_data
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.settle import analyse, require_rows
from backup_pipeline.engine.source import free_connections
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.target import (
    exists,
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
    without_event_triggers,
)
from backup_pipeline.engine.verify import require_whole

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow


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
    missing: tuple[Access, ...] = ()
    """Owners and rights that the source had, and that a dump leaves out."""

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
    bin_dirs: Sequence[Path] = (),
    jobs: int = 2,
    identities: Sequence[Identity] = (),
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
    Up to `jobs` connections load side by side, and so are indexes and keys made, where `bin_dirs`
    have a pg_restore that fits both the backup and the server.
    What a restore that was killed outright left on the server is removed by the next one.

    Raises `NotFound`, `NoIdentity`, `VerificationFailed`, `TargetExists`, `TargetInUse`,
    `TargetUnsuitable`, `PostgresUnreachable`, `PostgresFailed`, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    backup = StoredBackup(store, keys, manifest, identities)
    backup.require_identity()
    with server.using(maintenance(target)).connect() as admin:
        require_free(admin, target, replace=replace, patient=disconnect or wait > 0)
        require_suitable(admin, manifest.source)
        require_whole(backup, jobs, report, inflating=False, globals_too=False)
        verified_at = clock()
        server = without_event_triggers(server, admin)
        remove_leftovers(server, admin)
        with new_database(server, admin, manifest.source, target) as loading:
            load(
                server.using(loading),
                backup,
                bin_dirs=bin_dirs,
                jobs=within_limits(admin, jobs),
                report=report,
            )
            lost = _missing(server.using(loading), manifest.source)
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
        size=manifest.length,
        verify_seconds=(verified_at - started_at).total_seconds(),
        load_seconds=(loaded_at - verified_at).total_seconds(),
        switch_seconds=(clock() - loaded_at).total_seconds(),
        missing=lost,
    )


def _missing(server: Server, source: Source) -> tuple[Access, ...]:
    """The owners and rights of the source that are not those of the loaded database."""
    if not source.access:
        return ()
    with server.connect() as connection:
        return missing(source.access, read_access(connection))


def load(
    server: Server,
    backup: StoredBackup,
    *,
    bin_dirs: Sequence[Path] = (),
    jobs: int = 1,
    report: Report = silent,
) -> None:
    """Load a backup into the empty database of `server`, compare its rows, and analyse it.

    The drops are left out: there is nothing to drop.
    Raises `PostgresFailed` at the first statement that the server refuses.
    """
    manifest = backup.manifest
    members = [member for member in manifest.members if member.section is not Section.DROPS]
    total = sum(member.raw_length for member in members)
    with server.connect() as connection, Crew() as crew:
        loading = Loading(connection, server, backup, jobs)

        def post_data(crew: Crew) -> None:
            clients = None
            if manifest.schema_archive and jobs > 1:
                version = connection.info.server_version
                clients = fitting_clients(bin_dirs, manifest.pg_dump_version, version)
            if clients:
                archive, text = backup.archive(), loading.post_data_text(crew)
                if restore_post_data(connection, archive, clients, text, jobs, alike=loading.alike):
                    return
            loading.post_data(crew)

        def carry_out(step: Callable[[Crew], None]) -> None:
            crew.start(partial(step, crew))
            crew.wait(lambda: report(Progress("restore", loading.done.sum, total)))

        for step in (loading.pre_data, loading.data, loading.rest_of_data):
            carry_out(step)
        encoding = manifest.source.encoding
        require_rows(connection, server, manifest.contents.tables, encoding, jobs)
        carry_out(post_data)
    analyse(server, jobs)


def database_exists(server: Server, database: str) -> bool:
    """Whether the server has a database of that name; raises `PostgresUnreachable`."""
    with server.using(maintenance(database)).connect() as admin:
        return exists(admin, database)


def within_limits(admin: "psycopg.Connection[TupleRow]", jobs: int) -> int:
    """As many jobs as the server has connections for beside one more, but at least one."""
    return max(1, min(jobs, free_connections(admin) - 1))
