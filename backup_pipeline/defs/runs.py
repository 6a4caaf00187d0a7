"""Which backup a run is about: made by itself, as the event log has it, or named by its config."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import Step
from backup_pipeline.defs.metadata import BACKUP
from backup_pipeline.engine.choice import backup_at, named_backup, newest_backup, parse_moment
from backup_pipeline.engine.model import Backup
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import InvalidInput

LATEST = "latest"
"""What a config says for the newest backup."""


def backup_of_run(database: Database, context: Step, store: ObjectStore, keys: Keys) -> BackupName:
    """The backup that this run made; the newest one in the bucket, where it made none.

    Raises `NotFound`, and the errors of the store.
    """
    made = materialized_by(context.instance, context.run.run_id, database.dump)
    if made:
        return BackupName.parse(made[BACKUP])
    return newest_backup(store, keys, database.name, database.clock()).name


def chosen_backup(
    database: Database, context: Step, store: ObjectStore, keys: Keys, which: str
) -> Backup:
    """The backup that a config means; raises `NotFound` and `InvalidInput`.

    What might have been chosen, if it could be read, is a warning in the log.
    """
    now, told = database.clock(), context.log.warning
    if which == LATEST:
        return newest_backup(store, keys, database.name, now, told)
    if moment := _moment(database, which):
        return backup_at(store, keys, database.name, moment, now, told)
    return named_backup(store, keys, BackupName.parse(which))


def _moment(database: Database, text: str) -> datetime | None:
    try:
        return parse_moment(text, database.settings.zone)
    except InvalidInput:
        return None


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
