"""The assets of a database: its dump, the proof that the dump is whole, and a pruned bucket.

From one asset to the next goes nothing but the name of a backup, so each step may run in another
process, on another machine, or days later.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from backup_pipeline.defs import metadata
from backup_pipeline.defs.failures import as_failure, failing_clearly
from backup_pipeline.defs.notifications import on_failure, on_success
from backup_pipeline.defs.resources import Bucket, Databases
from backup_pipeline.defs.runs import materialized_by
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import newest, read_catalog
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, StoreError, VerificationFailed
from backup_pipeline.settings import Settings

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


def key_prefix(database: str) -> str:
    """A database's name as the first step of its asset keys, and the name of their group and pool.

    Dagster takes letters, digits and `_` only; a name with anything else gets a hash of itself, so
    that no two databases share one.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", database)
    if plain == database:
        return plain
    return f"{plain}_{hashlib.sha256(database.encode()).hexdigest()[:8]}"


def database_assets(settings: Settings, clock: Clock = utc_now) -> list[dg.AssetsDefinition]:
    """The assets of the database that `settings` name, upstream first."""
    dump = _database_dump(settings, clock)
    verified = _verified_backup(settings, clock, dump.key)
    return [dump, verified, _pruned_bucket(settings, clock, dump.key, verified.key)]


def _database_dump(settings: Settings, clock: Clock) -> dg.AssetsDefinition:
    database, group = settings.database, key_prefix(settings.database)

    @dg.asset(
        key_prefix=group,
        group_name=group,
        pool=group,
        kinds={"postgres", "s3"},
        code_version="1",
        hooks={on_failure(database, "dump")},
        description=f"The newest dump of `{database}`: one gzip object in the bucket.",
    )
    def database_dump(
        context: dg.AssetExecutionContext,
        postgres: dg.ResourceParam[Databases],
        bucket: dg.ResourceParam[Bucket],
    ) -> dg.MaterializeResult[None]:
        with failing_clearly(context):
            name, keys = settings.name(clock()), bucket.backup_keys()
            context.log.info(f"backing up {database} as {name}")
            manifest = back_up(
                postgres.dump_source(database),
                bucket.store(),
                keys,
                name,
                compression_level=settings.compression_level,
                clock=clock,
            )
        uri = bucket.uri(keys.of(name, Kind.DUMP))
        return dg.MaterializeResult(metadata=metadata.of_dump(manifest, uri))

    return database_dump


def _verified_backup(settings: Settings, clock: Clock, dump: dg.AssetKey) -> dg.AssetsDefinition:
    database, group = settings.database, key_prefix(settings.database)

    @dg.asset(
        key_prefix=group,
        group_name=group,
        pool=group,
        deps=[dump],
        kinds={"s3"},
        code_version="1",
        hooks={on_failure(database, "verify")},
        description="Every stored byte of the dump read back and compared with what was dumped; "
        "run alone, of the newest backup in the bucket.",
    )
    def verified_backup(
        context: dg.AssetExecutionContext, bucket: dg.ResourceParam[Bucket]
    ) -> dg.MaterializeResult[None]:
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            made = materialized_by(context.instance, context.run.run_id, dump)
            name = (
                BackupName.parse(made[metadata.BACKUP])
                if made
                else _newest_in(store, keys, database, clock())
            )
            context.log.info(f"verifying {name}")
            entry = verify(store, keys, name, clock=clock)
            if not entry.passed:
                raise VerificationFailed(f"{name} is not whole: {'; '.join(entry.findings)}")
        uri = bucket.uri(keys.of(name, Kind.EVIDENCE))
        return dg.MaterializeResult(metadata=metadata.of_verification(str(name), entry, uri))

    return verified_backup


def _pruned_bucket(
    settings: Settings, clock: Clock, dump: dg.AssetKey, verified: dg.AssetKey
) -> dg.AssetsDefinition:
    database, group = settings.database, key_prefix(settings.database)

    @dg.asset(
        key_prefix=group,
        group_name=group,
        pool=group,
        deps=[verified],
        kinds={"s3"},
        code_version="1",
        hooks={
            on_failure(database, "prune"),
            on_success(database, dump, dg.AssetKey([group, "pruned_bucket"])),
        },
        description="The bucket after retention: expired backups deleted, and nothing at all "
        "while the newest one is not verified.",
    )
    def pruned_bucket(
        context: dg.AssetExecutionContext, bucket: dg.ResourceParam[Bucket]
    ) -> dg.MaterializeResult[None]:
        keys = bucket.backup_keys()
        with failing_clearly(context):
            result = prune(
                bucket.store(),
                keys,
                database,
                settings.policy(),
                now=clock(),
                stale_after=settings.stale_after,
            )
        told = metadata.of_prune(result, bucket.uri(keys.prefix))
        if result.failed:
            raise as_failure(
                StoreError(
                    f"{len(result.failed)} deletions failed: {'; '.join(result.failed)}",
                    hint="The backups themselves are safe; the next run tries again.",
                ),
                told,
            )
        return dg.MaterializeResult(metadata=told)

    return pruned_bucket


def _newest_in(store: ObjectStore, keys: Keys, database: str, now: datetime) -> BackupName:
    backup = newest(read_catalog(store, keys, database).backups, now)
    if backup is None:
        raise NotFound(
            f"there is no backup of {database} in {store.describe()}",
            hint="Materialize database_dump first.",
        )
    return backup.name
