"""Dagster's front door: `dagster dev` loads `defs`."""

import dagster as dg

from backup_pipeline.defs.assets import database_assets
from backup_pipeline.defs.jobs import backup_job
from backup_pipeline.defs.resources import resources
from backup_pipeline.defs.schedules import backup_schedule
from backup_pipeline.settings import load_settings

_settings = load_settings()
_assets = database_assets(_settings)
_job = backup_job(_assets)

defs = dg.Definitions(
    assets=_assets,
    jobs=[_job],
    schedules=[backup_schedule(_settings, _job)],
    resources=resources(_settings),
)
