"""Require a fresh backup before something that could need one, such as a migration."""

from datetime import UTC, datetime, timedelta

from backup_pipeline.errors import BackupTooOld
from backup_pipeline.settings import load_settings


def require_fresh_backup(hours: float, database: str | None = None) -> str:
    """Go on only if a verified backup was taken less than so many hours ago; gives its name.

    For the first line of an asset, an op or a script; server and bucket are those of the
    settings, and so is the database if none is given.
    Raises `BackupTooOld` (exit code 3), and the errors of the store.
    """
    from backup_pipeline.engine.catalog import read_catalog
    from backup_pipeline.engine.model import State
    from backup_pipeline.engine.retention import dated_in_future

    settings = load_settings(database=database)
    now = datetime.now(UTC)
    catalog = read_catalog(settings.store(), settings.keys(), settings.database)
    for backup in catalog.backups:
        age = now - backup.taken_at
        fresh = age < timedelta(hours=hours) and not dated_in_future(backup, now)
        if backup.state is State.VERIFIED and fresh:
            return str(backup.name)
    raise BackupTooOld(
        f"{settings.database} has no verified backup that is younger than {hours:g} hours"
    )
