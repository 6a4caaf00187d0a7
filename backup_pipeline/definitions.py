"""Dagster's front door: `dagster dev` loads `defs`."""

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.resources import resources
from backup_pipeline.settings import load_settings

_database = Database(load_settings())

defs = database_definitions(_database, resources(_database))
