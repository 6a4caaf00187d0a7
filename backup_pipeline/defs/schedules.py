"""When the jobs run by themselves."""

from typing import TYPE_CHECKING

import dagster as dg

from backup_pipeline.settings import Settings

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )


def backup_schedule(
    settings: Settings, job: "UnresolvedAssetJobDefinition"
) -> dg.ScheduleDefinition:
    """The job at the configured time of the configured zone, running as soon as it is loaded."""
    return dg.ScheduleDefinition(
        name="daily_backup",
        job=job,
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Daily, after the day's data pipelines, unless BACKUP_SCHEDULE says otherwise.",
    )
