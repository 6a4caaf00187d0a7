"""Verification finds whatever is wrong with the stored bytes, and nothing in good ones."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from backup_pipeline.engine import verify as verify_module
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_evidence
from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import (
    Codec,
    Manifest,
    Member,
    Progress,
    Section,
    State,
    TableRows,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, StoreUnreachable, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakePostgres, section_sql

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
KEYS = Keys("b/")
NAME = BackupName.of("ahold_options", NOW)
DUMP, MANIFEST = KEYS.of(NAME, Kind.DUMP), KEYS.of(NAME, Kind.MANIFEST)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are so small that there are many of them."""
    monkeypatch.setattr(verify_module, "_ENOUGH", 20_000)


each_codec = pytest.mark.parametrize("codec", list(Codec), indirect=True)


@pytest.fixture
def codec(request: pytest.FixtureRequest) -> Codec:
    """What the backup is compressed with."""
    return Codec(getattr(request, "param", Codec.GZIP))


@pytest.fixture
def manifest(store: MemoryStore, codec: Codec) -> Manifest:
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    return back_up(source, store, KEYS, NAME, codec=codec, clock=lambda: NOW)


def findings(store: MemoryStore) -> tuple[str, ...]:
    entry = verify(store, KEYS, NAME, clock=lambda: NOW)
    assert entry.passed == (not entry.findings)
    (backup,) = read_catalog(store, KEYS).backups
    assert backup.state is (State.VERIFIED if entry.passed else State.FAILED)
    return entry.findings


@each_codec
def test_a_good_backup_is_verified_and_the_evidence_says_so(
    store: MemoryStore, manifest: Manifest
) -> None:
    assert findings(store) == ()
    (entry,) = read_evidence(store, KEYS, NAME).entries
    assert (entry.passed, entry.rows, entry.read_bytes) == (True, manifest.rows, manifest.length)


@each_codec
@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_anywhere_is_found(
    store: MemoryStore, manifest: Manifest, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # not a secret
    dump = KEYS.of(NAME, manifest.codec.kind)
    body = bytearray(store.objects[dump].body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    store.put(dump, bytes(body), overwrite=True)
    assert findings(store)


@each_codec
@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-1],
        lambda body: b"",
        lambda body: body + b"\0",
        lambda body: body[: len(body) // 2],
        lambda body: body + body,
    ],
    ids=["one byte short", "empty", "one byte more", "half", "twice"],
)
def test_another_length_is_found(
    store: MemoryStore, manifest: Manifest, damage: Callable[[bytes], bytes]
) -> None:
    dump = KEYS.of(NAME, manifest.codec.kind)
    store.put(dump, damage(store.objects[dump].body), overwrite=True)
    assert "bytes where the backup had" in findings(store)[0]


@pytest.mark.parametrize("kind", [Kind.DUMP, Kind.SCHEMA])
def test_a_missing_object_is_found(store: MemoryStore, manifest: Manifest, kind: Kind) -> None:
    store.delete(KEYS.of(NAME, kind))
    entry = verify(store, KEYS, NAME, clock=lambda: NOW)
    assert "missing" in entry.findings[0]


@pytest.mark.parametrize("archive", [b"PGDMQ", b"PGDMP and more"])
def test_another_schema_archive_is_found(
    store: MemoryStore, manifest: Manifest, archive: bytes
) -> None:
    store.put(KEYS.of(NAME, Kind.SCHEMA), archive, overwrite=True)
    assert "schema archive" in findings(store)[0]


def rewritten(manifest: Manifest, store: MemoryStore, texts: dict[Section, bytes]) -> Manifest:
    """The backup as somebody would forge it who can write, and who sets every hash right."""
    members: list[Member] = []
    body = b""
    for member in manifest.members:
        writer = MemberWriter()
        raw = texts.get(member.section, section_sql(member.section))
        stored = writer.compress(raw) + writer.finish()
        members.append(
            replace(
                member,
                offset=len(body),
                length=len(stored),
                raw_length=len(raw),
                sha256=writer.sha256,
            )
        )
        body += stored
    store.put(DUMP, body, overwrite=True)
    return replace(manifest, members=tuple(members))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (section_sql(Section.DATA).replace(b"2\t2.75\n", b""), "rows"),
        (section_sql(Section.DATA).replace(b"public.trades", b"public.tradez"), "rows"),
        (section_sql(Section.DATA).replace(b"dump complete", b"dump"), "closing line"),
        (section_sql(Section.DATA).replace(b"COPY", b"\\! id\nCOPY"), "meta-command"),
    ],
    ids=["a row less", "another table", "no closing line", "a meta-command"],
)
def test_right_hashes_do_not_make_up_for_wrong_contents(
    store: MemoryStore, manifest: Manifest, text: bytes, said: str
) -> None:
    forged = rewritten(manifest, store, {Section.DATA: text})
    store.put(MANIFEST, to_json(forged), overwrite=True)
    assert said in findings(store)[0]


@pytest.mark.usefixtures("small_requests")
def test_of_two_faults_the_first_by_its_place_is_named(manifest: Manifest) -> None:
    class Slow(MemoryStore):
        def read(
            self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
        ) -> Iterator[bytes]:
            if key == DUMP and start == 0:
                time.sleep(0.3)
            return super().read(key, start, length, etag=etag)

    store = Slow()
    forged = many_members(manifest, store, 100)
    early, late = (forged.members[i] for i in (7, 99))
    body = bytearray(store.objects[DUMP].body)
    for member in (early, late):
        body[member.offset + member.length // 2] ^= 1
    store.put(DUMP, bytes(body), overwrite=True)
    (found,) = verify(store, KEYS, NAME, jobs=2, clock=lambda: NOW).findings
    assert f"member data at {early.offset}:" in found


@pytest.mark.usefixtures("small_requests")
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_every_byte_is_read_once_and_small_members_share_a_request(
    manifest: Manifest, jobs: int
) -> None:
    store = Counting()
    many_members(manifest, store, 500)
    size = len(store.objects[DUMP].body)
    store.asked.clear()
    assert verify(store, KEYS, NAME, jobs=jobs, clock=lambda: NOW).passed
    ranges = sorted(start for key, start, _ in store.asked if key == DUMP)
    lengths = {start: length or 0 for key, start, length in store.asked if key == DUMP}
    assert sum(lengths.values()) == size
    assert all(a + lengths[a] == b for a, b in pairwise(ranges))
    assert len(ranges) <= size / 20_000 + 1


def test_a_large_member_has_a_request_of_its_own_and_the_largest_come_first(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever read a large one last would read it alone."""
    store = Counting()
    forged = many_members(manifest, store, 9)
    large = max(member.length for member in forged.members)
    monkeypatch.setattr(verify_module, "_ENOUGH", large)
    store.asked.clear()
    assert verify(store, KEYS, NAME, jobs=1, clock=lambda: NOW).passed
    asked = [(start, length or 0) for key, start, length in store.asked if key == DUMP]
    lengths = [length for _, length in asked]
    assert lengths == sorted(lengths, reverse=True)
    alone = {(m.offset, m.length) for m in forged.members if m.length == large}
    assert alone
    assert alone <= {*asked}


@pytest.mark.usefixtures("small_requests")
def test_trouble_of_the_store_ends_all_and_is_no_finding(
    manifest: Manifest, store: MemoryStore
) -> None:
    class Failing(MemoryStore):
        def read(
            self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
        ) -> Iterator[bytes]:
            for chunk in super().read(key, start, length, etag=etag):
                if key == DUMP and start > 100_000:
                    raise StoreUnreachable("the cable")
                yield chunk

    failing = Failing()
    many_members(manifest, failing, 500)
    with pytest.raises(StoreUnreachable, match="the cable"):
        verify(failing, KEYS, NAME, jobs=3, clock=lambda: NOW)
    assert read_evidence(failing, KEYS, NAME).entries == ()


@pytest.mark.usefixtures("small_requests")
def test_an_interruption_ends_it_at_once(manifest: Manifest, store: MemoryStore) -> None:
    many_members(manifest, store, 500)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(store, KEYS, NAME, jobs=2, clock=lambda: NOW, report=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "crew"]


class Counting(MemoryStore):
    """Takes down what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int | None]] = []

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        self.asked.append((key, start, length))
        return super().read(key, start, length, etag=etag)


def many_members(manifest: Manifest, store: MemoryStore, count: int) -> Manifest:
    """The backup with its data in so many members, each of somewhat more than a kilobyte."""
    chance = random.Random(4)  # noqa: S311  # not a secret
    rows = [chance.randbytes(1000).hex().encode() + b"\n" for _ in range(count)]
    begin = b"COPY public.trades (id, price) FROM stdin;\n"
    texts = [(section_sql(Section.PRE_DATA), Section.PRE_DATA)]
    texts += [(begin + row + b"\\.\n", Section.DATA) for row in rows]
    texts[-1] = (
        section_sql(Section.DATA).replace(b"1\t2.50\n2\t2.75\n3\t2.60\n", rows[-1]),
        Section.DATA,
    )
    texts += [(section_sql(Section.POST_DATA), Section.POST_DATA)]
    texts.insert(0, (section_sql(Section.DROPS), Section.DROPS))
    members: list[Member] = []
    body = bytearray()
    for raw, section in texts:
        writer = MemberWriter()
        stored = writer.compress(raw) + writer.finish()
        tables = (TableRows("public", "trades", 1),) if section is Section.DATA else ()
        members.append(Member(section, len(body), len(stored), len(raw), writer.sha256, tables))
        body += stored
    store.put(DUMP, bytes(body), overwrite=True)
    store.put(KEYS.of(NAME, Kind.SCHEMA), b"PGDMP", overwrite=True)
    made = replace(manifest, members=tuple(members))
    store.put(MANIFEST, to_json(made), overwrite=True)
    return made


def test_members_in_another_order_are_found(store: MemoryStore, manifest: Manifest) -> None:
    first, *rest = manifest.members
    swapped = replace(manifest, members=(*rest, first))
    store.put(MANIFEST, to_json(swapped), overwrite=True)
    with pytest.raises(VerificationFailed):
        verify(store, KEYS, NAME, clock=lambda: NOW)


def test_a_member_too_few_is_found(store: MemoryStore, manifest: Manifest) -> None:
    fewer = manifest.members[:-1]
    store.put(MANIFEST, to_json(replace(manifest, members=fewer)), overwrite=True)
    body = store.objects[DUMP].body[: sum(member.length for member in fewer)]
    store.put(DUMP, body, overwrite=True)
    assert "section" in findings(store)[0]


def test_a_manifest_of_before_there_was_a_codec_is_one_of_gzip(
    store: MemoryStore, manifest: Manifest
) -> None:
    document = json.loads(store.objects[MANIFEST].body)
    assert document.pop("codec") == "gzip"
    document.pop("sha256")
    store.put(MANIFEST, json.dumps(document).encode(), overwrite=True)
    assert findings(store) == ()


@each_codec
def test_a_codec_that_was_forged_is_found(store: MemoryStore, manifest: Manifest) -> None:
    """The dump stands under the other key as well."""
    (other,) = set(Codec) - {manifest.codec}
    store.put(KEYS.of(NAME, other.kind), store.objects[KEYS.of(NAME, manifest.codec.kind)].body)
    store.put(MANIFEST, to_json(replace(manifest, codec=other)), overwrite=True)
    assert f"the {other} stream is damaged" in findings(store)[0]


def test_a_manifest_of_another_backup_is_refused(store: MemoryStore, manifest: Manifest) -> None:
    other = replace(manifest, name="ahold_options_2020-01-01_000000")
    store.put(MANIFEST, to_json(other), overwrite=True)
    with pytest.raises(VerificationFailed, match="2020"):
        verify(store, KEYS, NAME, clock=lambda: NOW)


def test_a_backup_that_is_not_there_is_not_found(store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        verify(store, KEYS, NAME, clock=lambda: NOW)


def test_a_prune_beside_it_makes_no_false_alarm_and_leaves_nothing(manifest: Manifest) -> None:
    """The manifest is read, and then a prune takes the whole backup away."""

    class Pruned(MemoryStore):
        def head(self, key: str) -> ObjectInfo:
            self.objects.clear()
            return super().head(key)

    pruned = Pruned()
    pruned.put(MANIFEST, to_json(manifest))
    with pytest.raises(NotFound, match="was deleted while it was read"):
        verify(pruned, KEYS, NAME, clock=lambda: NOW)
    assert not pruned.objects


def test_an_object_written_again_voids_the_evidence(store: MemoryStore, manifest: Manifest) -> None:
    assert findings(store) == ()
    body = bytearray(store.objects[DUMP].body)
    body[-1] ^= 1
    store.put(DUMP, bytes(body), overwrite=True)
    (backup,) = read_catalog(store, KEYS).backups
    assert backup.state is State.UNVERIFIED


def test_a_later_failure_counts_and_both_entries_stay(
    store: MemoryStore, manifest: Manifest
) -> None:
    assert findings(store) == ()
    good = store.objects[DUMP].body
    store.put(DUMP, good[:-1] + b"\xff", overwrite=True)
    assert findings(store)
    assert [entry.passed for entry in read_evidence(store, KEYS, NAME).entries] == [True, False]


def test_a_manifest_without_the_sha_256_of_a_member_is_refused(
    store: MemoryStore, manifest: Manifest
) -> None:
    members = tuple(replace(member, sha256=None) for member in manifest.members)
    forged = to_json(replace(manifest, members=members))
    store.put(MANIFEST, forged, overwrite=True)
    assert "lacks the SHA-256" in findings(store)[0]
