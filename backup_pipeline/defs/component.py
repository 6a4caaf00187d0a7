"""All of this in somebody else's Dagster project, from a few lines of YAML for each database."""

import dagster as dg
from pydantic import Field

from backup_pipeline.defs.database import Database, key_prefix
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.resources import resources
from backup_pipeline.settings import load_settings


class DatabaseBackupComponent(dg.Component, dg.Model, dg.Resolvable):
    """Backups of one PostgreSQL database that prove themselves.

    What is not given here comes from the environment (`BACKUP_*`, `PG*`, `AWS_*`).
    """

    database: str = Field(description="The database that is backed up.")
    dsn_variable: str | None = Field(
        default=None,
        description="The environment variable that holds libpq's connection string, because a "
        "password has no place in YAML; without it BACKUP_DSN and libpq's own variables decide.",
    )
    bucket: str | None = Field(default=None, description="The bucket.")
    prefix: str | None = Field(default=None, description="What every key begins with.")
    s3_endpoint_url: str | None = Field(default=None, description="Where the bucket is.")
    schedule: str | None = Field(default=None, description="When, as cron has it.")
    timezone: str | None = Field(default=None, description="Of schedule, names and retention.")
    retention_days: int | None = Field(default=None, description="Everything younger is kept.")
    retention_minimum: int | None = Field(
        default=None, description="So many verified backups are kept, however old."
    )
    retention_daily: int | None = Field(
        default=None, description="Of so many days the newest verified backup is kept."
    )
    retention_weekly: int | None = Field(default=None, description="The same for weeks.")
    retention_monthly: int | None = Field(default=None, description="The same for months.")
    retention_yearly: int | None = Field(default=None, description="The same for years.")
    freshness_hours: float | None = Field(
        default=None, description="A verified backup older than this is stale."
    )
    recipients: list[str] | None = Field(
        default=None, description="Public keys of age: backups are encrypted for them."
    )
    globals: str | None = Field(
        default=None,
        description="Whether backups have the server's roles and other globals: none, "
        "without-passwords or with-passwords.",
    )
    owners: list[str] | None = Field(default=None, description="Of the assets.")
    after_assets: list[str] | None = Field(
        default=None, description="Keys of assets after which a backup is made."
    )
    suffix: str | None = Field(
        default=None,
        description="Ends the names of jobs, schedules, sensors and resources; without it, an "
        "underscore and the database's name.",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the database; raises `InvalidInput` for what can't be used."""
        del context  # nothing depends on where the YAML lies
        given = self.model_dump(exclude={"dsn_variable", "suffix"}, exclude_none=True)
        suffix = f"_{key_prefix(self.database)}" if self.suffix is None else self.suffix
        database = Database(load_settings(**given), suffix)
        return database_definitions(database, resources(database, self.dsn_variable))
