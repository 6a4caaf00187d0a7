"""The assets of a database: its dump, the proof that the dump is whole, and a pruned bucket.

From one asset to the next goes nothing but the name of a backup, so each step may run in another
process, on another machine, or days later.
"""

import dagster as dg

from backup_pipeline.defs import metadata
from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import as_failure, failing_clearly
from backup_pipeline.defs.notifications import on_failure, on_success
from backup_pipeline.defs.runs import materialized_by
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import newest, read_catalog
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, StoreError, VerificationFailed


def database_assets(database: Database) -> list[dg.AssetsDefinition]:
    """What is made of a database, upstream first."""
    return [_database_dump(database), _verified_backup(database), _pruned_bucket(database)]


def source_database(database: Database) -> dg.AssetSpec:
    """The live database, where lineage starts; whoever writes to it is not known here."""
    return dg.AssetSpec(
        database.source,
        group_name=database.group,
        kinds={"postgres"},
        description=f"The live database `{database.name}`.",
    )


def _database_dump(database: Database) -> dg.AssetsDefinition:
    settings, clock = database.settings, database.clock

    @dg.asset(
        key=database.dump,
        group_name=database.group,
        pool=database.group,
        deps=[database.source],
        kinds={"postgres", "s3"},
        code_version="1",
        required_resource_keys=database.needs("postgres", "bucket"),
        hooks={on_failure(database, "dump")},
        description=f"The newest dump of `{database.name}`: one gzip object in the bucket.",
    )
    def database_dump(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        bucket = database.bucket(context)
        with failing_clearly(context):
            name, keys = settings.name(clock()), bucket.backup_keys()
            context.log.info(f"backing up {database.name} as {name}")
            manifest = back_up(
                database.postgres(context).dump_source(database.name),
                bucket.store(),
                keys,
                name,
                compression_level=settings.compression_level,
                clock=clock,
            )
        uri = bucket.uri(keys.of(name, Kind.DUMP))
        return dg.MaterializeResult(metadata=metadata.of_dump(manifest, uri))

    return database_dump


def _verified_backup(database: Database) -> dg.AssetsDefinition:
    @dg.asset(
        key=database.verified,
        group_name=database.group,
        pool=database.group,
        deps=[database.dump],
        kinds={"s3"},
        code_version="1",
        required_resource_keys=database.needs("bucket"),
        hooks={on_failure(database, "verify")},
        description="Every stored byte of the dump read back and compared with what was dumped; "
        "run alone, of the newest backup in the bucket.",
    )
    def verified_backup(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        bucket = database.bucket(context)
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            made = materialized_by(context.instance, context.run.run_id, database.dump)
            name = (
                BackupName.parse(made[metadata.BACKUP])
                if made
                else _newest_in(store, keys, database)
            )
            context.log.info(f"verifying {name}")
            entry = verify(store, keys, name, clock=database.clock)
            if not entry.passed:
                raise VerificationFailed(f"{name} is not whole: {'; '.join(entry.findings)}")
        uri = bucket.uri(keys.of(name, Kind.EVIDENCE))
        return dg.MaterializeResult(metadata=metadata.of_verification(str(name), entry, uri))

    return verified_backup


def _pruned_bucket(database: Database) -> dg.AssetsDefinition:
    @dg.asset(
        key=database.pruned,
        group_name=database.group,
        pool=database.group,
        deps=[database.verified],
        kinds={"s3"},
        code_version="1",
        required_resource_keys=database.needs("bucket"),
        hooks={on_failure(database, "prune"), on_success(database)},
        description="The bucket after retention: expired backups deleted, and nothing at all "
        "while the newest one is not verified.",
    )
    def pruned_bucket(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        bucket = database.bucket(context)
        keys = bucket.backup_keys()
        with failing_clearly(context):
            result = prune(
                bucket.store(),
                keys,
                database.name,
                database.settings.policy(),
                now=database.clock(),
                stale_after=database.settings.stale_after,
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


def _newest_in(store: ObjectStore, keys: Keys, database: Database) -> BackupName:
    backup = newest(read_catalog(store, keys, database.name).backups, database.clock())
    if backup is None:
        raise NotFound(
            f"there is no backup of {database.name} in {store.describe()}",
            hint="Materialize database_dump first.",
        )
    return backup.name
