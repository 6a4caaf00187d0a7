"""The catalog: which backups a bucket holds, in what state, and what else lies there."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.engine.catalog import (
    newest,
    read_backup,
    read_catalog,
    read_evidence,
    read_manifest,
    record,
    record_verdict,
    survey,
    taken_by,
)
from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.index import write_index
from backup_pipeline.engine.model import Act, Backup, Codec, EvidenceEntry, Manifest, State, Stray
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.engine.pins import pin
from backup_pipeline.errors import NotFound, ObjectMissing, StoreUnreachable, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import (
    DATABASE,
    KEYS,
    MADE,
    NOW,
    days_ago,
    make_backup,
    make_evidence,
)


class CountingStore(MemoryStore):
    """Knows which keys were read, and can lose an object between listing and reading."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.vanishing: set[str] = set()
        self.broken: set[str] = set()

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        self.reads.append(key)
        if key in self.vanishing:
            raise ObjectMissing(f"there is no {key!r}")
        if key in self.broken:
            raise StoreUnreachable(f"no answer for {key!r}")
        return super().read(key, start, length, etag=etag)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def the_backup(store: MemoryStore) -> Backup:
    (backup,) = read_catalog(store, KEYS).backups
    return backup


def strays(store: MemoryStore) -> dict[str, Stray]:
    return {stray.key: stray for stray in read_catalog(store, KEYS).strays}


def rewrite(store: MemoryStore, name: BackupName, kind: Kind, body: bytes) -> None:
    store.put(KEYS.of(name, kind), body, overwrite=True)


def test_an_empty_bucket_holds_no_backup(store: CountingStore) -> None:
    catalog = read_catalog(store, KEYS)
    assert (catalog.backups, catalog.strays) == ((), ())


def test_a_backup_is_what_its_manifest_its_evidence_and_the_listing_say(
    store: CountingStore,
) -> None:
    name = make_backup(store, days_ago(1))
    size = store.head(KEYS.of(name, Kind.DUMP)).size
    assert the_backup(store) == Backup(
        name=name,
        taken_at=days_ago(1),
        size=size,
        raw_length=10 * size,
        tables=1,
        rows=42,
        duration=2.0,
        server_version="18.1",
        state=State.VERIFIED,
        verified_at=days_ago(1),
    )


def test_backups_come_newest_first(store: CountingStore) -> None:
    made = [make_backup(store, days_ago(day)) for day in (3, 1, 2)]
    names = [backup.name for backup in read_catalog(store, KEYS).backups]
    assert names == [made[1], made[2], made[0]]


def test_only_the_asked_database_is_read_even_if_another_name_begins_like_it(
    store: CountingStore,
) -> None:
    name = make_backup(store, days_ago(1), database="ahold")
    make_backup(store, days_ago(1), database="ahold_options")
    assert [backup.name for backup in read_catalog(store, KEYS, "ahold").backups] == [name]
    assert len(read_catalog(store, KEYS).backups) == 2


def test_without_evidence_a_backup_is_unverified(store: CountingStore) -> None:
    make_backup(store, days_ago(1), verified=None)
    assert (the_backup(store).state, the_backup(store).verified_at) == (State.UNVERIFIED, None)


def test_the_newest_evidence_decides(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1), verified=False)
    assert the_backup(store).state is State.FAILED
    assert the_backup(store).findings == ("member data: one bit is flipped",)
    make_evidence(store, name, act=Act.DRILL)
    assert the_backup(store).state is State.VERIFIED
    make_evidence(store, name, passed=False)
    assert the_backup(store).state is State.FAILED


def test_evidence_holds_only_for_the_object_that_was_looked_at(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    body = store.objects[KEYS.of(name, Kind.DUMP)].body
    rewrite(store, name, Kind.DUMP, body[::-1])
    assert the_backup(store).state is State.UNVERIFIED
    assert "written again" in the_backup(store).findings[0]


def test_an_object_put_back_after_another_failed_is_unverified_again(
    store: CountingStore,
) -> None:
    name = make_backup(store, days_ago(1))
    body = store.objects[KEYS.of(name, Kind.DUMP)].body
    rewrite(store, name, Kind.DUMP, body[::-1])
    make_evidence(store, name, passed=False)
    assert the_backup(store).state is State.FAILED
    rewrite(store, name, Kind.DUMP, body)
    assert the_backup(store).state is State.UNVERIFIED


def test_a_truncated_object_has_failed_whatever_the_evidence_says(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    rewrite(store, name, Kind.DUMP, b"dump")
    make_evidence(store, name)
    backup = the_backup(store)
    assert (backup.state, backup.size) == (State.FAILED, 4)
    assert "the dump object has 4 bytes, and the manifest says" in backup.findings[0]


def test_a_backup_whose_object_is_missing_has_failed(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    store.delete(KEYS.of(name, Kind.DUMP))
    assert the_backup(store).state is State.FAILED
    assert the_backup(store).findings == ("the dump object is missing",)


@pytest.mark.parametrize(("codec", "other"), [tuple(Codec), tuple(reversed(Codec))])
def test_a_dump_of_the_other_codec_is_none_of_the_backups(
    store: CountingStore, codec: Codec, other: Codec
) -> None:
    name = make_backup(store, days_ago(1), codec=codec)
    foreign = KEYS.of(name, other.kind)
    store.put(foreign, b"another script wrote this, longer")
    backup = the_backup(store)
    assert (backup.codec, backup.state) == (codec, State.VERIFIED)
    assert backup.size == store.head(KEYS.of(name, codec.kind)).size
    (stray,) = strays(store).values()
    assert (stray.key, stray.deletable) == (foreign, False)
    assert stray.reason == "the backup of this name has another dump"
    store.delete(KEYS.of(name, codec.kind))
    assert the_backup(store).findings == ("the dump object is missing",)


def test_two_swapped_objects_are_not_verified(store: CountingStore) -> None:
    first, second = (make_backup(store, days_ago(day)) for day in (1, 2))
    keys = [KEYS.of(name, Kind.DUMP) for name in (first, second)]
    objects = store.objects
    objects[keys[0]], objects[keys[1]] = objects[keys[1]], objects[keys[0]]
    assert {backup.state for backup in read_catalog(store, KEYS).backups} == {State.UNVERIFIED}


def test_a_backup_whose_schema_archive_is_missing_has_failed(store: CountingStore) -> None:
    """Its dump was proved whole, and still every restore of it is refused."""
    name = make_backup(store, days_ago(1))
    make_evidence(store, name, act=Act.DRILL)
    store.delete(KEYS.of(name, Kind.SCHEMA))
    backup = the_backup(store)
    assert (backup.state, backup.restored_at) == (State.FAILED, None)
    assert backup.findings == ("the schema archive beside the dump is missing",)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'{"version": 2}'])
def test_evidence_that_cannot_be_read_proves_nothing_and_is_named(
    store: CountingStore, body: bytes
) -> None:
    name = make_backup(store, days_ago(1))
    rewrite(store, name, Kind.EVIDENCE, body)
    assert the_backup(store).state is State.UNVERIFIED
    assert "damaged" in the_backup(store).findings[0]


def test_evidence_of_another_backup_proves_nothing(store: CountingStore) -> None:
    name, other = (make_backup(store, days_ago(day)) for day in (1, 2))
    rewrite(store, name, Kind.EVIDENCE, store.objects[KEYS.of(other, Kind.EVIDENCE)].body)
    backup = read_backup(store, KEYS, name)
    assert backup.state is State.UNVERIFIED
    assert str(other) in backup.findings[0]


def test_a_new_verification_begins_damaged_evidence_anew(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    rewrite(store, name, Kind.EVIDENCE, b"{")
    make_evidence(store, name)
    assert the_backup(store).state is State.VERIFIED


def test_evidence_is_added_to_what_is_there(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1), verified=None)
    assert read_evidence(store, KEYS, name).entries == ()
    entries = [EvidenceEntry(act, NOW, True, "e", (), 1, 1, 0.1) for act in Act]
    for entry in entries:
        record(store, KEYS, name, entry)
    assert read_evidence(store, KEYS, name).entries == tuple(entries)


def forged(store: MemoryStore, name: BackupName) -> dict[str, bytes]:
    manifest = from_json(Manifest, store.objects[KEYS.of(name, Kind.MANIFEST)].body, "it")
    (member,) = manifest.members
    gap = replace(member, offset=1)
    return {
        "another name": to_json(replace(manifest, name="other_2025-01-01_000000")),
        "no UUID": to_json(replace(manifest, id="x")),
        "a gap": to_json(replace(manifest, members=(gap,))),
        "no member": to_json(replace(manifest, members=())),
        "empty": b"",
        "cut": to_json(manifest)[:-10],
        "binary": b"\xff\x00",
    }


@pytest.mark.parametrize(
    "how", ["another name", "no UUID", "a gap", "no member", "empty", "cut", "binary"]
)
def test_a_damaged_or_forged_manifest_is_reported_and_never_a_backup(
    store: CountingStore, how: str
) -> None:
    name = make_backup(store, days_ago(1))
    rewrite(store, name, Kind.MANIFEST, forged(store, name)[how])
    assert read_catalog(store, KEYS).backups == ()
    found = strays(store)
    assert set(found) == {KEYS.of(name, kind) for kind in MADE}
    assert not any(stray.deletable for stray in found.values())
    assert "manifest" in found[KEYS.of(name, Kind.MANIFEST)].reason
    with pytest.raises(VerificationFailed):
        read_manifest(store, KEYS, name)


def test_a_damaged_manifest_stays_undeletable_although_a_deletion_was_begun(
    store: CountingStore,
) -> None:
    name = make_backup(store, days_ago(1))
    make_evidence(store, name, act=Act.EXPIRE)
    rewrite(store, name, Kind.MANIFEST, b"{")
    assert not any(stray.deletable for stray in strays(store).values())


def test_a_missing_manifest_is_no_backup(store: CountingStore) -> None:
    with pytest.raises(NotFound, match="there is no backup"):
        read_manifest(store, KEYS, BackupName.of(DATABASE, NOW))


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.EVIDENCE])
def test_what_vanishes_between_listing_and_reading_is_no_crash(
    store: CountingStore, kind: Kind
) -> None:
    name = make_backup(store, days_ago(1))
    make_backup(store, days_ago(2))
    store.vanishing.add(KEYS.of(name, kind))
    catalog = read_catalog(store, KEYS)
    if kind is Kind.MANIFEST:
        assert len(catalog.backups) == 1
        assert "vanished" in catalog.strays[0].reason
    else:
        assert [b.state for b in catalog.backups] == [State.UNVERIFIED, State.VERIFIED]


def test_a_dump_without_a_manifest_is_reported_and_left_alone(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    store.delete(KEYS.of(name, Kind.MANIFEST))
    found = strays(store)
    assert set(found) == {KEYS.of(name, kind) for kind in MADE if kind is not Kind.MANIFEST}
    assert {s.deletable for s in found.values()} == {False}
    reasons = {s.reason.split(";")[0] for s in found.values()}
    assert reasons == {"there is no manifest of this name"}


def test_what_an_unfinished_deletion_left_over_may_be_deleted(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    make_evidence(store, name, act=Act.EXPIRE)
    store.delete(KEYS.of(name, Kind.MANIFEST))
    assert all(stray.deletable for stray in strays(store).values())
    store.delete(KEYS.of(name, Kind.DUMP))
    assert all(stray.deletable for stray in strays(store).values())


def test_a_new_dump_of_an_expired_name_is_not_deletable(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    make_evidence(store, name, act=Act.EXPIRE)
    store.delete(KEYS.of(name, Kind.MANIFEST))
    rewrite(store, name, Kind.DUMP, b"a new dump that is not finished yet")
    assert not any(stray.deletable for stray in strays(store).values())


def test_a_dump_that_was_verified_after_its_expiry_is_not_deletable(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    make_evidence(store, name, act=Act.EXPIRE)
    make_evidence(store, name)
    store.delete(KEYS.of(name, Kind.MANIFEST))
    assert not any(stray.deletable for stray in strays(store).values())


@pytest.mark.parametrize(
    ("verified", "state"),
    [(True, State.VERIFIED), (False, State.FAILED), (None, State.UNVERIFIED)],
)
def test_an_expiry_says_nothing_of_the_state(
    store: CountingStore, verified: bool | None, state: State
) -> None:
    name = make_backup(store, days_ago(1), verified=verified)
    make_evidence(store, name, act=Act.EXPIRE)
    assert the_backup(store).state is state


@pytest.mark.parametrize(
    "key", ["notes.txt", "sub/ahold_options_2025-12-15_220000.sql.gz", "x.sql.gz", ".probe-1"]
)
def test_foreign_objects_are_reported_and_left_alone(store: CountingStore, key: str) -> None:
    store.put(KEYS.prefix + key, b"mine")
    (stray,) = read_catalog(store, KEYS).strays
    assert (stray.key, stray.size, stray.deletable) == (KEYS.prefix + key, 4, False)
    assert stray.reason == "not an object of this software"


def indexed(store: CountingStore) -> None:
    write_index(store, KEYS, survey(store, KEYS).index)
    store.reads.clear()


def test_with_an_index_nothing_else_is_read(store: CountingStore) -> None:
    for day in range(5):
        make_backup(store, days_ago(day), verified=[True, False, None][day % 3])
    plain = read_catalog(store, KEYS)
    indexed(store)
    assert read_catalog(store, KEYS) == plain
    assert store.reads == [KEYS.index]


def test_the_index_knows_the_codec(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1), codec=Codec.ZSTD)
    write_index(store, KEYS, survey(store, KEYS).index)
    store.reads.clear()
    assert (the_backup(store).codec, the_backup(store).state) == (Codec.ZSTD, State.VERIFIED)
    assert KEYS.of(name, Kind.MANIFEST) not in store.reads


def test_the_index_never_outlives_the_documents_it_was_made_of(store: CountingStore) -> None:
    verified, rewritten, gone = (make_backup(store, days_ago(day)) for day in (1, 2, 3))
    indexed(store)
    make_evidence(store, verified, passed=False)
    rewrite(store, rewritten, Kind.MANIFEST, b"{")
    store.delete(KEYS.of(gone, Kind.MANIFEST))
    backup = the_backup(store)
    assert (backup.name, backup.state) == (verified, State.FAILED)


def test_the_index_does_not_hide_what_happens_to_the_dump(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    indexed(store)
    rewrite(store, name, Kind.DUMP, b"short")
    assert the_backup(store).state is State.FAILED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"version": 9, "entries": {}}',
        b'{"version": 1, "entries": {"../x": {}}}',
    ],
)
def test_a_damaged_index_loses_nothing_and_is_no_stray(store: CountingStore, body: bytes) -> None:
    make_backup(store, days_ago(1))
    plain = read_catalog(store, KEYS)
    store.put(KEYS.index, body)
    assert read_catalog(store, KEYS) == plain


def test_an_index_that_the_store_can_not_give_loses_nothing(store: CountingStore) -> None:
    make_backup(store, days_ago(1))
    plain = read_catalog(store, KEYS)
    indexed(store)
    store.broken.add(KEYS.index)
    assert read_catalog(store, KEYS) == plain


def test_a_manifest_that_the_store_can_not_give_is_named_and_hides_no_other(
    store: CountingStore,
) -> None:
    make_backup(store, days_ago(2))
    (other,) = read_catalog(store, KEYS).backups
    name = make_backup(store, days_ago(1))
    store.broken.add(KEYS.of(name, Kind.MANIFEST))
    catalog = read_catalog(store, KEYS)
    assert catalog.backups == (other,)
    assert {stray.key for stray in catalog.strays} == {KEYS.of(name, kind) for kind in MADE}
    assert not any(stray.deletable or stray.unfinished for stray in catalog.strays)
    assert {stray.reason for stray in catalog.strays} == {
        f"no answer for {KEYS.of(name, Kind.MANIFEST)!r}"
    }


def test_where_the_store_gives_no_manifest_at_all_nothing_is_said_of_the_backups(
    store: CountingStore,
) -> None:
    for days in (1, 2):
        store.broken.add(KEYS.of(make_backup(store, days_ago(days)), Kind.MANIFEST))
    with pytest.raises(StoreUnreachable):
        read_catalog(store, KEYS)


@pytest.mark.parametrize(("broken", "told"), [(8, True), (9, False)])
def test_many_documents_that_are_not_given_are_the_store_and_not_the_documents(
    store: CountingStore, broken: int, told: bool
) -> None:
    make_backup(store, days_ago(100))
    for days in range(broken):
        store.broken.add(KEYS.of(make_backup(store, days_ago(days)), Kind.EVIDENCE))
    if told:
        assert len(read_catalog(store, KEYS).backups) == broken + 1
    else:
        with pytest.raises(StoreUnreachable):
            read_catalog(store, KEYS)


def test_evidence_that_the_store_can_not_give_proves_nothing_as_long_as_it_can_not(
    store: CountingStore,
) -> None:
    name = make_backup(store, days_ago(1))
    store.broken.add(KEYS.of(name, Kind.EVIDENCE))
    backup = the_backup(store)
    assert backup.state is State.UNVERIFIED
    assert backup.findings == (f"no answer for {KEYS.of(name, Kind.EVIDENCE)!r}",)
    indexed(store)
    store.broken.clear()
    assert the_backup(store).state is State.VERIFIED


def test_a_pin_that_the_store_can_not_give_pins_all_the_same(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    pin(store, KEYS, name, "before the migration", clock=lambda: NOW)
    store.broken.add(KEYS.of(name, Kind.PIN))
    assert the_backup(store).pin == f"no answer for {KEYS.of(name, Kind.PIN)!r}"


def test_what_is_left_of_a_deletion_stays_where_nobody_can_know_that_it_is(
    store: CountingStore,
) -> None:
    make_backup(store, days_ago(2))
    name = make_backup(store, days_ago(1))
    store.delete(KEYS.of(name, Kind.MANIFEST))
    store.broken.add(KEYS.of(name, Kind.EVIDENCE))
    assert not any(stray.deletable for stray in strays(store).values())


def test_an_index_with_names_that_are_none_is_read_without_them(store: CountingStore) -> None:
    make_backup(store, days_ago(1))
    entry = next(iter(survey(store, KEYS).index.values()))
    write_index(store, KEYS, {"../x": entry})
    assert list(survey(store, KEYS, DATABASE).index) == [str(the_backup(store).name)]


def test_the_index_of_one_database_keeps_the_entries_of_the_others(store: CountingStore) -> None:
    names = {str(make_backup(store, days_ago(1), database=name)) for name in ("a", "b")}
    indexed(store)
    assert set(survey(store, KEYS, "a").index) == names


def test_what_is_there_of_no_database_leaves_the_index_as_it_is(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    indexed(store)
    assert set(survey(store, KEYS, "a_typo").index) == {str(name)}


@pytest.mark.parametrize("verified", [True, False, None])
def test_one_backup_is_read_by_its_name_whatever_ails_the_others(
    store: CountingStore, verified: bool | None
) -> None:
    name = make_backup(store, days_ago(1), verified=verified)
    pin(store, KEYS, name, "before the migration", clock=lambda: NOW)
    expected = the_backup(store)
    other = make_backup(store, days_ago(2))
    store.broken.add(KEYS.of(other, Kind.MANIFEST))
    store.reads.clear()
    assert read_backup(store, KEYS, name) == expected
    assert not [key for key in store.reads if not key.startswith(KEYS.stem(name))]


def test_a_backup_that_is_deleted_while_it_is_read_is_not_found(store: CountingStore) -> None:
    name = make_backup(store, days_ago(1))
    entry = read_evidence(store, KEYS, name).entries[0]
    store.delete(KEYS.of(name, Kind.MANIFEST))
    store.delete(KEYS.of(name, Kind.EVIDENCE))
    with pytest.raises(NotFound, match="was deleted while it was read"):
        record_verdict(store, KEYS, name, entry)
    assert KEYS.of(name, Kind.EVIDENCE) not in store.objects
    with pytest.raises(NotFound, match="there is no backup"):
        read_backup(store, KEYS, name)


def backups_of(store: MemoryStore, *days: float) -> tuple[Backup, ...]:
    for day in days:
        make_backup(store, days_ago(day))
    return read_catalog(store, KEYS).backups


def test_the_newest_backup_is_never_one_dated_in_the_future(store: CountingStore) -> None:
    backups = backups_of(store, -1, 1, 2)
    found = newest(backups, NOW)
    assert found is not None
    assert found.taken_at == days_ago(1)
    assert newest([], NOW) is None


def test_taken_by_gives_the_newest_backup_at_or_before_a_moment(store: CountingStore) -> None:
    backups = backups_of(store, 1, 2, 3)
    assert taken_by(backups, days_ago(2)).taken_at == days_ago(2)
    assert taken_by(backups, days_ago(1.5)).taken_at == days_ago(2)
    with pytest.raises(NotFound, match="the oldest, ahold_options_2025-12-13_220000, was taken at"):
        taken_by(backups, days_ago(3) - timedelta(seconds=1))
    with pytest.raises(NotFound, match="none at all"):
        taken_by([], datetime(2025, 1, 1, tzinfo=UTC))
