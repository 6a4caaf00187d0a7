"""What a run has materialized so far, as Dagster's event log has it."""

from collections.abc import Iterator
from typing import Any

import dagster as dg


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
