"""Which backup was meant, and what a database restored from it is called."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from backup_pipeline.engine.catalog import newest, read_backup, read_catalog, taken_by
from backup_pipeline.engine.model import Backup
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import InvalidInput, NotFound

_NAME_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1."""


def named_backup(store: ObjectStore, keys: Keys, name: BackupName) -> Backup:
    """The backup of a name; raises `NotFound`, and `VerificationFailed` for a bad manifest."""
    return read_backup(store, keys, name)


def newest_backup(store: ObjectStore, keys: Keys, database: str, now: datetime) -> Backup:
    """The newest backup of a database; raises `NotFound`."""
    backup = newest(read_catalog(store, keys, database).backups, now)
    if backup is None:
        raise NotFound(
            f"there is no backup of {database} in {store.describe()}",
            hint="`backup-pipeline backup` makes one, and so does the asset database_dump.",
        )
    return backup


def backup_at(
    store: ObjectStore, keys: Keys, database: str, moment: datetime, now: datetime
) -> Backup:
    """The newest backup taken at or before a moment; raises `NotFound`."""
    # A backup dated in the future is found by its name only.
    return taken_by(read_catalog(store, keys, database).backups, min(moment, now))


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
