"""The jobs: what is launched as one run."""

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from backup_pipeline.defs import metadata
from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import Step, as_failure, deletions_failed, failing_clearly
from backup_pipeline.defs.runs import LATEST, chosen_backup
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.choice import database_name, new_database
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotConfirmed, NotFound, VerificationFailed

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    from backup_pipeline.engine.model import EvidenceEntry

JOB = "database_backup_pipeline"
RESTORE = "restore_database"
VERIFY = "verify_backups"
PRUNE = "prune_backups"
DRILL = "restore_drill"
ALL = "all"

# Steps that follow each other gain nothing from a process each; the launchpad can still choose
# `multiprocess` instead.  The executor is named because a project that sets one of its own could
# not be loaded: its executor would be offered a config that only this one knows.
_IN_PROCESS: dict[str, Any] = {
    "config": {"execution": {"config": {"in_process": {}}}},
    "executor_def": dg.multi_or_in_process_executor,
}


def backup_job(database: Database) -> "UnresolvedAssetJobDefinition":
    """`database_backup_pipeline`: dump, verify and prune, with every check."""
    return dg.define_asset_job(
        database.own(JOB),
        selection=[database.dump, database.verified, database.pruned],
        **_IN_PROCESS,
        tags=database.tags,
        description="Back the database up, prove that the backup is whole, delete what has "
        "expired, and tell what came of it.",
    )


def drill_job(database: Database) -> "UnresolvedAssetJobDefinition":
    """`restore_drill`: prove that a backup restores, in a database that nobody uses."""
    return dg.define_asset_job(
        database.own(DRILL),
        selection=[database.proof],
        **_IN_PROCESS,
        tags=database.tags,
        description="Restore the newest backup, or the one that `backup` names, into a scratch "
        "database, compare it with what was dumped, and drop it.",
    )


class RestoreConfig(dg.Config):
    """Which backup is brought back, and under what name."""

    backup: str = Field(
        default=LATEST,
        description="`latest`; the name of a backup, such as ahold_options_2025-12-16_230000; or "
        "a time, such as 2025-12-10T12:00, for the newest backup taken by then (without an "
        "offset it is a time of BACKUP_TIMEZONE).",
    )
    target: str = Field(
        default="",
        description="The database to restore into. Empty: a new one that is named like the "
        "backup. The live database is touched only when `confirm` says so.",
    )
    confirm: str = Field(
        default="",
        description="To replace a database that exists, repeat its name here. It is swapped in "
        "one transaction once the copy is loaded and compared, and the old one is kept under "
        "another name.",
    )
    disconnect: bool = Field(
        default=False,
        description="With `confirm`: end the sessions of those who are connected to the old "
        "database. Without it the restore refuses while anybody is.",
    )
    wait_seconds: float = Field(
        default=0,
        ge=0,
        description="With `confirm`: for how long those who are connected may leave by themselves "
        "once the copy is loaded, before they are disconnected or the restore refuses.",
    )


def restore_job(database: Database) -> dg.JobDefinition:
    """`restore_database`: bring a backup back, as a new database unless told otherwise."""

    @dg.op(
        name=database.own("restored_database"),
        pool=f"{database.group}_restore",
        required_resource_keys=database.needs("postgres", "bucket"),
        description="Refuses before anything is touched, loads into a database of another name, "
        "compares the rows, and only then gives it its name.",
        out=dg.Out(dg.Nothing, description="The database is in the PostgreSQL server."),
    )
    def restored_database(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        from backup_pipeline.engine.restore import database_exists, restore

        bucket = database.bucket(context)
        with failing_clearly(context):
            store, keys = bucket.store(in_haste=True), bucket.backup_keys()
            backup = chosen_backup(database, context, store, keys, config.backup)
            target = database_name(config.target or new_database(backup.name))
            postgres = database.postgres(context)
            server = postgres.server(database.name)
            replace = _confirmed(config, target, exists=database_exists(server, target))
            context.log.info(f"restoring {backup.name} into {server.using(target).describe()}")
            result = restore(
                store,
                keys,
                backup.name,
                server,
                target,
                replace=replace,
                disconnect=config.disconnect and replace,
                wait=config.wait_seconds,
                bin_dirs=postgres.bin_dirs(),
                jobs=database.settings.jobs,
                identities=database.settings.identities(),
                clock=database.clock,
            )
        context.add_output_metadata(metadata.of_restore(backup, result))

    @dg.job(
        name=database.own(RESTORE),
        tags=database.tags,
        description="Bring a backup back: as a new database beside the live one, or in its place "
        "once you repeat its name.",
    )
    def restore_database() -> None:
        restored_database()

    return restore_database


class VerifyConfig(dg.Config):
    """Which backups are read back."""

    backup: str = Field(
        default=ALL,
        description="`all`, `latest`, or the name of a backup.",
    )


def verify_job(database: Database) -> dg.JobDefinition:
    """`verify_backups`: read backups back once more."""

    @dg.op(
        name=database.own("verified_backups"),
        pool=f"{database.group}_verify",
        required_resource_keys=database.needs("bucket"),
        description="Every byte of each backup is read back; what is found becomes evidence.",
        out=dg.Out(dg.Nothing),
    )
    def verified_backups(context: dg.OpExecutionContext, config: VerifyConfig) -> None:
        bucket = database.bucket(context)
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            reading = partial(
                verify,
                store,
                keys,
                jobs=database.settings.jobs,
                identities=database.settings.identities(),
                clock=database.clock,
            )
            entries: dict[str, EvidenceEntry] = {}
            unreadable: dict[str, str] = {}
            for name in _names(database, context, store, keys, config.backup):
                try:
                    entries[str(name)] = reading(name)
                except VerificationFailed as error:
                    unreadable[str(name)] = error.message
                except NotFound:
                    if config.backup != ALL:
                        raise
                    context.log.info(f"{name} was pruned meanwhile")
        told = metadata.of_verifications(entries, unreadable)
        failed = [*(name for name, entry in entries.items() if not entry.passed), *unreadable]
        if failed:
            count = len(entries) + len(unreadable)
            raise as_failure(
                VerificationFailed(
                    f"{len(failed)} of {count} backups are not whole: {', '.join(failed)}"
                ),
                told,
            )
        context.add_output_metadata(told)

    @dg.job(
        name=database.own(VERIFY),
        tags=database.tags,
        description="Prove again, byte by byte, that backups are whole.",
    )
    def verify_backups() -> None:
        verified_backups()

    return verify_backups


def _names(
    database: Database, context: Step, store: ObjectStore, keys: Keys, which: str
) -> list[BackupName]:
    if which != ALL:
        return [chosen_backup(database, context, store, keys, which).name]
    catalog = read_catalog(store, keys, database.name)
    # A backup whose manifest can't be read is in no catalog, and fails all the same.
    parsed = [keys.parse(stray.key) for stray in catalog.strays]
    unreadable = [each[0] for each in parsed if each and each[1] is Kind.MANIFEST]
    return [*(backup.name for backup in catalog.backups), *unreadable]


class PruneConfig(dg.Config):
    """What is deleted, if anything."""

    dry_run: bool = Field(
        default=True,
        description="Only show what would be deleted, and why. Switch it off to delete.",
    )
    retention_days: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Keep everything younger than this; without it BACKUP_RETENTION_DAYS.",
    )


def prune_job(database: Database) -> dg.JobDefinition:
    """`prune_backups`: apply retention now, or show what it would do."""

    @dg.op(
        name=database.own("pruned_backups"),
        pool=database.group,
        required_resource_keys=database.needs("bucket"),
        description="Nothing is deleted while the newest backup is not verified.",
        out=dg.Out(dg.Nothing),
    )
    def pruned_backups(context: dg.OpExecutionContext, config: PruneConfig) -> None:
        bucket, now = database.bucket(context), database.clock()
        keys = bucket.backup_keys()
        with failing_clearly(context):
            result = prune(
                bucket.store(),
                keys,
                database.name,
                database.settings.policy(config.retention_days),
                now=now,
                dry_run=config.dry_run,
                stale_after=database.settings.stale_after,
            )
        told = metadata.of_prune(result, bucket.uri(keys.prefix), now)
        if result.failed:
            raise as_failure(deletions_failed(result.failed), told)
        context.add_output_metadata(told)

    @dg.job(
        name=database.own(PRUNE),
        tags=database.tags,
        description="Apply retention outside of the daily run; by default only show what it "
        "would do.",
    )
    def prune_backups() -> None:
        pruned_backups()

    return prune_backups


def _confirmed(config: RestoreConfig, target: str, *, exists: bool) -> bool:
    """Whether an existing database is replaced; raises `NotConfirmed`."""
    if exists and config.confirm != target:
        raise NotConfirmed(
            f"there is a database {target!r} already",
            hint=f"To replace it, set `confirm` to {target!r}; or name another `target`.",
        )
    if not exists and config.confirm and config.confirm != target:
        raise NotConfirmed(
            f"`confirm` is {config.confirm!r}, but the restore goes into {target!r}",
            hint="Set `target` to the database that you mean.",
        )
    return exists
