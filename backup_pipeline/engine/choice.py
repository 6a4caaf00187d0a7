"""Which backup was meant, and what a database restored from it is called."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from backup_pipeline.engine.catalog import doubtful, newest, read_backup, read_catalog, taken_by
from backup_pipeline.engine.model import Backup, Catalog
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.retention import may_be_newer
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import InvalidInput, NotFound

Told = Callable[[str], object]
"""Hears of what might have been chosen, if it could be read."""

_NAME_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1."""


def named_backup(store: ObjectStore, keys: Keys, name: BackupName) -> Backup:
    """The backup of a name; raises `NotFound`, and `VerificationFailed` for a bad manifest."""
    return read_backup(store, keys, name)


def newest_backup(
    store: ObjectStore, keys: Keys, database: str, now: datetime, told: Told = lambda _: None
) -> Backup:
    """The newest backup of a database; raises `NotFound`."""
    catalog = read_catalog(store, keys, database)
    backup = newest(catalog.backups, now)
    _tell_of_newer(keys, catalog, backup, None, told)
    if backup is None:
        raise NotFound(
            f"there is no backup of {database} in {store.describe()}",
            hint="`backup-pipeline backup` makes one, and so does the asset database_dump.",
        )
    return backup


def backup_at(
    store: ObjectStore,
    keys: Keys,
    database: str,
    moment: datetime,
    now: datetime,
    told: Told = lambda _: None,
) -> Backup:
    """The newest backup taken at or before a moment; raises `NotFound`."""
    catalog = read_catalog(store, keys, database)
    # A backup dated in the future is found by its name only.
    backup = taken_by(catalog.backups, min(moment, now))
    _tell_of_newer(keys, catalog, backup, moment, told)
    return backup


def _tell_of_newer(
    keys: Keys, catalog: Catalog, backup: Backup | None, until: datetime | None, told: Told
) -> None:
    for stray in may_be_newer(backup, doubtful(keys, catalog.strays)):
        in_time = until is None or stray.modified_at <= until
        if in_time and stray.key.endswith(Kind.MANIFEST):
            told(f"{stray.key} may be a newer backup, and can't be read: {stray.reason}")


def parse_moment(text: str, zone: ZoneInfo) -> datetime:
    """A time in ISO 8601; without an offset it is of the zone.  Raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} is no time", hint="Write it like 2025-12-10T12:00 or 2025-12-10T11:00Z."
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def new_database(name: BackupName) -> str:
    """A database named like a backup, without what needs quotes, and not too long."""
    stamp = f"_{name.label:%Y_%m_%d_%H%M%S}"
    room = _NAME_BYTES - len(stamp)
    return name.database.encode()[:room].decode(errors="ignore") + stamp


def database_name(text: str) -> str:
    """The name of a database as PostgreSQL takes it; raises `InvalidInput`."""
    if "\0" in text or not 0 < len(text.encode()) <= _NAME_BYTES:
        raise InvalidInput(f"{text!r} can't be the name of a database: it needs 1 to 63 bytes")
    return text
