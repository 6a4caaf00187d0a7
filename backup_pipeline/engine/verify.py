"""Verify: prove that the stored bytes are the bytes that were dumped, all of them."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from backup_pipeline.engine.catalog import read_manifest, record
from backup_pipeline.engine.compression import decompress
from backup_pipeline.engine.crew import Crew, Tally, let_go, taken_from
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import (
    Act,
    EvidenceEntry,
    Manifest,
    Member,
    Progress,
    Report,
    SchemaArchive,
    Section,
    TableRows,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.script import Tail
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.errors import ObjectMissing, VerificationFailed

_ENOUGH = 8 << 20
"""Bytes of neighbouring members that are worth a request of their own."""


def verify(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    *,
    jobs: int = 2,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> EvidenceEntry:
    """Read every byte of a backup back, compare it with the manifest, and record what was found.

    Per member: SHA-256 of the stored bytes, the checksum of gzip or zstd, the raw length, the
    rows of each table counted again, and pg_dump's closing line; then the schema archive's SHA-256.
    A backup that fails is no error here: `passed` says so, and `findings` where.

    Raises `NotFound` where there is no such backup, `VerificationFailed` where its manifest
    can't be read, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    findings: list[str] = []
    etag = _etag(store, keys.of(name, manifest.codec.kind))
    try:
        require_whole(store, keys, manifest, jobs, report)
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
    store: ObjectStore,
    keys: Keys,
    manifest: Manifest,
    jobs: int,
    report: Report = silent,
    *,
    inflating: bool = True,
) -> ObjectInfo:
    """Compare all that is stored of a backup with its manifest; gives the dump object.

    Without `inflating` it is found that every byte is the one that was stored, in a third of the
    time, and what it stands for is left to whoever reads it next (see `read_members`).
    Raises `VerificationFailed` at the first difference, the first by its place in the dump
    whichever of the `jobs` threads finds it, and the errors of the store.
    """
    name = BackupName.parse(manifest.name)
    try:
        stored = store.head(keys.of(name, manifest.codec.kind))
        read = partial(read_members, manifest=manifest) if inflating else read_stored
        _verify_dump(partial(read, store, stored), stored, manifest, jobs, report)
        if manifest.schema_archive:
            read_archive(store, keys.of(name, Kind.SCHEMA), manifest.schema_archive)
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


class _Read(Protocol):
    def __call__(
        self, members: Sequence[Member], *, told: Callable[[int], object]
    ) -> Iterator[tuple[Member, Iterator[bytes]]]: ...


def _verify_dump(
    read: _Read, stored: ObjectInfo, manifest: Manifest, jobs: int, report: Report
) -> None:
    if stored.size != manifest.length:
        raise VerificationFailed(
            f"the object has {stored.size} bytes where the backup had {manifest.length}"
        )
    _require_members(manifest)
    verification = _Verification(read, manifest.members)
    with Crew() as crew:
        for _ in range(jobs):
            crew.start(lambda: verification.go_through(crew))
        crew.wait(lambda: report(Progress("verify", verification.done.sum, manifest.length)))
    verification.raise_first()


class _Verification:
    """All members of a dump, read by several threads."""

    def __init__(self, read: _Read, members: Sequence[Member]) -> None:
        self._read = read
        # The largest first, so that no thread is left alone with one.
        self._runs = deque(sorted(_runs(members), key=_stored_length, reverse=True))
        self._lock = threading.Lock()
        self._first: tuple[int, VerificationFailed] | None = None
        self.done = Tally()
        """Stored bytes that have come."""

    def go_through(self, crew: Crew) -> None:
        """Verify one run of members after the other, as far as nothing is wrong before it."""
        for run in taken_from(self._runs):
            self._verify(run, crew)

    def raise_first(self) -> None:
        """Raise what was found, if anything: the first by its place, and not the first in time."""
        if self._first:
            raise self._first[1]

    def _verify(self, run: list[Member], crew: Crew) -> None:
        offset = run[0].offset
        try:
            for _, chunks in self._read(run, told=self.done.add):
                for _ in chunks:
                    crew.go_on()
                    if self._first and self._first[0] < offset:
                        return
        except VerificationFailed as error:
            let_go(error)
            with self._lock:
                if not self._first or offset < self._first[0]:
                    self._first = offset, error


def read_stored(
    store: ObjectStore,
    stored: ObjectInfo,
    members: Sequence[Member],
    *,
    told: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Members as they are stored; bytes of another SHA-256 end in `VerificationFailed`.

    One request reads all that lies side by side; `told` hears of the bytes that have come.
    """
    for member, chunks in _stored(store, stored, members, told):
        yield member, _placed(member, chunks)


def read_members(
    store: ObjectStore,
    stored: ObjectInfo,
    members: Sequence[Member],
    *,
    manifest: Manifest,
    counting: bool = True,
    told: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Members with their SQL, verified as it goes by; wrong bytes end in `VerificationFailed`.

    The last bytes of a member come before its last comparison: nothing is proved of it until its
    iterator has ended.
    One request reads all that lies side by side; `told` hears of the stored bytes that have come.
    Without `counting` rows are left to somebody else to count.
    """
    closing = {member.section: member.offset for member in manifest.members}
    for member, chunks in _stored(store, stored, members, told):
        ends = closing[member.section] == member.offset
        verified = _verified(manifest, member, chunks, ends=ends, counting=counting)
        yield member, _placed(member, verified)


def _stored(
    store: ObjectStore,
    stored: ObjectInfo,
    members: Sequence[Member],
    told: Callable[[int], object],
) -> Iterator[tuple[Member, Iterator[bytes]]]:
    for run in _side_by_side(members):
        length = sum(member.length for member in run)
        stream = _Bytes(store.read(stored.key, run[0].offset, length, etag=stored.etag))
        for member in run:
            yield member, _hashed(member, stream.take(member.length), told)


def _hashed(
    member: Member, chunks: Iterator[bytes], told: Callable[[int], object]
) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        told(len(chunk))
        yield chunk
    if digest.hexdigest() != member.sha256:
        raise VerificationFailed("its SHA-256 is not the one that was recorded")


def _verified(
    manifest: Manifest, member: Member, chunks: Iterator[bytes], *, ends: bool, counting: bool
) -> Iterator[bytes]:
    counting = counting and member.section is Section.DATA
    inventory, tail = Inventory(manifest.source.encoding, member.continues), Tail()
    for raw in decompress(chunks, member.raw_length, manifest.codec, several=manifest.adopted):
        tail.feed(raw)
        if counting:
            inventory.feed(raw)
        yield raw
    tables = member.tables
    if counting:
        inventory.close(unfinished=member.unfinished)
        tables = inventory.take_tables()
    _require_end(member, tables, closed=tail.closed or not ends)


def _placed(member: Member, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; of what is found in them it is said where it was."""
    try:
        yield from chunks
    except VerificationFailed as error:
        where = f"member {member.section} at {member.offset}"
        raise VerificationFailed(f"{where}: {error.message}") from error


def _require_end(member: Member, tables: tuple[TableRows, ...], *, closed: bool) -> None:
    if not closed:
        raise VerificationFailed("pg_dump's closing line is missing")
    if tables != member.tables:
        raise VerificationFailed("the rows of its tables are not those that were dumped")


def _runs(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Members that lie side by side, enough of them to be worth a request; a large one is alone."""
    run: list[Member] = []
    for member in members:
        if run and member.length >= _ENOUGH:
            yield run
            run = []
        run.append(member)
        if _stored_length(run) >= _ENOUGH:
            yield run
            run = []
    if run:
        yield run


def _stored_length(run: Sequence[Member]) -> int:
    return run[-1].offset + run[-1].length - run[0].offset


def _side_by_side(members: Sequence[Member]) -> Iterator[list[Member]]:
    run: list[Member] = []
    for member in members:
        if run and run[-1].offset + run[-1].length != member.offset:
            yield run
            run = []
        run.append(member)
    if run:
        yield run


class _Bytes:
    """Chunks of any size, handed out in lengths that are asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def take(self, length: int) -> Iterator[bytes]:
        """The next bytes, so many that they make up `length`; fewer where the chunks end."""
        while length:
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                return
            taken, self._rest = chunk[:length], chunk[length:]
            length -= len(taken)
            yield taken


def read_archive(store: ObjectStore, key: str, expected: SchemaArchive) -> bytes:
    """The schema archive; raises `VerificationFailed` where it is not the one that was stored."""
    stored = store.head(key)
    if stored.size != expected.length:
        raise VerificationFailed(
            f"the schema archive has {stored.size} bytes where the backup had {expected.length}"
        )
    archive = b"".join(store.read(key, etag=stored.etag))
    if hashlib.sha256(archive).hexdigest() != expected.sha256:
        raise VerificationFailed("the schema archive is not the one that was stored")
    return archive


def _require_members(manifest: Manifest) -> None:
    offset = 0
    for member in manifest.members:
        if member.offset != offset:
            raise VerificationFailed("the members of the manifest do not follow each other")
        offset += member.length
    sections = [member.section for member in manifest.members]
    if manifest.adopted and sections == [Section.DATA]:
        return
    if sections != sorted(sections, key=list(Section).index) or set(sections) != set(Section):
        raise VerificationFailed("the manifest does not name every section in its order")
