"""Sensors: tell people what became of a run, or that no backup came; start one when asked.

Dagster keeps the cursors, so each event is told once, also after the daemon was down.
A message that can't be delivered shows in the sensor's tick, and harms nothing else.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import BaseModel, TypeAdapter, ValidationError

from backup_pipeline.defs.database import Database, HasResources
from backup_pipeline.defs.metadata import TAKEN_AT
from backup_pipeline.defs.outcomes import outcome_of
from backup_pipeline.engine.notify import Outcome

if TYPE_CHECKING:
    import logging

    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

_ENDS = {
    "tell_success": dg.DagsterRunStatus.SUCCESS,
    "tell_failure": dg.DagsterRunStatus.FAILURE,
    "tell_cancellation": dg.DagsterRunStatus.CANCELED,
}
_WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
]
# The last verification may be of an older backup than the one before.
_LATELY = 10


def database_sensors(
    database: Database, backup_job: "UnresolvedAssetJobDefinition"
) -> Sequence[dg.SensorDefinition]:
    """The sensors of a database."""
    sensors: list[dg.SensorDefinition] = [
        _tell_end(database, name, status) for name, status in _ENDS.items()
    ]
    sensors.append(_tell_staleness(database))
    if database.settings.after_assets:
        sensors.append(_backup_after_assets(database, backup_job))
    return sensors


def _tell_end(
    database: Database, name: str, status: dg.DagsterRunStatus
) -> dg.RunStatusSensorDefinition:
    def tell(context: dg.RunStatusSensorContext) -> None:
        outcome = outcome_of(database, context.instance, context.dagster_run)
        if outcome:
            _tell(database, context, context.log, outcome)

    return dg.RunStatusSensorDefinition(
        name=database.own(name),
        run_status=status,
        run_status_sensor_fn=tell,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys=database.needs("notifier"),
        description=f"Tells people of each {status.value.lower()} among the runs of "
        f"{database.name}, failed checks included.",
    )


class Watch(BaseModel, frozen=True):
    """What the staleness sensor remembers."""

    since: datetime
    """When it began to watch."""
    stale: bool = False
    """Whether people know that the backup is stale."""


def _tell_staleness(database: Database) -> dg.SensorDefinition:
    hours = database.settings.freshness_hours

    @dg.sensor(
        name=database.own("tell_staleness"),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys=database.needs("notifier"),
        description=f"Tells people once when the newest verified backup of {database.name} is "
        f"older than {hours:g} hours, or none ever was, and once when one is fresh again.",
    )
    def tell_staleness(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now = database.clock()
        watch = _watch(context.cursor, now)
        state = _freshness(context.instance, database.verified)
        taken = _newest_verified(context.instance, database.verified)
        if taken:
            stale = now - taken > timedelta(hours=hours)
        else:
            stale = state == "FAIL" or (
                state == "UNKNOWN" and now - watch.since > timedelta(hours=hours)
            )
        context.update_cursor(watch.model_copy(update={"stale": stale}).model_dump_json())
        said = [f"The newest verified backup is {'stale' if stale else 'fresh'}."]
        if stale != watch.stale:
            never = state == "UNKNOWN" and not taken
            outcome = _staleness(database, stale=stale, never=never)
            try:
                _tell(database, context, context.log, outcome)
            except dg.Failure as failure:
                # Dagster forgets the cursor of such a tick if it fails, and the next one would
                # tell those again who have taken the message.
                said.append(f"{failure.description}.")
        return dg.SkipReason(" ".join(said))

    return tell_staleness


def _watch(cursor: str | None, now: datetime) -> Watch:
    try:
        return Watch.model_validate_json(cursor or "")
    except ValidationError:
        return Watch(since=now)


def _freshness(instance: dg.DagsterInstance, asset: dg.AssetKey) -> str:
    """What the daemon says of the declared freshness; `UNKNOWN` where it was never materialized."""
    record = instance.get_freshness_state_records([asset]).get(asset)
    return record.freshness_state.value if record else "UNKNOWN"


def _newest_verified(instance: dg.DagsterInstance, asset: dg.AssetKey) -> datetime | None:
    """When the newest of the backups that were verified lately was taken.

    Dagster's own freshness counts from the last verification, and so an old backup that somebody
    verifies again would keep it quiet.
    """
    records = instance.fetch_materializations(asset, limit=_LATELY).records
    made = [record.asset_materialization for record in records]
    taken = [each.metadata.get(TAKEN_AT) for each in made if each]
    moments = [each.value for each in taken if isinstance(each, dg.TimestampMetadataValue)]
    return datetime.fromtimestamp(max(moments), UTC) if moments else None


def _staleness(database: Database, *, stale: bool, never: bool) -> Outcome:
    hours = database.settings.freshness_hours
    lines: tuple[str, ...]
    if not stale:
        title = f"Backup of {database.name} is fresh again"
        lines = (f"A backup of the last {hours:g} hours is verified.",)
    elif never:
        title = f"Backup of {database.name} was NEVER made"
        lines = (
            f"No backup was verified in the {hours:g} hours since this was watched.",
            "Is the schedule running, and does the job succeed?",
        )
    else:
        title = f"Backup of {database.name} is STALE"
        lines = (
            f"The newest verified backup is older than {hours:g} hours.",
            "Look at the last runs of the backup job, and at the schedule.",
        )
    return Outcome("freshness", database.name, succeeded=not stale, title=title, lines=lines)


def _backup_after_assets(
    database: Database, job: "UnresolvedAssetJobDefinition"
) -> dg.SensorDefinition:
    awaited = database.settings.after_assets

    @dg.sensor(
        name=database.own("backup_after_assets"),
        job=job,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Makes a backup after materializations of {', '.join(awaited)}.",
    )
    def backup_after_assets(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        seen = _seen(context.cursor)
        latest = {key: _latest_materialization(context.instance, key) for key in awaited}
        # What was there before this sensor was, or before it waited for a key, is no reason for a
        # backup.
        new = [key for key in awaited if latest[key] > seen.get(key, latest[key])]
        if new and _is_waiting(context.instance, job.name):
            # The cursor stays: they count once that backup has begun.
            return dg.SkipReason("A backup that has not begun yet will hold them.")
        context.update_cursor(json.dumps(latest))
        if not new:
            return dg.SkipReason("None of them was materialized.")
        return dg.RunRequest(
            run_key="_".join(str(latest[key]) for key in new),
            tags={"backup_pipeline/after": ",".join(new)[:200]},
        )

    return backup_after_assets


def _seen(cursor: str | None) -> dict[str, int]:
    return TypeAdapter(dict[str, int]).validate_json(cursor) if cursor else {}


def _is_waiting(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of a job has not begun; a backfill would else queue one at each tick."""
    return instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=_WAITING)) > 0


def _latest_materialization(instance: dg.DagsterInstance, key: str) -> int:
    """Where in the event log it is; 0 where there is none."""
    found = instance.fetch_materializations(dg.AssetKey.from_user_string(key), limit=1).records
    return found[0].storage_id if found else 0


def _tell(
    database: Database, context: HasResources, log: "logging.Logger", outcome: Outcome
) -> None:
    log.info("\n".join((outcome.title, *outcome.lines)))
    undelivered = database.notifier(context).send(outcome)
    if undelivered:
        raise dg.Failure(
            f"{outcome.title!r} was not delivered to {', '.join(undelivered)}",
            metadata={"undelivered": len(undelivered)},
        )
