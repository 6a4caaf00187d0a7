"""Everything that Dagster shows and runs for one database, out of its settings."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from backup_pipeline.defs.assets import database_assets, source_database
from backup_pipeline.defs.checks import database_checks
from backup_pipeline.defs.database import Database
from backup_pipeline.defs.jobs import backup_job, drill_job, prune_job, restore_job, verify_job
from backup_pipeline.defs.schedules import backup_schedule, drill_schedules
from backup_pipeline.defs.sensors import database_sensors


def database_definitions(database: Database, resources: Mapping[str, Any]) -> dg.Definitions:
    """The assets of a database with their checks, and the jobs, schedules and sensors they need.

    `resources` are called as `Database.own` says: `postgres`, `bucket` and `notifier`, each with
    the suffix.
    """
    job, drill = backup_job(database), drill_job(database)
    return dg.Definitions(
        assets=[source_database(database), *database_assets(database)],
        asset_checks=database_checks(database),
        jobs=[job, drill, restore_job(database), verify_job(database), prune_job(database)],
        schedules=[backup_schedule(database, job), *drill_schedules(database, drill)],
        sensors=database_sensors(database, job),
        resources=resources,
    )
