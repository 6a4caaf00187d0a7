"""The assets of a database: its dump, the proof that the dump is whole, and a pruned bucket.

From one asset to the next goes nothing but the name of a backup, so each step may run in another
process, on another machine, or days later.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from backup_pipeline.defs import metadata
from backup_pipeline.defs.checks import (
    is_recent,
    judge_proof,
    judge_verification,
    proof_checks,
    verification_checks,
)
from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import as_failure, deletions_failed, failing_clearly
from backup_pipeline.defs.runs import LATEST, backup_of_run, chosen_backup
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.names import Kind
from backup_pipeline.engine.notify import Heartbeat
from backup_pipeline.engine.postgres import outdated
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import VerificationFailed


def database_assets(database: Database) -> list[dg.AssetsDefinition]:
    """What is made of a database, upstream first."""
    return [
        _database_dump(database),
        _verified_backup(database),
        _restore_proof(database),
        _pruned_bucket(database),
    ]


def source_database(database: Database) -> dg.AssetSpec:
    """The live database, where lineage starts; whoever writes to it is not known here."""
    return dg.AssetSpec(
        database.source,
        group_name=database.group,
        owners=database.settings.owners,
        tags=database.tags,
        kinds={"postgres"},
        description=f"The live database `{database.name}`, which others write to.",
    )


def _asset(
    database: Database, key: dg.AssetKey, *resources: str, **own: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what all assets of a database have in common."""

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        made = dg.asset(
            key=key,
            group_name=database.group,
            pool=own.pop("pool", database.group),
            owners=database.settings.owners,
            tags=database.tags,
            code_version="2",
            required_resource_keys=database.needs(*resources),
            **own,
        )(compute)
        assert isinstance(made, dg.AssetsDefinition)
        return made

    return decorate


def _database_dump(database: Database) -> dg.AssetsDefinition:
    settings, clock = database.settings, database.clock

    @_asset(
        database,
        database.dump,
        "postgres",
        "bucket",
        deps=[database.source],
        kinds={"postgres", "s3"},
        description=f"The newest dump of `{database.name}`: one object in the bucket that "
        f"{'`age -d`, ' if settings.recipients else ''}`{settings.codec} -d` and `psql` restore, "
        "and its manifest.",
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
                codec=settings.codec,
                compression_level=settings.compression_level,
                digests=settings.digests,
                recipients=settings.public_keys(),
                globals_=settings.globals,
                rate=settings.rate(),
                clock=clock,
            )
        if wrong := outdated(manifest.pg_dump_version, settings.minimums):
            context.log.warning(wrong)
        for remark in manifest.remarks:
            context.log.warning(remark)
        uri = bucket.uri(keys.of(name, manifest.kind))
        return dg.MaterializeResult(metadata=metadata.of_dump(manifest, uri))

    return database_dump


def _verified_backup(database: Database) -> dg.AssetsDefinition:
    @_asset(
        database,
        database.verified,
        "bucket",
        "notifier",
        deps=[database.dump],
        kinds={"s3"},
        check_specs=verification_checks(database),
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=database.settings.freshness_hours)
        ),
        description="Every stored byte of the dump read back and compared with what was dumped; "
        "run alone, of the newest backup in the bucket.",
    )
    def verified_backup(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        bucket = database.bucket(context)
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            name = backup_of_run(database, context, store, keys)
            context.log.info(f"verifying {name}")
            entry = verify(
                store,
                keys,
                name,
                jobs=database.settings.jobs,
                identities=database.settings.identities(),
                clock=database.clock,
            )
            manifest = read_manifest(store, keys, name)
            yield from judge_verification(database, manifest, entry)
            if not entry.passed:
                raise VerificationFailed(f"{name} is not whole: {'; '.join(entry.findings)}")
        if is_recent(database, manifest, entry):
            heartbeat = str(database.notifier(context).beat())
            if heartbeat == Heartbeat.FAILED:
                context.log.warning("the backup is good, but its heartbeat was not delivered")
        else:
            heartbeat = "not sent for an old backup"
        uri = bucket.uri(keys.of(name, Kind.EVIDENCE))
        told = metadata.of_verification(manifest, entry, uri, heartbeat)
        yield dg.MaterializeResult(metadata=told)

    return verified_backup


class DrillConfig(dg.Config):
    """Which backup is restored for a trial."""

    backup: str = Field(
        default=LATEST,
        description="`latest`; the name of a backup, such as ahold_options_2025-12-16_230000; or "
        "a time, such as 2025-12-10T12:00, for the newest backup taken by then.",
    )


def _restore_proof(database: Database) -> dg.AssetsDefinition:
    settings = database.settings

    @_asset(
        database,
        database.proof,
        "postgres",
        "bucket",
        pool=f"{database.group}_drill",
        deps=[database.verified],
        kinds={"postgres", "s3"},
        check_specs=proof_checks(database),
        description="A backup restored into a scratch database and compared with the dumped "
        "snapshot, row by row; the scratch database is dropped again.",
    )
    def restore_proof(
        context: dg.AssetExecutionContext, config: DrillConfig
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        from backup_pipeline.engine.drill import drill

        bucket, postgres = database.bucket(context), database.postgres(context)
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            name = chosen_backup(database, context, store, keys, config.backup).name
            server = postgres.drill_server(database.name)
            context.log.info(f"restoring {name} into a scratch database on {server.describe()}")
            result = drill(
                store,
                keys,
                name,
                server,
                postgres.bin_dirs(),
                invariants=settings.invariants,
                jobs=settings.jobs,
                identities=settings.identities(),
                clock=database.clock,
            )
            yield from judge_proof(database, name, result)
            if not result.entry.passed:
                raise VerificationFailed(
                    f"{name} is not what was dumped: {'; '.join(result.entry.findings)}"
                )
        uri = bucket.uri(keys.of(name, Kind.EVIDENCE))
        yield dg.MaterializeResult(metadata=metadata.of_drill(name, result, uri))

    return restore_proof


def _pruned_bucket(database: Database) -> dg.AssetsDefinition:
    @_asset(
        database,
        database.pruned,
        "bucket",
        deps=[database.verified],
        kinds={"s3"},
        description="The bucket after retention: expired backups deleted, and nothing at all "
        "while the newest one is not verified.",
    )
    def pruned_bucket(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        bucket, now = database.bucket(context), database.clock()
        keys = bucket.backup_keys()
        with failing_clearly(context):
            result = prune(
                bucket.store(),
                keys,
                database.name,
                database.settings.policy(),
                now=now,
                stale_after=database.settings.stale_after,
            )
        told = metadata.of_prune(result, bucket.uri(keys.prefix), now)
        if result.failed:
            raise as_failure(deletions_failed(result.failed), told)
        return dg.MaterializeResult(metadata=told)

    return pruned_bucket
