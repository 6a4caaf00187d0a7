"""Pins: a backup that somebody wants to keep, whatever retention says.

A pin is an object of its own beside the backup.
As an entry of the evidence it could be lost, because evidence is read, changed and written again.
"""

from collections.abc import Callable
from datetime import datetime

from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import Pin
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import InvalidInput, NotFound, ObjectMissing


def pin(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    reason: str,
    *,
    clock: Callable[[], datetime],
) -> Pin:
    """Keep a backup until it is unpinned; an empty reason is one, and a new one replaces the old.

    Raises `InvalidInput` for a reason that is no line of text, `NotFound` where there is no such
    backup or a prune deletes it at this moment, and `VerificationFailed` for a bad manifest.
    """
    if not reason.isprintable():
        raise InvalidInput(f"{reason!r} can't be a reason: it has to be one line of text")
    read_manifest(store, keys, name)
    wish = Pin(1, str(name), clock(), reason)
    store.put(keys.of(name, Kind.PIN), to_json(wish), overwrite=True)
    # Prune deletes a manifest and then looks for a pin; here it is the other way round, so that
    # of two at one time at least one sees what the other has done.
    if not _exists(store, keys.of(name, Kind.MANIFEST)):
        store.delete(keys.of(name, Kind.PIN))
        raise NotFound(
            f"{name} was not pinned: somebody deleted it at this moment",
            hint="`backup-pipeline list` shows whether it is there still.",
        )
    return wish


def unpin(store: ObjectStore, keys: Keys, name: BackupName) -> None:
    """Leave a backup to retention again; takes away a pin without a backup as well.

    Raises `NotFound` where there is neither.
    """
    if not is_pinned(store, keys, name) and not _exists(store, keys.of(name, Kind.MANIFEST)):
        raise NotFound(f"there is no backup {name} in {store.describe()}")
    store.delete(keys.of(name, Kind.PIN))


def is_pinned(store: ObjectStore, keys: Keys, name: BackupName) -> bool:
    """Whether there is a pin now, readable or not."""
    return _exists(store, keys.of(name, Kind.PIN))


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectMissing:
        return False
    return True
