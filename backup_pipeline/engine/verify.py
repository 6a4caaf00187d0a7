"""Verify: prove that the stored bytes are the bytes that were dumped, all of them."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Generic, Protocol, TypeVar

from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.catalog import read_manifest, record_verdict
from backup_pipeline.engine.compression import decompress
from backup_pipeline.engine.crew import Crew, Tally, let_go, taken_from
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import (
    Act,
    EvidenceEntry,
    Manifest,
    Member,
    Piece,
    Progress,
    Report,
    Section,
    TableRows,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.script import Tail
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.errors import ObjectMissing, VerificationFailed

Stretch = TypeVar("Stretch", bound=Member | Piece)
"""What lies in the dump or in its object, from `offset` on and so long."""

_ENOUGH = 8 << 20
"""Bytes of neighbouring members that are worth a request of their own."""


def verify(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    *,
    jobs: int = 2,
    identities: Sequence[Identity] = (),
    clock: Callable[[], datetime],
    report: Report = silent,
) -> EvidenceEntry:
    """Read every byte of a backup back, compare it with the manifest, and record what was found.

    Per member: SHA-256 of the stored bytes, the checksum of gzip or zstd, the raw length, the
    rows of each table counted again, and pg_dump's closing line; then the schema archive's SHA-256,
    and of the globals all but the rows.
    A backup that fails is no error here: `passed` says so, and `findings` where.
    Of one that is encrypted, where none of the `identities` is right, the stored bytes are
    compared, and no more: `opened` says so.

    Raises `NotFound` where there is no such backup, or none any more, `VerificationFailed` where
    its manifest can't be read, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    backup = StoredBackup(store, keys, manifest, identities)
    findings: list[str] = []
    etag = _etag(store, keys.of(name, manifest.kind))
    try:
        require_whole(backup, jobs, report)
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
        rows=manifest.rows if backup.is_readable and not findings else 0,
        seconds=(ended_at - started_at).total_seconds(),
        opened=backup.is_readable,
    )
    record_verdict(store, keys, name, entry)
    return entry


def require_whole(
    backup: StoredBackup,
    jobs: int,
    report: Report = silent,
    *,
    inflating: bool = True,
    globals_too: bool = True,
) -> None:
    """Compare all that is stored of a backup with its manifest.

    Without `inflating` it is found that every byte is the one that was stored, in a third of the
    time, and what it stands for is left to whoever reads it next (see `read_members`).
    What is encrypted is compared as it is stored; where there is a key every chunk is decrypted
    as well, so that nothing is released of a file that was tampered with anywhere.
    Without `globals_too` nobody looks at the globals, of which a restored database has nothing.
    Raises `VerificationFailed` at the first difference, the first by its place in the dump
    whichever of the `jobs` threads finds it, and the errors of the store.
    """
    manifest = backup.manifest
    try:
        length = backup.info.size
        _require_members(manifest)
        if manifest.encryption or not inflating:
            _go_through(partial(read_stored, backup), manifest.stretches, length, jobs, report)
        if inflating and backup.is_readable:
            _go_through(partial(read_members, backup), manifest.members, length, jobs, report)
        if manifest.schema_archive:
            backup.archive() if backup.is_readable else backup.stored_archive()
        if manifest.globals_script and globals_too:
            backup.globals() if backup.is_readable else backup.stored_globals()
    except ObjectMissing as error:
        raise VerificationFailed(
            f"an object of the backup is missing or was replaced: {error.message}"
        ) from error


def _etag(store: ObjectStore, key: str) -> str:
    try:
        return store.head(key).etag
    except ObjectMissing:
        return ""


class _Read(Protocol[Stretch]):
    def __call__(
        self, stretches: Sequence[Stretch], *, told: Callable[[int], object]
    ) -> Iterator[tuple[Stretch, Iterator[bytes]]]: ...


def _go_through(
    read: _Read[Stretch], stretches: Sequence[Stretch], length: int, jobs: int, report: Report
) -> None:
    verification = _Verification(read, stretches)
    with Crew() as crew:
        for _ in range(jobs):
            crew.start(lambda: verification.go_through(crew))
        crew.wait(lambda: report(Progress("verify", verification.done.sum, length)))
    verification.raise_first()


class _Verification(Generic[Stretch]):
    """All of a dump or of its object, read by several threads."""

    def __init__(self, read: _Read[Stretch], stretches: Sequence[Stretch]) -> None:
        self._read = read
        # The largest first, so that no thread is left alone with one.
        self._runs = deque(sorted(runs_of(stretches), key=_stored_length, reverse=True))
        self._lock = threading.Lock()
        self._first: tuple[int, VerificationFailed] | None = None
        self.done = Tally()
        """Stored bytes that have come."""

    def go_through(self, crew: Crew) -> None:
        """Verify one run after the other, as far as nothing is wrong before it."""
        for run in taken_from(self._runs):
            self._verify(run, crew)

    def raise_first(self) -> None:
        """Raise what was found, if anything: the first by its place, and not the first in time."""
        if self._first:
            raise self._first[1]

    def _verify(self, run: list[Stretch], crew: Crew) -> None:
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
    backup: StoredBackup,
    stretches: Sequence[Stretch],
    *,
    told: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[Stretch, Iterator[bytes]]]:
    """The object as it is stored; bytes of another SHA-256 end in `VerificationFailed`.

    Pieces of an encrypted one are decrypted where there is a key.
    One request reads all that lies side by side; `told` hears of the bytes that have come.
    """
    for each, chunks in _hashed(backup.read_stored, stretches, told):
        if isinstance(each, Piece) and backup.is_readable:
            chunks = backup.authenticated(each, chunks)
        yield each, _placed(each, chunks)


def read_members(
    backup: StoredBackup,
    members: Sequence[Member],
    *,
    counting: bool = True,
    told: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Members with their SQL, verified as it goes by; wrong bytes end in `VerificationFailed`.

    The last bytes of a member come before its last comparison: nothing is proved of it until its
    iterator has ended.
    One request reads all that lies side by side; `told` hears of the stored bytes that have come.
    Without `counting` rows are left to somebody else to count.
    """
    manifest = backup.manifest
    closing = {member.section: member.offset for member in manifest.members}
    for member, chunks in _hashed(backup.read, members, told):
        ends = closing[member.section] == member.offset
        verified = _verified(manifest, member, chunks, ends=ends, counting=counting)
        yield member, _placed(member, verified)


def _hashed(
    read: Callable[[int, int], Iterator[bytes]],
    stretches: Sequence[Stretch],
    told: Callable[[int], object],
) -> Iterator[tuple[Stretch, Iterator[bytes]]]:
    for run in _side_by_side(stretches):
        stream = _Bytes(read(run[0].offset, sum(each.length for each in run)))
        for each in run:
            yield each, _compared(each, stream.take(each.length), told)


def _compared(
    stretch: Member | Piece, chunks: Iterator[bytes], told: Callable[[int], object]
) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        told(len(chunk))
        yield chunk
    # What is encrypted has none, and each of its chunks has a tag instead.
    if stretch.sha256 is not None and digest.hexdigest() != stretch.sha256:
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


def _placed(stretch: Member | Piece, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; of what is found in them it is said where it was."""
    try:
        yield from chunks
    except VerificationFailed as error:
        what = f"member {stretch.section}" if isinstance(stretch, Member) else "the piece"
        raise VerificationFailed(f"{what} at {stretch.offset}: {error.message}") from error


def _require_end(member: Member, tables: tuple[TableRows, ...], *, closed: bool) -> None:
    if not closed:
        raise VerificationFailed("pg_dump's closing line is missing")
    if tables != member.tables:
        raise VerificationFailed("the rows of its tables are not those that were dumped")


def runs_of(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    """What lies side by side, enough of it to be worth a request; what is large is alone."""
    run: list[Stretch] = []
    for each in stretches:
        if run and each.length >= _ENOUGH:
            yield run
            run = []
        run.append(each)
        if _stored_length(run) >= _ENOUGH:
            yield run
            run = []
    if run:
        yield run


def _stored_length(run: Sequence[Member | Piece]) -> int:
    return run[-1].offset + run[-1].length - run[0].offset


def _side_by_side(stretches: Sequence[Stretch]) -> Iterator[list[Stretch]]:
    run: list[Stretch] = []
    for each in stretches:
        if run and run[-1].offset + run[-1].length != each.offset:
            yield run
            run = []
        run.append(each)
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


def _require_members(manifest: Manifest) -> None:
    offset = 0
    for member in manifest.members:
        if member.offset != offset:
            raise VerificationFailed("the members of the manifest do not follow each other")
        if member.sha256 is None and not manifest.encryption:
            raise VerificationFailed("the manifest lacks the SHA-256 of a member")
        offset += member.length
    sections = [member.section for member in manifest.members]
    if manifest.adopted and sections == [Section.DATA]:
        return
    if sections != sorted(sections, key=list(Section).index) or set(sections) != set(Section):
        raise VerificationFailed("the manifest does not name every section in its order")
