"""Prune: carry out retention, and clear away what unfinished runs left behind."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from backup_pipeline.engine.catalog import doubtful, record, survey
from backup_pipeline.engine.index import Entry, read_index, write_index
from backup_pipeline.engine.model import (
    Act,
    Backup,
    EvidenceEntry,
    KeepDecision,
    PruneResult,
    RetentionPolicy,
    Stray,
)
from backup_pipeline.engine.names import (
    ARCHIVES,
    DUMPS,
    GLOBALS,
    PLAIN_DUMPS,
    BackupName,
    Keys,
    Kind,
)
from backup_pipeline.engine.pins import is_pinned
from backup_pipeline.engine.retention import decide, refusal
from backup_pipeline.engine.store import ObjectStore, UploadInfo
from backup_pipeline.errors import NewestNotVerified, ObjectMissing, StoreError

STALE_AFTER = timedelta(hours=24)


def prune(
    store: ObjectStore,
    keys: Keys,
    database: str,
    policy: RetentionPolicy,
    *,
    now: datetime,
    dry_run: bool = False,
    stale_after: timedelta = STALE_AFTER,
) -> PruneResult:
    """Delete a database's expired backups, what was cut short, and stale uploads.

    An upload is stale when nothing has arrived for `stale_after`, and so is what a backup has left
    that was killed before its manifest; a dump that could still be adopted stays as long as any
    backup does.
    What can't be deleted is named in `failed`, and the next prune tries again.
    A backup that is pinned while this runs is kept like one that was pinned before.
    A dry run changes nothing and tells what a real one would do; where that would refuse, every
    decision is to keep, and the reason is the refusal's.

    Raises `NewestNotVerified` while the newest backup has no evidence, and the errors of the
    store when the bucket can't be read.
    """
    surveyed = survey(store, keys, database)
    catalog = surveyed.catalog
    reason = refusal(catalog.backups, now, doubtful(keys, catalog.strays))
    if reason and not dry_run:
        raise NewestNotVerified(f"nothing of {database} was deleted: {reason}")
    decisions = decide(policy, catalog.backups, now)
    if reason:
        decisions = tuple(replace(decision, keep=True, reason=reason) for decision in decisions)
    deletions = _Deletions(store, keys, now, dry_run=dry_run)
    if not reason:
        decisions = tuple(map(deletions.carry_out, decisions))
        over = timedelta(days=policy.days)
        _delete_leftovers(deletions, catalog.strays, stale_after, max(stale_after, over))
        deletions.abort_uploads(database, now - stale_after)
    if not dry_run:
        deletions.update_index(surveyed.index)
    gone = {stray.key for stray in deletions.cleared}
    return PruneResult(
        decisions=decisions,
        dry_run=dry_run,
        deleted=tuple(deletions.deleted),
        failed=tuple(deletions.failed),
        reclaimed=deletions.reclaimed,
        aborted_uploads=tuple(deletions.aborted),
        cleared=tuple(deletions.cleared),
        strays=tuple(stray for stray in catalog.strays if stray.key not in gone),
    )


def _delete_leftovers(
    deletions: "_Deletions", strays: Iterable[Stray], stale_after: timedelta, over_after: timedelta
) -> None:
    """Delete what was cut short; an adoptable dump only after `over_after`."""
    left_over: dict[BackupName, dict[Kind, Stray]] = defaultdict(dict)
    for stray in strays:
        parsed = deletions.keys.parse(stray.key)
        if parsed and (stray.deletable or stray.unfinished):
            left_over[parsed[0]][parsed[1]] = stray
    for name, objects in left_over.items():
        # The archive last, because it tells whose the others are.
        kinds = [kind for kind in (*DUMPS, *GLOBALS, *ARCHIVES) if kind in objects]
        adoptable = objects.keys() & {*PLAIN_DUMPS}
        # Nothing of them may be of a backup that is still being made.
        youngest = max(stray.modified_at for stray in objects.values())
        old = youngest < deletions.now - (over_after if adoptable else stale_after)
        if old or any(stray.deletable for stray in objects.values()):
            deletions.clear(name, kinds, objects.values())


@dataclass
class _Deletions:
    """What was deleted so far, or in a dry run would be."""

    store: ObjectStore
    keys: Keys
    now: datetime
    dry_run: bool
    deleted: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    cleared: list[Stray] = field(default_factory=list)
    reclaimed: int = 0

    def carry_out(self, decision: KeepDecision) -> KeepDecision:
        """Delete what has expired; gives another decision where it was pinned meanwhile."""
        if decision.keep:
            return decision
        backup = decision.backup
        try:
            if not self.dry_run and not self._withdraw(backup, decision.reason):
                return replace(decision, keep=True, reason="pinned meanwhile")
        except StoreError as error:
            self.failed.append(f"{backup.name} was not deleted: {error.message}")
            return decision
        self.delete(backup.name, backup.kinds, backup.size)
        return decision

    def _withdraw(self, backup: Backup, reason: str) -> bool:
        """Delete a manifest, and with it the backup; false where a pin stands in the way."""
        name = backup.name
        if is_pinned(self.store, self.keys, name):
            return False
        self._record_expiry(backup, reason)
        key = self.keys.of(name, Kind.MANIFEST)
        try:
            manifest = b"".join(self.store.read(key))
        except ObjectMissing:
            manifest = b""  # another prune was here
        self.store.delete(key)
        # Who pins looks for the manifest after the pin is there, so one of us sees the other.
        pinned = is_pinned(self.store, self.keys, name)
        if pinned and manifest:
            self.store.put(key, manifest, overwrite=True)
        return not pinned

    def clear(self, name: BackupName, kinds: Iterable[Kind], strays: Collection[Stray]) -> None:
        """Delete what a deletion or a backup has left that was cut short.

        What was adopted since the bucket was listed is a backup, and stays.
        """
        try:
            self.store.head(self.keys.of(name, Kind.MANIFEST))
        except ObjectMissing:
            pass
        except StoreError as error:
            self.failed.append(f"{name} was not looked at: {error.message}")
            return
        else:
            return
        if self.delete(name, kinds, sum(stray.size for stray in strays)):
            self.cleared += strays

    def delete(self, name: BackupName, kinds: Iterable[Kind], size: int) -> bool:
        """Delete what a withdrawn manifest leaves, of which `size` bytes are reclaimed.

        Of the dumps that could have this name only its own: another may be somebody else's.
        Gives whether all of it is gone.
        """
        try:
            # The evidence comes last, because it says that a deletion was begun.
            for kind in (*kinds, Kind.EVIDENCE):
                if not self.dry_run:
                    self.store.delete(self.keys.of(name, kind))
        except StoreError as error:
            self.failed.append(f"{name} was not deleted completely: {error.message}")
            return False
        self.deleted.append(str(name))
        self.reclaimed += size
        return True

    def abort_uploads(self, database: str, before: datetime) -> None:
        """Abort the uploads of a database to which nothing has arrived since `before`."""
        try:
            for upload in stale_uploads(self.store, self.keys, database, before):
                self._abort(upload)
        except StoreError as error:
            self.failed.append(f"the open uploads could not be listed: {error.message}")

    def _abort(self, upload: UploadInfo) -> None:
        try:
            if not self.dry_run:
                self.store.abort_upload(upload.key, upload.upload_id)
        except StoreError as error:
            self.failed.append(f"the upload of {upload.key} stays open: {error.message}")
            return
        self.aborted.append(upload.key)

    def update_index(self, index: Mapping[str, Entry]) -> None:
        """Leave an index behind that makes the next listing cheap."""
        gone = set(self.deleted)
        entries = {name: entry for name, entry in index.items() if name not in gone}
        try:
            if entries != read_index(self.store, self.keys):
                write_index(self.store, self.keys, entries)
        except StoreError as error:
            self.failed.append(f"the index was not written: {error.message}")

    def _record_expiry(self, backup: Backup, reason: str) -> None:
        # The ETag keeps a later dump of the same name from being taken for this one.
        try:
            etag = self.store.head(self.keys.of(backup.name, backup.kinds[0])).etag
        except ObjectMissing:
            etag = ""
        entry = EvidenceEntry(Act.EXPIRE, self.now, True, etag, (reason,), 0, 0, 0.0)
        record(self.store, self.keys, backup.name, entry)


def stale_uploads(
    store: ObjectStore, keys: Keys, database: str, before: datetime
) -> Iterable[UploadInfo]:
    """The uploads of a database to which nothing has arrived since `before`."""
    for upload in store.list_uploads(keys.under(database)):
        parsed = keys.parse(upload.key)
        if parsed and parsed[0].database == database and upload.active_at < before:
            yield upload
