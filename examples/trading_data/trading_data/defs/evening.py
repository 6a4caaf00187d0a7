"""What this project does each evening, and a migration that wants a backup first."""

import dagster as dg

from backup_pipeline import require_fresh_backup


@dg.asset(key=["orders", "evening_load"])
def evening_load() -> None:
    """The last write of the day to the database of orders; a backup follows by itself."""


@dg.asset(key=["orders", "migration"])
def migration() -> None:
    """Goes on only if a verified backup is younger than six hours."""
    require_fresh_backup(hours=6, database="orders")
