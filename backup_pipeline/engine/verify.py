"""Verify: prove that the stored bytes are the bytes that were dumped, all of them."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime

from backup_pipeline.engine.catalog import read_manifest, record
from backup_pipeline.engine.compression import decompress
from backup_pipeline.engine.model import (
    Act,
    EvidenceEntry,
    Manifest,
    Member,
    Progress,
    Report,
    Section,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.script import RowCounter, Tail
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.errors import ObjectMissing, VerificationFailed


def verify(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    *,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> EvidenceEntry:
    """Read every byte of a backup back, compare it with the manifest, and record what was found.

    Per member: SHA-256 of the stored bytes, gzip's CRC-32 and length, the raw length, the rows
    of each table counted again, and pg_dump's closing line; then the schema archive's SHA-256.
    A backup that fails is no error here: `passed` says so, and `findings` where.

    Raises `NotFound` where there is no such backup, `VerificationFailed` where its manifest
    can't be read, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    findings: list[str] = []
    etag = _etag(store, keys.of(name, Kind.DUMP))
    try:
        require_whole(store, keys, manifest, report)
    except VerificationFailed as error:
        findings.append(error.message)
    ended_at = clock()
    entry = EvidenceEntry(
        act=Act.VERIFY,
        at=ended_at,
        passed=not findings,
        etag=etag,
        findings=tuple(findings),
        read_bytes=0 if findings else manifest.length,
        rows=0 if findings else manifest.rows,
        seconds=(ended_at - started_at).total_seconds(),
    )
    record(store, keys, name, entry)
    return entry


def require_whole(
    store: ObjectStore, keys: Keys, manifest: Manifest, report: Report = silent
) -> ObjectInfo:
    """Compare all that is stored of a backup with its manifest; gives the dump object.

    Raises `VerificationFailed` at the first difference, and the errors of the store.
    """
    name = BackupName.parse(manifest.name)
    try:
        stored = store.head(keys.of(name, Kind.DUMP))
        _verify_dump(store, stored, manifest, report)
        _verify_archive(store, keys.of(name, Kind.SCHEMA), manifest)
    except ObjectMissing as error:
        raise VerificationFailed(
            f"an object of the backup is missing or was replaced: {error.message}"
        ) from error
    return stored


def _etag(store: ObjectStore, key: str) -> str:
    try:
        return store.head(key).etag
    except ObjectMissing:
        return ""


def _verify_dump(
    store: ObjectStore, stored: ObjectInfo, manifest: Manifest, report: Report
) -> None:
    if stored.size != manifest.length:
        raise VerificationFailed(
            f"the object has {stored.size} bytes where the backup had {manifest.length}"
        )
    _require_members(manifest)
    for member in manifest.members:
        done = 0
        try:
            for raw in read_member(store, stored, member, manifest.source.encoding):
                done += len(raw)
                # Progress is of the stored bytes, as good as a member's even share of them tells.
                share = done * member.length // max(member.raw_length, 1)
                report(Progress("verify", member.offset + share, manifest.length))
        except VerificationFailed as error:
            raise VerificationFailed(f"member {member.section}: {error.message}") from error


def read_member(
    store: ObjectStore, stored: ObjectInfo, member: Member, encoding: str
) -> Iterator[bytes]:
    """The SQL of one member, verified as it goes by; wrong bytes end in `VerificationFailed`.

    The last bytes come before the last comparison: nothing is proved until the iterator ended.
    """
    digest = hashlib.sha256()
    rows, tail = RowCounter(), Tail()
    chunks = store.read(stored.key, member.offset, member.length, etag=stored.etag)
    for raw in decompress(_hashed(chunks, digest.update), member.raw_length):
        tail.feed(raw)
        if member.section is Section.DATA:
            rows.feed(raw)
        yield raw
    rows.close()
    if digest.hexdigest() != member.sha256:
        raise VerificationFailed("its SHA-256 is not the one that was recorded")
    if not tail.closed:
        raise VerificationFailed("pg_dump's closing line is missing")
    if rows.tables(encoding) != member.tables:
        raise VerificationFailed("the rows of its tables are not those that were dumped")


def _verify_archive(store: ObjectStore, key: str, manifest: Manifest) -> None:
    stored = store.head(key)
    if stored.size != manifest.schema_archive.length:
        raise VerificationFailed(
            f"the schema archive has {stored.size} bytes where the backup had "
            f"{manifest.schema_archive.length}"
        )
    archive = b"".join(store.read(key, etag=stored.etag))
    if hashlib.sha256(archive).hexdigest() != manifest.schema_archive.sha256:
        raise VerificationFailed("the schema archive is not the one that was stored")


def _hashed(chunks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _require_members(manifest: Manifest) -> None:
    offset = 0
    for member in manifest.members:
        if member.offset != offset:
            raise VerificationFailed("the members of the manifest do not follow each other")
        offset += member.length
    sections = [member.section for member in manifest.members]
    if sections != sorted(sections, key=list(Section).index) or set(sections) != set(Section):
        raise VerificationFailed("the manifest does not name every section in its order")
