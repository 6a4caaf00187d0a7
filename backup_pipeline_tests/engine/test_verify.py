"""Verification finds whatever is wrong with the stored bytes, and nothing in good ones."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_evidence
from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import Manifest, Member, Section, State
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, VerificationFailed
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
def manifest(store: MemoryStore) -> Manifest:
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    return back_up(source, store, KEYS, NAME, clock=lambda: NOW)


def findings(store: MemoryStore) -> tuple[str, ...]:
    entry = verify(store, KEYS, NAME, clock=lambda: NOW)
    assert entry.passed == (not entry.findings)
    (backup,) = read_catalog(store, KEYS).backups
    assert backup.state is (State.VERIFIED if entry.passed else State.FAILED)
    return entry.findings


def test_a_good_backup_is_verified_and_the_evidence_says_so(
    store: MemoryStore, manifest: Manifest
) -> None:
    assert findings(store) == ()
    (entry,) = read_evidence(store, KEYS, NAME).entries
    assert (entry.passed, entry.rows, entry.read_bytes) == (True, manifest.rows, manifest.length)


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_anywhere_is_found(
    store: MemoryStore, manifest: Manifest, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # not a secret
    body = bytearray(store.objects[DUMP].body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    store.put(DUMP, bytes(body), overwrite=True)
    assert findings(store)


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
    store.put(DUMP, damage(store.objects[DUMP].body), overwrite=True)
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


def test_a_manifest_of_another_backup_is_refused(store: MemoryStore, manifest: Manifest) -> None:
    other = replace(manifest, name="ahold_options_2020-01-01_000000")
    store.put(MANIFEST, to_json(other), overwrite=True)
    with pytest.raises(VerificationFailed, match="2020"):
        verify(store, KEYS, NAME, clock=lambda: NOW)


def test_a_backup_that_is_not_there_is_not_found(store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        verify(store, KEYS, NAME, clock=lambda: NOW)


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
