"""When the jobs run by themselves."""

from typing import TYPE_CHECKING

import dagster as dg

from backup_pipeline.defs.database import Database

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )


def drill_schedules(
    database: Database, job: "UnresolvedAssetJobDefinition"
) -> list[dg.ScheduleDefinition]:
    """The drill at its own time, unless it is switched off."""
    if database.settings.drill_schedule == "off":
        return []
    return [
        dg.ScheduleDefinition(
            name=database.own("weekly_drill"),
            job=job,
            cron_schedule=database.settings.drill_schedule,
            execution_timezone=database.settings.timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Weekly, when it is quiet, unless BACKUP_DRILL_SCHEDULE says otherwise.",
        )
    ]


def backup_schedule(
    database: Database, job: "UnresolvedAssetJobDefinition"
) -> dg.ScheduleDefinition:
    """The job at the configured time of the configured zone, running as soon as it is loaded."""
    return dg.ScheduleDefinition(
        name=database.own("daily_backup"),
        job=job,
        cron_schedule=database.settings.schedule,
        execution_timezone=database.settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Daily, after the day's data pipelines, unless BACKUP_SCHEDULE says otherwise.",
    )
