"""What a run has materialized so far, as Dagster's event log has it."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import Step
from backup_pipeline.defs.metadata import BACKUP
from backup_pipeline.engine.choice import newest_backup
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.store import ObjectStore


def backup_of_run(database: Database, context: Step, store: ObjectStore, keys: Keys) -> BackupName:
    """The backup that this run made; the newest one in the bucket, where it made none.

    Raises `NotFound`, and the errors of the store.
    """
    made = materialized_by(context.instance, context.run.run_id, database.dump)
    if made:
        return BackupName.parse(made[BACKUP])
    return newest_backup(store, keys, database.name, database.clock()).name


def materialized_by(
    instance: dg.DagsterInstance, run_id: str, asset: dg.AssetKey
) -> dict[str, Any] | None:
    """The metadata, as plain values, of an asset that this run or one it re-executes made.

    The nearest run and its last materialization win; `None` where there is none.
    """
    for nearest in _with_ancestors(instance, run_id):
        records = instance.get_records_for_run(
            nearest, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, ascending=False
        ).records
        for record in records:
            made = record.event_log_entry.asset_materialization
            if made and made.asset_key == asset:
                return {name: value.value for name, value in made.metadata.items()}
    return None


def _with_ancestors(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    nearest: str | None = run_id
    while nearest:
        yield nearest
        run = instance.get_run_by_id(nearest)
        nearest = run.parent_run_id if run else None
