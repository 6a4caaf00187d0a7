"""Adopt: give a plain dump of another script the manifest that makes it a backup."""

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from backup_pipeline.engine.catalog import read_evidence, record
from backup_pipeline.engine.compression import inflate
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import (
    Act,
    Codec,
    Contents,
    EvidenceEntry,
    Extension,
    Manifest,
    Member,
    Progress,
    Report,
    Section,
    Source,
    TableContents,
    TableRows,
    silent,
)
from backup_pipeline.engine.names import PLAIN_DUMPS, BackupName, Keys, Kind
from backup_pipeline.engine.script import Tail
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.errors import NotFound, ObjectMissing, Refused, VerificationFailed
from backup_pipeline.version import __version__

_HEADER = 1 << 16
_MOST_INFLATED = {Codec.GZIP: 1032, Codec.ZSTD: 32768}
"""How many bytes can be made of one (zlib's technical notes; zstd's blocks of 4 bytes)."""
_SERVER = re.compile(rb"^-- Dumped from database version (\d+)(?:\.(\d+))?(.*)$", re.MULTILINE)
_PG_DUMP = re.compile(rb"^-- Dumped by pg_dump version ([\d.]+)", re.MULTILINE)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)


def adopt(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    zone: ZoneInfo,
    *,
    dry_run: bool = False,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> Manifest:
    """Verify a dump without a manifest as far as one can, and make a backup of it.

    Every byte is inflated, every statement taken apart, rows counted, and pg_dump's closing line
    must be there; that becomes the first evidence.
    Its time is the one in its name, in `zone`, unless the store had the object before that.
    A dry run only looks.

    Raises `NotFound`, `Refused` where there is a manifest already or a deletion was begun,
    `VerificationFailed` where the file is no complete dump, and the errors of the store.
    """
    started_at = clock()
    codec, stored = _adoptable(store, keys, name)
    found = _look(store, codec, stored, report)
    labelled = name.label.replace(tzinfo=zone).astimezone(UTC)
    manifest = found.manifest(name, min(labelled, stored.modified_at.astimezone(UTC)))
    if dry_run:
        return manifest
    store.put(keys.of(name, Kind.MANIFEST), to_json(manifest))
    ended_at = clock()
    seconds = (ended_at - started_at).total_seconds()
    entry = EvidenceEntry(
        Act.VERIFY, ended_at, True, stored.etag, (), stored.size, manifest.rows, seconds
    )
    record(store, keys, name, entry)
    return manifest


def adoptable(store: ObjectStore, keys: Keys, database: str) -> tuple[BackupName, ...]:
    """The dumps of a database that have no manifest, by name."""
    kinds: dict[BackupName, set[Kind]] = {}
    for info in store.list(keys.under(database)):
        parsed = keys.parse(info.key)
        if parsed and parsed[0].database == database:
            kinds.setdefault(parsed[0], set()).add(parsed[1])
    dumps = {*PLAIN_DUMPS}
    return tuple(
        sorted(name for name, has in kinds.items() if has & dumps and Kind.MANIFEST not in has)
    )


def _adoptable(store: ObjectStore, keys: Keys, name: BackupName) -> tuple[Codec, ObjectInfo]:
    codec, stored = _dump(store, keys, name)
    try:
        store.head(keys.of(name, Kind.MANIFEST))
    except ObjectMissing:
        pass
    else:
        raise Refused(f"{name} has a manifest already", hint="Verify it instead.")
    entries = read_evidence(store, keys, name).entries
    if entries and entries[-1].act is Act.EXPIRE and entries[-1].etag == stored.etag:
        raise Refused(
            f"the deletion of {name} was begun", hint="Prune ends it, unless the backup is pinned."
        )
    return codec, stored


def _dump(store: ObjectStore, keys: Keys, name: BackupName) -> tuple[Codec, ObjectInfo]:
    for codec in Codec:
        with contextlib.suppress(ObjectMissing):
            return codec, store.head(keys.of(name, codec.kind))
    raise NotFound(f"there is no dump {name} in {store.describe()}")


@dataclass(frozen=True)
class _Found:
    """What a dump says of itself."""

    codec: Codec
    stored: ObjectInfo
    raw_length: int
    sha256: str
    encoding: str
    server: tuple[str, int]
    pg_dump: str
    inventory: Inventory
    tables: tuple[TableRows, ...]

    def manifest(self, name: BackupName, taken_at: datetime) -> Manifest:
        """The manifest that makes it a backup."""
        return Manifest(
            version=1,
            id=str(uuid.uuid4()),
            name=str(name),
            source=Source(
                database=name.database,
                database_size=self.raw_length,
                server_version=self.server[0],
                server_version_num=self.server[1],
                encoding=self.encoding,
                locale_provider="libc",
                collate=None,
                ctype=None,
                locale=None,
                extensions=tuple(Extension(each, "") for each in self.inventory.extensions),
                snapshot_at=taken_at,
                snapshot_lsn="",
            ),
            started_at=taken_at,
            finished_at=taken_at,
            members=(
                Member(
                    section=Section.DATA,
                    offset=0,
                    length=self.stored.size,
                    raw_length=self.raw_length,
                    sha256=self.sha256,
                    tables=self.tables,
                ),
            ),
            contents=Contents(
                tables=tuple(
                    TableContents(each.schema, each.table, each.rows)
                    for each in sorted(self.tables)
                ),
                sequences=tuple(sorted(self.inventory.sequences)),
                large_objects=None,
            ),
            schema_archive=None,
            pg_dump_version=self.pg_dump,
            software_version=__version__,
            adopted=True,
            codec=self.codec,
        )


def _look(store: ObjectStore, codec: Codec, stored: ObjectInfo, report: Report) -> _Found:
    digest, tail, done = hashlib.sha256(), Tail(), 0

    def chunks() -> Iterator[bytes]:
        nonlocal done
        for chunk in store.read(stored.key, etag=stored.etag):
            digest.update(chunk)
            done += len(chunk)
            report(Progress("adopt", done, stored.size))
            yield chunk

    raw = inflate(chunks(), stored.size * _MOST_INFLATED[codec], codec, several=True)
    header = b""
    while len(header) < _HEADER and (first := next(raw, b"")):
        header += first
    server, pg_dump = _SERVER.search(header), _PG_DUMP.search(header)
    if not server or not pg_dump:
        raise VerificationFailed(f"{stored.key} is not SQL as pg_dump writes it")
    encoding = _ENCODING.search(header)
    inventory = Inventory(encoding[1].decode() if encoding else "UTF8")
    raw_length = 0
    for piece in _and_then(header, raw):
        raw_length += len(piece)
        tail.feed(piece)
        inventory.feed(piece)
    inventory.close()
    if not tail.closed:
        raise VerificationFailed(f"{stored.key} is cut: pg_dump's closing line is missing")
    return _Found(
        codec=codec,
        stored=stored,
        raw_length=raw_length,
        sha256=digest.hexdigest(),
        encoding=encoding[1].decode() if encoding else "UTF8",
        server=_version(server),
        pg_dump=pg_dump[1].decode(),
        inventory=inventory,
        tables=inventory.take_tables(),
    )


def _and_then(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _version(found: re.Match[bytes]) -> tuple[str, int]:
    """`16.4` and 160004; before PostgreSQL 10 a major version had two numbers."""
    major, minor = int(found[1]), int(found[2] or 0)
    text = f"{major}.{minor}" if found[2] else str(major)
    return text, major * 10000 + (minor if major >= 10 else minor * 100)
