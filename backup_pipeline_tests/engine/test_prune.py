"""Prune: what it deletes, in which order, and everything that it never touches."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_evidence
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.index import read_index
from backup_pipeline.engine.model import (
    Act,
    Codec,
    PruneResult,
    RetentionPolicy,
    archive_kind,
    dump_kind,
)
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectInfo, UploadInfo
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NewestNotVerified, StoreDenied, StoreUnreachable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakePostgres
from backup_pipeline_tests.made_backups import (
    DATABASE,
    KEYS,
    MADE,
    NOW,
    days_ago,
    make_backup,
    make_evidence,
    manifest_of,
)

POLICY = RetentionPolicy(days=7, minimum=1)


class Bucket(MemoryStore):
    """Tells the time that a test sets, notes every change, and refuses the chosen ones."""

    def __init__(self) -> None:
        super().__init__(lambda: self.time)
        self.time = NOW
        self.changes: list[tuple[str, str]] = []
        self.refused: set[tuple[str, str]] = set()

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        self._note("put", key)
        return super().put(key, body, overwrite=overwrite)

    def delete(self, key: str) -> None:
        self._note("delete", key)
        super().delete(key)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._note("abort", key)
        super().abort_upload(key, upload_id)

    def list_uploads(self, prefix: str) -> Iterator[UploadInfo]:
        self._note("list_uploads", prefix)
        return super().list_uploads(prefix)

    def _note(self, verb: str, key: str) -> None:
        self.changes.append((verb, key))
        if (verb, key) in self.refused:
            raise StoreDenied(f"{verb} of {key} is not allowed")


@pytest.fixture
def store() -> Bucket:
    return Bucket()


def made(
    store: Bucket, *days: float, database: str = DATABASE, verified: bool | None = True
) -> list[BackupName]:
    """Backups of these ages, each stored at the time it was taken."""
    names = []
    for day in days:
        store.time = days_ago(day)
        names.append(make_backup(store, days_ago(day), database=database, verified=verified))
    store.time = NOW
    store.changes.clear()
    return names


def run(store: Bucket, *, dry_run: bool = False, now: datetime = NOW) -> PruneResult:
    return prune(store, KEYS, DATABASE, POLICY, now=now, dry_run=dry_run)


def names_in(store: Bucket) -> set[str]:
    return {str(backup.name) for backup in read_catalog(store, KEYS).backups}


def test_expired_backups_go_and_the_others_stay(store: Bucket) -> None:
    kept, expired = made(store, 1, 8)
    size = store.head(KEYS.of(expired, Kind.DUMP)).size
    result = run(store)
    assert result.deleted == (str(expired),)
    assert result.reclaimed == size
    assert not result.failed
    assert [d.reason for d in result.expired] == ["8 days old, and 1 newer verified ones stay"]
    assert set(store.objects) == {KEYS.of(kept, kind) for kind in MADE} | {KEYS.index}


def test_the_expiry_is_recorded_first_the_manifest_goes_next_and_the_evidence_last(
    store: Bucket,
) -> None:
    _, expired = made(store, 1, 8)
    run(store)
    assert [change for change in store.changes if str(expired) in change[1]] == [
        ("put", KEYS.of(expired, Kind.EVIDENCE)),
        ("delete", KEYS.of(expired, Kind.MANIFEST)),
        ("delete", KEYS.of(expired, Kind.DUMP)),
        ("delete", KEYS.of(expired, Kind.SCHEMA)),
        ("delete", KEYS.of(expired, Kind.EVIDENCE)),
    ]


@pytest.mark.parametrize("verified", [None, False])
def test_nothing_is_deleted_while_the_newest_backup_is_not_verified(
    store: Bucket, verified: bool | None
) -> None:
    made(store, 8, 9)
    (latest,) = made(store, 1, verified=verified)
    before = dict(store.objects)
    with pytest.raises(NewestNotVerified, match=f"newest backup, {latest}, "):
        run(store)
    assert store.objects == before
    assert not store.changes


@pytest.mark.parametrize("body", [None, b"{"])
def test_nothing_is_deleted_while_the_newest_manifest_is_missing_or_forged(
    store: Bucket, body: bytes | None
) -> None:
    made(store, 2, 8, 9)
    (latest,) = made(store, 1)
    store.time = days_ago(1)
    store.delete(KEYS.of(latest, Kind.MANIFEST))
    if body:
        store.put(KEYS.of(latest, Kind.MANIFEST), body)
    with pytest.raises(NewestNotVerified, match="is newer than every backup"):
        run(store)
    made(store, 0.5)
    assert len(run(store).deleted) == 2


def test_a_dry_run_changes_nothing_and_tells_what_a_real_one_does(store: Bucket) -> None:
    made(store, 1, 8, 9)
    upload = store.create_upload(KEYS.of(BackupName.of(DATABASE, NOW), Kind.DUMP), {})
    store.uploads[upload].active_at = days_ago(2)
    before = dict(store.objects)
    told = run(store, dry_run=True)
    assert told.dry_run
    assert store.objects == before
    assert {verb for verb, _ in store.changes} == {"list_uploads"}
    real = run(store)
    assert (told.decisions, told.deleted, told.reclaimed, told.aborted_uploads) == (
        real.decisions,
        real.deleted,
        real.reclaimed,
        real.aborted_uploads,
    )


def test_a_dry_run_tells_that_a_real_one_would_refuse(store: Bucket) -> None:
    made(store, 8)
    made(store, 1, verified=None)
    result = run(store, dry_run=True)
    assert not result.deleted
    assert all(decision.keep for decision in result.decisions)
    assert {d.reason for d in result.decisions} == {
        "the newest backup, ahold_options_2025-12-15_220000, is not verified"
    }


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.DUMP, Kind.SCHEMA, Kind.EVIDENCE])
def test_what_can_not_be_deleted_is_named_and_the_next_prune_finishes_it(
    store: Bucket, kind: Kind
) -> None:
    _, stuck, expired = made(store, 1, 8, 9)
    store.refused = {("delete", KEYS.of(stuck, kind))}
    result = run(store)
    assert result.deleted == (str(expired),)
    (sentence,) = result.failed
    whole = " completely" if kind is not Kind.MANIFEST else ""
    assert sentence.startswith(f"{stuck} was not deleted{whole}: delete of")
    assert (str(stuck) in names_in(store)) == (kind is Kind.MANIFEST)
    store.refused = set()
    assert run(store).deleted == (str(stuck),)
    assert not any(str(stuck) in key for key in store.objects)


def test_nothing_is_deleted_whose_expiry_could_not_be_recorded(store: Bucket) -> None:
    _, stuck = made(store, 1, 8)
    store.refused = {("put", KEYS.of(stuck, Kind.EVIDENCE))}
    result = run(store)
    assert result.failed[0].startswith(f"{stuck} was not deleted: put of")
    assert ("delete", KEYS.of(stuck, Kind.MANIFEST)) not in store.changes
    assert str(stuck) in names_in(store)


def test_the_recorded_expiry_holds_the_reason_and_the_object(store: Bucket) -> None:
    _, stuck = made(store, 1, 8)
    etag = store.head(KEYS.of(stuck, Kind.DUMP)).etag
    store.refused = {("delete", KEYS.of(stuck, Kind.MANIFEST))}
    run(store)
    entry = read_evidence(store, KEYS, stuck).entries[-1]
    assert (entry.act, entry.at, entry.etag) == (Act.EXPIRE, NOW, etag)
    assert entry.findings == ("8 days old, and 1 newer verified ones stay",)


def test_an_expired_backup_whose_dump_is_gone_already_goes(store: Bucket) -> None:
    made(store, 1)
    (lost,) = made(store, 8)
    store.delete(KEYS.of(lost, Kind.DUMP))
    assert run(store).deleted == (str(lost),)


def test_a_dump_without_manifest_stays_however_old_it_is(store: Bucket) -> None:
    made(store, 1)
    (unfinished,) = made(store, 400)
    store.delete(KEYS.of(unfinished, Kind.MANIFEST))
    result = run(store)
    assert not result.deleted
    assert {KEYS.of(unfinished, Kind.DUMP), KEYS.of(unfinished, Kind.SCHEMA)} <= set(store.objects)
    assert KEYS.of(unfinished, Kind.DUMP) in {stray.key for stray in result.strays}


def test_what_a_deletion_left_over_goes_even_if_nothing_expires(store: Bucket) -> None:
    _, begun = made(store, 1, 400)
    make_evidence(store, begun, act=Act.EXPIRE)
    store.delete(KEYS.of(begun, Kind.MANIFEST))
    result = run(store)
    assert (result.deleted, result.strays) == ((str(begun),), ())
    assert not any(str(begun) in key for key in store.objects)


def cut_short(
    store: Bucket, days: float, *, mark: str | None = "backup-id", encrypted: bool = False
) -> BackupName:
    """What a backup leaves that is killed: its archive, and unless `mark` is `None` its dump."""
    name = BackupName.of(DATABASE, days_ago(days))
    store.time = days_ago(days)
    store.put(KEYS.of(name, archive_kind(encrypted=encrypted)), b"archive")
    if mark:
        key = KEYS.of(name, dump_kind(Codec.GZIP, encrypted=encrypted))
        upload = store.create_upload(key, {mark: "7"})
        part = store.upload_part(key, upload, 1, b"dump")
        store.complete_upload(key, upload, [part], {mark: "7"})
    store.time = NOW
    return name


def keys_of(store: Bucket, name: BackupName) -> list[str]:
    return sorted(key for key in store.objects if str(name) in key)


def test_the_archive_of_a_backup_that_was_killed_goes_when_no_run_can_own_it_any_more(
    store: Bucket,
) -> None:
    made(store, 0.5)
    old, young = cut_short(store, 1.01, mark=None), cut_short(store, 1, mark=None)
    told = run(store, dry_run=True)
    assert keys_of(store, old)
    for result in (told, run(store)):
        assert result.deleted == (str(old),)
        (stray,) = result.cleared
        assert stray.key == KEYS.of(old, Kind.SCHEMA)
        assert "a backup that was killed left it" in stray.reason
        assert [stray.key for stray in result.strays] == [KEYS.of(young, Kind.SCHEMA)]
    assert (keys_of(store, old), keys_of(store, young)) == ([], [KEYS.of(young, Kind.SCHEMA)])


def test_the_dump_of_a_backup_that_was_killed_stays_for_as_long_as_a_backup_would(
    store: Bucket,
) -> None:
    made(store, 0.5)
    over, adoptable = cut_short(store, 7.1), cut_short(store, 6.9)
    result = run(store)
    assert result.deleted == (str(over),)
    assert result.reclaimed == len(b"archive" + b"dump")
    assert keys_of(store, over) == []
    assert len(keys_of(store, adoptable)) == 2
    assert [change[1] for change in store.changes if change[0] == "delete"][:2] == [
        KEYS.of(over, Kind.DUMP),
        KEYS.of(over, Kind.SCHEMA),
    ]


def test_what_a_killed_encrypted_backup_left_is_nobodys_to_adopt_and_goes_like_an_archive(
    store: Bucket,
) -> None:
    made(store, 0.5)
    old, young = (cut_short(store, days, encrypted=True) for days in (1.01, 1))
    assert run(store).deleted == (str(old),)
    assert keys_of(store, old) == []
    assert keys_of(store, young) == [
        KEYS.of(young, kind) for kind in (Kind.SCHEMA_AGE, Kind.DUMP_AGE)
    ]


def test_an_encrypted_backup_goes_with_all_that_is_its_own(store: Bucket) -> None:
    kept, expired = made(store, 1, 8)
    recipients = [Identity.made().recipient]
    name = BackupName.of(DATABASE, days_ago(9))
    source = FakePostgres(lambda: days_ago(9)).dump_source(DATABASE)
    back_up(source, store, KEYS, name, recipients=recipients, clock=lambda: days_ago(9))
    assert verify(store, KEYS, name, clock=lambda: NOW).passed
    assert set(run(store).deleted) == {str(expired), str(name)}
    assert names_in(store) == {str(kept)}
    assert (keys_of(store, name), run(store).strays) == ([], ())


def test_what_is_adopted_while_a_prune_runs_stays() -> None:
    class Adopting(Bucket):
        adopted: BackupName | None = None

        def metadata(self, key: str) -> Mapping[str, str]:
            found = super().metadata(key)
            if self.adopted is None:
                self.adopted = BackupName.parse(key.removeprefix(KEYS.prefix).split(".")[0])
                self.put(KEYS.of(self.adopted, Kind.MANIFEST), b"{}")
            return found

    store = Adopting()
    made(store, 0.5)
    name = cut_short(store, 400)
    result = run(store)
    assert store.adopted == name
    assert (result.deleted, result.cleared) == ((), ())
    assert len(keys_of(store, name)) == 3


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.EVIDENCE, Kind.PIN])
def test_what_was_a_backup_once_is_not_taken_for_one_that_was_killed(
    store: Bucket, kind: Kind
) -> None:
    made(store, 0.5)
    name = cut_short(store, 400)
    store.time = days_ago(400)
    store.put(KEYS.of(name, kind), b"{}")
    assert not run(store).deleted
    assert len(keys_of(store, name)) == 3


def test_a_dump_that_does_not_say_that_it_is_ours_is_nobodys_to_delete(store: Bucket) -> None:
    made(store, 0.5)
    name = cut_short(store, 400, mark="somebody")
    assert not run(store).deleted
    assert len(keys_of(store, name)) == 2


def test_nothing_of_a_killed_backup_goes_while_it_is_newer_than_every_verified_one(
    store: Bucket,
) -> None:
    made(store, 9)
    name = cut_short(store, 8)
    with pytest.raises(NewestNotVerified, match="is newer than every backup"):
        run(store)
    assert len(keys_of(store, name)) == 2


@pytest.mark.parametrize("begun", [False, True], ids=["expired", "left over"])
def test_a_backup_of_zstd_goes_and_a_dump_of_its_name_that_is_not_its_own_stays(
    store: Bucket, begun: bool
) -> None:
    made(store, 1)
    store.time = days_ago(8)
    expired = make_backup(store, days_ago(8), codec=Codec.ZSTD)
    if begun:
        make_evidence(store, expired, act=Act.EXPIRE, codec=Codec.ZSTD)
        store.delete(KEYS.of(expired, Kind.MANIFEST))
    foreign = KEYS.of(expired, Kind.DUMP)
    store.put(foreign, b"another script wrote this")
    store.time = NOW
    assert run(store).deleted == (str(expired),)
    assert {key for key in store.objects if str(expired) in key} == {foreign}


def test_other_databases_and_foreign_objects_are_not_touched(store: Bucket) -> None:
    made(store, 1)
    made(store, 1, 400, database=f"{DATABASE}_old")
    made(store, 400, database="ahold", verified=False)
    store.put(f"{KEYS.under(DATABASE)}2019.sql.gz", b"an older script wrote this")
    store.put(f"{KEYS.prefix}notes.txt", b"mine")
    before = dict(store.objects)
    assert not run(store).deleted
    assert {key: store.objects[key] for key in before} == before


def test_the_dates_of_objects_decide_nothing(store: Bucket) -> None:
    """Objects that a move of the bucket made new, and one of a wrong clock that looks old."""
    _, expired = made(store, 1, 8)
    store.time = days_ago(1)
    for key, stored in list(store.objects.items()):
        store.put(key, stored.body, overwrite=True)
    assert run(store).deleted == (str(expired),)
    store.time = days_ago(500)
    make_backup(store, days_ago(3))
    assert not run(store).deleted


def test_the_date_in_a_name_decides_nothing(store: Bucket) -> None:
    """`--date` labels a backup with another day than the one it was taken on."""
    made(store, 1)
    labelled = BackupName.of(DATABASE, datetime(2001, 1, 1))  # noqa: DTZ001 - a label has no zone
    store.time = days_ago(2)
    manifest = manifest_of(labelled, days_ago(2), b"dump", b"archive")
    store.put(KEYS.of(labelled, Kind.DUMP), b"dump")
    store.put(KEYS.of(labelled, Kind.MANIFEST), to_json(manifest))
    assert not run(store).deleted


def test_stale_uploads_of_this_database_are_aborted_and_live_ones_are_not(store: Bucket) -> None:
    made(store, 1)
    mine = KEYS.of(BackupName.of(DATABASE, NOW), Kind.DUMP)
    others = [
        KEYS.of(BackupName.of(f"{DATABASE}_old", NOW), Kind.DUMP),
        f"{KEYS.under(DATABASE)}by-hand.bin",
        "elsewhere/x",
    ]
    stale, live, *foreign = [store.create_upload(key, {}) for key in (mine, mine, *others)]
    for upload in (stale, *foreign):
        store.uploads[upload].active_at = NOW - timedelta(hours=24, seconds=1)
    store.uploads[live].active_at = NOW - timedelta(hours=24)
    result = run(store)
    assert result.aborted_uploads == (mine,)
    assert set(store.uploads) == {live, *foreign}


def test_an_upload_that_can_not_be_aborted_is_named(store: Bucket) -> None:
    made(store, 1)
    key = KEYS.of(BackupName.of(DATABASE, NOW), Kind.DUMP)
    store.uploads[store.create_upload(key, {})].active_at = days_ago(2)
    store.refused = {("abort", key)}
    result = run(store)
    assert result.failed == (f"the upload of {key} stays open: abort of {key} is not allowed",)
    assert not result.aborted_uploads


def test_uploads_that_can_not_be_listed_are_named_and_do_not_hide_the_rest(store: Bucket) -> None:
    made(store, 1, 8)
    store.refused = {("list_uploads", KEYS.under(DATABASE))}
    result = run(store)
    assert len(result.deleted) == 1
    assert result.failed[0].startswith("the open uploads could not be listed")


def test_a_bucket_that_was_copied_keeps_what_nobody_has_looked_at_there(store: Bucket) -> None:
    """A copy of a multipart object has another ETag, so what was proved of it counts no more."""
    old = made(store, 10, 40, 70, 100, 400)  # days; the first is of December, as is the new one
    for name in old:
        key = KEYS.of(name, Kind.DUMP)
        store.objects[key] = replace(store.objects[key], etag="that-of-the-copy-7")
    made(store, 0)
    policy = RetentionPolicy(days=7, minimum=1, monthly=4, yearly=2)
    expired, *kept = old
    result = prune(store, KEYS, DATABASE, policy, now=NOW)
    assert result.deleted == (str(expired),)
    for name in kept:
        make_evidence(store, name)
    assert prune(store, KEYS, DATABASE, policy, now=NOW).deleted == ()


def test_a_prune_leaves_an_index_of_what_stays(store: Bucket) -> None:
    kept, _ = made(store, 1, 8)
    run(store)
    assert list(read_index(store, KEYS)) == [str(kept)]
    store.changes.clear()
    run(store)
    assert ("put", KEYS.index) not in store.changes


def test_an_index_that_can_not_be_written_is_named(store: Bucket) -> None:
    made(store, 1)
    store.refused = {("put", KEYS.index)}
    assert run(store).failed == (f"the index was not written: put of {KEYS.index} is not allowed",)


def test_an_empty_bucket_is_pruned_without_a_word(store: Bucket) -> None:
    result = run(store)
    assert (result.decisions, result.deleted, result.failed) == ((), (), ())
    assert not store.objects


def test_a_bucket_that_can_not_be_read_ends_the_prune() -> None:
    class Unreachable(Bucket):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise StoreUnreachable(f"no answer for {prefix}")

    with pytest.raises(StoreUnreachable):
        run(Unreachable())
