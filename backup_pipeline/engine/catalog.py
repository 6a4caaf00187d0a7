"""What backups a bucket holds, read from the bucket alone.

A backup exists if its manifest exists and can be read; its state comes from its evidence and from
the listing, and it is pinned if the listing shows a pin.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.index import Entry, read_index
from backup_pipeline.engine.model import (
    BACKUP_ID,
    Act,
    Backup,
    Catalog,
    Evidence,
    EvidenceEntry,
    Globals,
    Manifest,
    Pin,
    State,
    Stray,
    archive_kind,
    dump_kind,
    globals_kind,
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
from backup_pipeline.engine.retention import newest, newest_first
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.errors import (
    InvalidInput,
    NotFound,
    ObjectMissing,
    StoreError,
    VerificationFailed,
)

__all__ = [
    "Survey",
    "doubtful",
    "newest",
    "read_backup",
    "read_catalog",
    "read_evidence",
    "read_manifest",
    "read_pin",
    "record",
    "record_verdict",
    "survey",
    "taken_by",
]

Read = TypeVar("Read")

_READERS = 8
_MOST_UNDELIVERED = 8
"""So many documents may be broken; where more are, it is the store that is."""
_NO_MANIFEST = "there is no manifest of this name"
_LEFT_OVER = "left over from a deletion that did not finish"
_ANOTHER_DUMP = "the backup of this name has another dump"
_NOT_ITS_GLOBALS = "the backup of this name has no such globals"
_UNFINISHED = "; a backup that was killed left it, and a prune clears it away when it is old"
_ADOPTABLE = "; `backup-pipeline adopt` can give it one"

Objects = Mapping[Kind, ObjectInfo]
"""The objects that a listing shows of one backup."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A catalog, and the index that would make reading it again cheap."""

    catalog: Catalog
    index: Mapping[str, Entry]


def read_catalog(store: ObjectStore, keys: Keys, database: str | None = None) -> Catalog:
    """The backups of a database, or of all, and the objects that belong to none.

    Costs one listing, one GET for the index, two for each backup that the index does not know, and
    one for each pin.
    A backup whose manifest the store does not deliver is told among the objects that belong to
    none, so that it does not stand in the way of the others.

    Raises the errors of the store, where it delivers no manifest at all, or many documents are not
    delivered.
    """
    return survey(store, keys, database).catalog


def survey(store: ObjectStore, keys: Keys, database: str | None = None) -> Survey:
    """Read the catalog, and give what `write_index` stores so that the next reading is cheap."""
    listed, foreign = _listing(store, keys, database)
    # Where nothing of one database is listed, the entries of the others are to stay all the same.
    known = read_index(store, keys) if listed or database is not None else {}
    texts = {name: str(name) for name in listed}
    entries: dict[BackupName, Entry | str | None] = {
        name: _known_entry(objects, known.get(texts[name])) for name, objects in listed.items()
    }
    unread = [name for name, entry in entries.items() if entry is None]
    reading = _Reading(store, keys)
    with ThreadPoolExecutor(_READERS) as readers:
        read = readers.map(lambda name: reading.entry(name, listed[name]), unread)
        entries.update(zip(unread, read, strict=True))
        if reading.undelivered and not any(isinstance(each, Entry) for each in entries.values()):
            raise reading.undelivered[0]
        leftover = {name: why for name, why in entries.items() if isinstance(why, str)}
        expired = readers.map(reading.expired_etag, leftover)
        unfinished = readers.map(lambda name: reading.is_unfinished(listed[name]), leftover)
        strays = [
            stray
            for (name, why), etag, cut in zip(leftover.items(), expired, unfinished, strict=True)
            for stray in _strays(listed[name], why, etag, unfinished=cut)
        ]
        good = {name: entry for name, entry in entries.items() if isinstance(entry, Entry)}
        pinned = [name for name in good if Kind.PIN in listed[name]]
        reasons = readers.map(reading.pin_reason, pinned)
        pins = dict(zip(pinned, reasons, strict=True))
    backups = newest_first(
        _backup(name, listed[name], entry, pins.get(name)) for name, entry in good.items()
    )
    strays += [
        _stray(listed[backup.name][kind], reason)
        for backup in backups
        for kinds, reason in ((DUMPS, _ANOTHER_DUMP), (GLOBALS, _NOT_ITS_GLOBALS))
        for kind in kinds
        if kind in listed[backup.name] and kind not in backup.kinds
    ]
    strays += [_stray(info, "not an object of this software") for info in foreign]
    index = {texts[name]: entry for name, entry in good.items() if name not in reading.passing}
    if database is not None:
        index |= {text: entry for text, entry in known.items() if _is_of_another(text, database)}
    catalog = Catalog(tuple(backups), tuple(sorted(strays, key=lambda stray: stray.key)))
    return Survey(catalog, index)


def read_backup(store: ObjectStore, keys: Keys, name: BackupName) -> Backup:
    """One backup, by a listing of its objects and its own documents, whatever ails the others.

    Raises `NotFound`, and `VerificationFailed` for a bad manifest.
    """
    manifest = read_manifest(store, keys, name)
    listed = ((keys.parse(info.key), info) for info in store.list(keys.stem(name)))
    objects = {parsed[1]: info for parsed, info in listed if parsed and parsed[0] == name}
    if Kind.MANIFEST not in objects:
        raise _deleted(name)
    evidence = _evidence_or_damage(store, keys, name, objects.get(Kind.EVIDENCE))
    entry = Entry.of(_etags(objects), manifest, evidence)
    pin = _pin_reason(store, keys, name) if Kind.PIN in objects else None
    return _backup(name, objects, entry, pin)


def read_manifest(store: ObjectStore, keys: Keys, name: BackupName) -> Manifest:
    """A backup's manifest.

    Raises `NotFound` when there is none, and `VerificationFailed` when it is damaged or belongs
    to something else.
    """
    key = keys.of(name, Kind.MANIFEST)
    try:
        body = b"".join(store.read(key))
    except ObjectMissing as error:
        raise NotFound(f"there is no backup {name} in {store.describe()}") from error
    manifest = from_json(Manifest, body, key)
    if fault := _fault(manifest, name):
        raise VerificationFailed(f"the manifest of {name} is forged or misplaced: {fault}")
    return manifest


def read_evidence(store: ObjectStore, keys: Keys, name: BackupName) -> Evidence:
    """All that was ever proved or disproved of a backup; empty when nothing was.

    Raises `VerificationFailed` when it is damaged or belongs to something else.
    """
    key = keys.of(name, Kind.EVIDENCE)
    try:
        body = b"".join(store.read(key))
    except ObjectMissing:
        return Evidence(1, str(name))
    evidence = from_json(Evidence, body, key)
    if evidence.name != str(name):
        raise VerificationFailed(f"the evidence of {name} is that of {evidence.name!r}")
    return evidence


def read_pin(store: ObjectStore, keys: Keys, name: BackupName) -> Pin | None:
    """A backup's pin, or `None` where it has none.

    Raises `VerificationFailed` when it is damaged or belongs to something else.
    """
    key = keys.of(name, Kind.PIN)
    try:
        body = b"".join(store.read(key))
    except ObjectMissing:
        return None
    pin = from_json(Pin, body, key)
    if pin.name != str(name):
        raise VerificationFailed(f"the pin of {name} is that of {pin.name!r}")
    return pin


def record(store: ObjectStore, keys: Keys, name: BackupName, entry: EvidenceEntry) -> Evidence:
    """Add an entry to a backup's evidence; evidence that can't be read is begun anew."""
    try:
        before = read_evidence(store, keys, name)
    except VerificationFailed:
        before = Evidence(1, str(name))
    evidence = replace(before, entries=(*before.entries, entry))
    store.put(keys.of(name, Kind.EVIDENCE), to_json(evidence), overwrite=True)
    return evidence


def record_verdict(
    store: ObjectStore, keys: Keys, name: BackupName, entry: EvidenceEntry
) -> Evidence:
    """Record what was found of a backup.

    Raises `NotFound` where it was deleted while it was read: what was found then is no fault of
    it, and evidence without a backup would be a stray that nothing clears away.
    """
    try:
        store.head(keys.of(name, Kind.MANIFEST))
    except ObjectMissing as error:
        raise _deleted(name) from error
    return record(store, keys, name, entry)


def taken_by(backups: Iterable[Backup], moment: datetime) -> Backup:
    """The newest backup taken at or before a moment; raises `NotFound`."""
    ordered = newest_first(backups)
    for backup in ordered:
        if backup.taken_at <= moment:
            return backup
    asked = f"no backup was taken at or before {_utc(moment)}"
    if not ordered:
        raise NotFound(f"{asked}: there is none at all")
    raise NotFound(
        f"{asked}: the oldest, {ordered[-1].name}, was taken at {_utc(ordered[-1].taken_at)}"
    )


def doubtful(keys: Keys, strays: Iterable[Stray]) -> list[Stray]:
    """Strays that may be a backup whose manifest was damaged, deleted, or not delivered."""
    parsed = ((stray, keys.parse(stray.key)) for stray in strays if not stray.deletable)
    return [stray for stray, key in parsed if key and key[1] in {*DUMPS, Kind.MANIFEST}]


def _deleted(name: BackupName) -> NotFound:
    return NotFound(f"the backup {name} was deleted while it was read")


def _listing(
    store: ObjectStore, keys: Keys, database: str | None
) -> tuple[dict[BackupName, dict[Kind, ObjectInfo]], list[ObjectInfo]]:
    listed: dict[BackupName, dict[Kind, ObjectInfo]] = {}
    foreign = []
    for info in store.list(keys.prefix if database is None else keys.under(database)):
        if parsed := keys.parse(info.key):
            name, kind = parsed
            if database in {None, name.database}:
                listed.setdefault(name, {})[kind] = info
        elif info.key != keys.index:
            foreign.append(info)
    return listed, foreign


def _known_entry(objects: Objects, known: Entry | None) -> Entry | str | None:
    """What the listing and the index already tell of a name; `None` where it must be read."""
    if Kind.MANIFEST not in objects:
        return _NO_MANIFEST + (_ADOPTABLE if objects.keys() & {*PLAIN_DUMPS} else "")
    return (
        known if known and (known.manifest_etag, known.evidence_etag) == _etags(objects) else None
    )


def _etags(objects: Objects) -> tuple[str, str | None]:
    evidence = objects.get(Kind.EVIDENCE)
    return objects[Kind.MANIFEST].etag, evidence.etag if evidence else None


@dataclass
class _Reading:
    """Documents of many backups, of which a few may not be delivered."""

    store: ObjectStore
    keys: Keys
    undelivered: list[StoreError] = field(default_factory=list)
    passing: set[BackupName] = field(default_factory=set)
    """Whose evidence was not delivered, which may be over soon."""

    def entry(self, name: BackupName, objects: Objects) -> Entry | str:
        """What the documents of a name say, or why it is no backup."""
        store, keys = self.store, self.keys
        try:
            manifest = read_manifest(store, keys, name)
        except NotFound:
            return "its manifest vanished between the listing and the reading"
        except VerificationFailed as error:
            return error.message
        except StoreError as error:
            return self._told(error)
        try:
            evidence = _evidence_or_damage(store, keys, name, objects.get(Kind.EVIDENCE))
        except StoreError as error:
            self.passing.add(name)
            evidence = self._told(error)
        return Entry.of(_etags(objects), manifest, evidence)

    def expired_etag(self, name: BackupName) -> str | None:
        """The ETag of the dump whose deletion was begun, or `None` if none was."""
        return self._or_else(None, lambda: _expired_etag(self.store, self.keys, name))

    def is_unfinished(self, objects: Objects) -> bool:
        """As `_is_unfinished`, and false where nobody can know."""
        return self._or_else(False, lambda: _is_unfinished(self.store, objects))

    def pin_reason(self, name: BackupName) -> str | None:
        """Why a backup is pinned; a pin that can't be read pins it all the same."""
        try:
            return _pin_reason(self.store, self.keys, name)
        except StoreError as error:
            return self._told(error)

    def _or_else(self, otherwise: Read, read: Callable[[], Read]) -> Read:
        try:
            return read()
        except StoreError as error:
            self._told(error)
            return otherwise

    def _told(self, error: StoreError) -> str:
        self.undelivered.append(error)
        if len(self.undelivered) > _MOST_UNDELIVERED:
            raise error
        return error.message


def _evidence_or_damage(
    store: ObjectStore, keys: Keys, name: BackupName, listed: ObjectInfo | None
) -> Evidence | str:
    if listed is None:
        return Evidence(1, str(name))
    try:
        return read_evidence(store, keys, name)
    except VerificationFailed as error:
        return error.message


def _pin_reason(store: ObjectStore, keys: Keys, name: BackupName) -> str | None:
    """Why a backup is pinned; a pin that can't be read pins it all the same."""
    try:
        pin = read_pin(store, keys, name)
    except VerificationFailed as error:
        return error.message
    return pin.reason if pin else None


def _backup(name: BackupName, objects: Objects, entry: Entry, pin: str | None) -> Backup:
    dump = objects.get(dump_kind(entry.codec, encrypted=entry.encrypted))
    state, findings = _judge(entry, dump)
    if entry.archived and archive_kind(encrypted=entry.encrypted) not in objects:
        # Every restore of it would be refused, whatever was proved of the dump.
        state = State.FAILED
        findings = (*findings, "the schema archive beside the dump is missing")
    scripted = entry.globals is not Globals.NONE
    if scripted and globals_kind(encrypted=entry.encrypted) not in objects:
        # As a verification would say.
        state = State.FAILED
        findings = (*findings, "the script of the globals beside the dump is missing")
    drill = _drill(entry, dump) if state is State.VERIFIED else None
    if entry.damage:
        findings = (*findings, entry.damage)
    return Backup(
        name=name,
        taken_at=entry.taken_at.astimezone(UTC),
        size=dump.size if dump else 0,
        raw_length=entry.raw_length,
        tables=entry.tables,
        rows=entry.rows,
        duration=entry.duration,
        server_version=entry.server_version,
        state=state,
        verified_at=entry.verdicts[-1].at if entry.verdicts else None,
        restored_at=drill.at if drill else None,
        recovery_seconds=drill.recovery_seconds if drill else None,
        findings=findings,
        pin=pin,
        codec=entry.codec,
        encrypted=entry.encrypted,
        globals=entry.globals,
    )


def _judge(entry: Entry, dump: ObjectInfo | None) -> tuple[State, tuple[str, ...]]:
    if dump is None:
        return State.FAILED, ("the dump object is missing",)
    if dump.size != entry.length:
        return State.FAILED, (
            f"the dump object has {dump.size} bytes, and the manifest says {entry.length}",
        )
    verdicts = [verdict for verdict in entry.verdicts if verdict.etag == dump.etag]
    drill = _drill(entry, dump)
    # That the bytes are whole does not make up for a database that was not equal.
    for verdict in (*verdicts[-1:], *([drill] if drill else [])):
        if not verdict.passed:
            return State.FAILED, verdict.findings
    if verdicts and verdicts[-1] is entry.verdicts[-1]:
        return State.VERIFIED, ()
    if entry.verdicts:
        return State.UNVERIFIED, ("the dump object was written again after it was looked at",)
    return State.UNVERIFIED, ()


def _drill(entry: Entry, dump: ObjectInfo | None) -> EvidenceEntry | None:
    """The newest drill of the dump that is there."""
    drills = (v for v in reversed(entry.verdicts) if v.act is Act.DRILL)
    return next((v for v in drills if dump and v.etag == dump.etag), None)


def _expired_etag(store: ObjectStore, keys: Keys, name: BackupName) -> str | None:
    """The ETag of the dump whose deletion was begun, or `None` if none was."""
    try:
        entries = read_evidence(store, keys, name).entries
    except VerificationFailed:
        return None
    return entries[-1].etag if entries and entries[-1].act is Act.EXPIRE else None


def _is_unfinished(store: ObjectStore, objects: Objects) -> bool:
    """Whether all that there is of a name is what a backup leaves that is killed before its end.

    The schema archive is stored first, and nobody else writes one; a dump says itself whose it is.
    Globals without an archive may be what another script has written.
    Evidence or a pin would say that it had been a backup.
    """
    dumps = [info for kind, info in objects.items() if kind in DUMPS]
    if objects.keys() - {*DUMPS, *GLOBALS} not in ({archive} for archive in ARCHIVES):
        return False
    try:
        return all(BACKUP_ID in store.metadata(info.key) for info in dumps)
    except ObjectMissing:
        return False


def _strays(
    objects: Objects, why: str, expired: str | None, *, unfinished: bool
) -> Iterator[Stray]:
    # A deletion takes the manifest first, so where there is one still, no deletion was begun; it
    # ends where it finds a pin; and a dump of another ETag than the expired one is a newer backup
    # that is not finished yet.
    begun = expired is not None and not objects.keys() & {Kind.MANIFEST, Kind.PIN}
    dumps = [objects[kind].etag for kind in DUMPS if kind in objects]
    left_over = begun and (not dumps or expired in dumps)
    others = {kind for kind in DUMPS if kind in objects and objects[kind].etag != expired}
    if not objects.keys() & {*ARCHIVES}:
        # A deletion takes ours before the archive.
        others |= {*GLOBALS}
    for kind, info in objects.items():
        goes = left_over and kind not in others
        reason = _LEFT_OVER if goes else why + (_UNFINISHED if unfinished else "")
        yield _stray(info, reason, deletable=goes, unfinished=unfinished)


def _stray(
    info: ObjectInfo, reason: str, *, deletable: bool = False, unfinished: bool = False
) -> Stray:
    return Stray(info.key, info.size, info.modified_at, reason, deletable, unfinished)


def _fault(manifest: Manifest, name: BackupName) -> str | None:
    if manifest.name != str(name):
        return f"it says that it is of {manifest.name!r}"
    try:
        UUID(manifest.id)
    except ValueError:
        return "its id is not a UUID"
    for stretches in (manifest.members, manifest.stretches):
        end = 0
        for each in stretches:
            if each.offset != end:
                return "its members do not follow one upon the other"
            end += each.length
        if not end:
            return "it describes an empty dump"
    return None


def _is_of_another(text: str, database: str) -> bool:
    try:
        return BackupName.parse(text).database != database
    except InvalidInput:
        return False


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
