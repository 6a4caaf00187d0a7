"""A backup is complete or absent, whatever fails and whenever."""

import gzip
import sys
from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.model import (
    Codec,
    Manifest,
    Progress,
    Report,
    RetentionPolicy,
    Section,
    TableRows,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import (
    ChildFailed,
    ObjectExists,
    PostgresFailed,
    StoreUnreachable,
    VerificationFailed,
)
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import ROWS, FakePostgres, section_sql
from backup_pipeline_tests.made_backups import make_backup

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
KEYS = Keys("backups/postgres/")
NAME = BackupName.of("ahold_options", datetime(2025, 12, 16, 23, 0, tzinfo=UTC))
STEM = "backups/postgres/ahold_options_2025-12-16_230000"


each_codec = pytest.mark.parametrize("codec", list(Codec))


def make(
    store: MemoryStore,
    postgres: FakePostgres | None = None,
    report: Report = silent,
    codec: Codec = Codec.GZIP,
) -> Manifest:
    source = (postgres or FakePostgres(lambda: NOW)).dump_source("ahold_options")
    return back_up(source, store, KEYS, NAME, codec=codec, clock=lambda: NOW, report=report)


def plain(stored: bytes, codec: Codec) -> bytes:
    """What the libraries read who know nothing of members."""
    return gzip.decompress(stored) if codec is Codec.GZIP else zstd.decompress(stored)


def assert_absent(store: MemoryStore) -> None:
    assert store.objects == {}
    assert store.uploads == {}


@pytest.mark.parametrize(("codec", "suffix"), [(Codec.GZIP, ".sql.gz"), (Codec.ZSTD, ".sql.zst")])
def test_a_backup_is_three_objects_and_the_dump_is_one_plain_file(
    codec: Codec, suffix: str
) -> None:
    store = MemoryStore()
    make(store, codec=codec)
    assert set(store.objects) == {
        f"{STEM}{suffix}",
        f"{STEM}.schema.dump",
        f"{STEM}.manifest.json",
    }
    sql = plain(store.objects[f"{STEM}{suffix}"].body, codec)
    assert sql == b"".join(section_sql(section) for section in Section)


@each_codec
def test_the_manifest_says_where_everything_is(codec: Codec) -> None:
    store = MemoryStore()
    manifest = make(store, codec=codec)
    assert read_manifest(store, KEYS, NAME) == manifest
    assert [member.section for member in manifest.members] == list(Section)
    body = store.objects[KEYS.of(NAME, codec.kind)].body
    for member in manifest.members:
        stored = body[member.offset : member.offset + member.length]
        assert plain(stored, codec) == section_sql(member.section)
    assert manifest.tables == (TableRows("public", "trades", ROWS),)
    assert manifest.length == len(body)


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (timedelta(days=-2000), "2000 days behind"),
        (timedelta(hours=-5), "5 hours behind"),
        (timedelta(minutes=16), "16 minutes ahead of"),
        (timedelta(days=5), "5 days ahead of"),
    ],
)
def test_a_server_whose_clock_is_wrong_does_not_make_a_backup_that_goes_at_once(
    off: timedelta, said: str
) -> None:
    store = MemoryStore()
    for days in (1, 2, 3):
        make_backup(store, NOW - timedelta(days=days))
    manifest = make(store, FakePostgres(lambda: NOW + off))
    assert manifest.source.snapshot_at == NOW
    assert manifest.remarks == (
        f"the server's clock is {said} this machine's: the backup has this machine's time",
    )
    verify(store, KEYS, NAME, clock=lambda: NOW)
    policy = RetentionPolicy(days=7, minimum=3)
    assert prune(store, KEYS, "ahold_options", policy, now=NOW).deleted == ()
    assert read_catalog(store, KEYS).backups[0].name == NAME


@pytest.mark.parametrize("off", [timedelta(minutes=-14), timedelta(0), timedelta(minutes=14)])
def test_a_server_whose_clock_may_be_right_is_believed(off: timedelta) -> None:
    manifest = make(MemoryStore(), FakePostgres(lambda: NOW + off))
    assert (manifest.source.snapshot_at, manifest.remarks) == (NOW + off, ())


def test_a_snapshot_that_waited_long_for_its_locks_keeps_its_time() -> None:
    """It is taken first; what a dump waits for may take any time after it."""
    clock = iter([NOW, *[NOW + timedelta(hours=9)] * 9])
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    manifest = back_up(source, MemoryStore(), KEYS, NAME, clock=lambda: next(clock))
    assert (manifest.source.snapshot_at, manifest.remarks) == (NOW, ())


def test_progress_counts_the_sql() -> None:
    seen: list[Progress] = []
    manifest = make(MemoryStore(), report=seen.append)
    assert seen[-1] == Progress("dump", manifest.raw_length)
    assert [each.done for each in seen] == sorted(each.done for each in seen)


@pytest.mark.parametrize("section", list(Section))
@pytest.mark.parametrize("error", [ChildFailed("pg_dump died"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_in_any_section_leaves_nothing(section: Section, error: BaseException) -> None:
    def fail(at: Section) -> None:
        if at is section:
            raise error

    store = MemoryStore()
    with pytest.raises(type(error)):
        make(store, FakePostgres(lambda: NOW, fail))
    assert_absent(store)


@pytest.mark.parametrize("failing", [Kind.SCHEMA, Kind.MANIFEST])
@pytest.mark.parametrize("error", [StoreUnreachable("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("stored", [True, False], ids=["reply lost", "never arrived"])
@each_codec
def test_a_failure_after_the_object_is_complete_takes_it_back(
    failing: Kind, error: BaseException, stored: bool, codec: Codec
) -> None:
    class Failing(MemoryStore):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            if key.endswith(failing):
                if stored and failing is Kind.MANIFEST:
                    super().put(key, body, overwrite=overwrite)
                raise error
            return super().put(key, body, overwrite=overwrite)

    store = Failing()
    with pytest.raises(type(error)):
        make(store, codec=codec)
    assert_absent(store)


def test_what_can_not_be_taken_back_is_told_with_the_first_error() -> None:
    class Failing(MemoryStore):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            if key.endswith(Kind.MANIFEST):
                raise StoreUnreachable("gone")
            return super().put(key, body, overwrite=overwrite)

        def delete(self, key: str) -> None:
            if key.endswith(Kind.SCHEMA):
                raise StoreUnreachable("still gone")
            super().delete(key)

    store = Failing()
    with pytest.raises(StoreUnreachable, match="gone") as failed:
        make(store)
    (left,) = [info.key for info in store.list("")]
    assert failed.value.notes == (f"{left} was left: still gone",)


def test_output_without_pg_dumps_closing_line_is_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backup_pipeline_tests.fakes_dump._CLOSING", b"")
    store = MemoryStore()
    with pytest.raises(PostgresFailed, match="lacks the closing line"):
        make(store)
    assert_absent(store)


def test_rows_that_are_cut_are_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = dict.fromkeys(Section, b"COPY a.b (c) FROM stdin;\n1\n")
    monkeypatch.setattr("backup_pipeline_tests.fakes_dump._SQL", cut)
    store = MemoryStore()
    with pytest.raises(VerificationFailed, match="middle"):
        make(store)
    assert_absent(store)


def test_the_second_of_one_name_loses_and_the_first_is_whole() -> None:
    store = MemoryStore()
    first = make(store)
    before = dict(store.objects)
    with pytest.raises(ObjectExists):
        make(store)
    assert store.objects == before
    assert store.uploads == {}
    assert read_manifest(store, KEYS, NAME) == first


def test_a_foreign_dump_of_the_same_name_is_never_touched() -> None:
    store = MemoryStore()
    store.put(f"{STEM}.sql.gz", b"somebody else's")
    with pytest.raises(ObjectExists):
        make(store)
    assert {key: each.body for key, each in store.objects.items()} == {
        f"{STEM}.sql.gz": b"somebody else's"
    }


def test_a_backup_that_was_adopted_is_not_touched_by_one_of_the_other_codec() -> None:
    """It has no schema archive, which would have settled whose the name is."""
    store = MemoryStore()
    store.put(f"{STEM}.sql.gz", b"an older script wrote this")
    store.put(f"{STEM}.manifest.json", b"its manifest")
    before = dict(store.objects)
    with pytest.raises(ObjectExists):
        make(store, codec=Codec.ZSTD)
    assert (store.objects, store.uploads) == (before, {})


def test_before_the_manifest_nothing_is_listed() -> None:
    listed: list[int] = []

    class Watched(MemoryStore):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            listed.append(len(read_catalog(self, KEYS).backups))
            return super().put(key, body, overwrite=overwrite)

    store = Watched()
    make(store)
    assert listed == [0, 0]
    assert [backup.name for backup in read_catalog(store, KEYS).backups] == [NAME]


def tables_of(sizes: dict[str, int]) -> bytes:
    """COPY statements whose rows have so many bytes."""
    row = b"x" * 1023 + b"\n"
    return b"".join(
        b"COPY public.%s (x) FROM stdin;\n%s\\.\n\n\n" % (name.encode(), row * (size // 1024))
        for name, size in sizes.items()
    )


def test_a_large_table_has_a_member_to_itself_and_small_ones_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"a": 3 << 20, "b": 1024, "c": 2048, "d": 2 << 20, "e": 5 << 20}
    sql = dict.fromkeys(Section, b"")
    sql[Section.DATA] = tables_of(sizes)
    monkeypatch.setattr("backup_pipeline_tests.fakes_dump._SQL", sql)
    monkeypatch.setattr(
        "backup_pipeline_tests.fakes_dump.TABLES", tuple(("public", name) for name in sizes)
    )
    store = MemoryStore()
    manifest = make(store)
    data = [member for member in manifest.members if member.section is Section.DATA]
    assert [[t.table for t in member.tables] for member in data] == [
        ["a"],
        ["b", "c", "d"],
        ["e"],
        [],
    ]
    assert gzip.decompress(store.objects[f"{STEM}.sql.gz"].body) == b"".join(
        section_sql(section) for section in Section
    )
    assert verify(store, KEYS, NAME, clock=lambda: NOW).passed


def test_a_dump_that_leaves_a_table_out_is_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = (("public", "trades"), ("public", "quotes"))
    monkeypatch.setattr("backup_pipeline_tests.fakes_dump.TABLES", tables)
    store = MemoryStore()
    with pytest.raises(PostgresFailed, match=r"no rows of public\.quotes"):
        make(store)
    assert_absent(store)


@each_codec
def test_several_jobs_make_the_same_backup(codec: Codec) -> None:
    one, several = MemoryStore(), MemoryStore()
    make(one, codec=codec)
    make(several, FakePostgres(lambda: NOW, jobs=3), codec=codec)
    key = KEYS.of(NAME, codec.kind)
    assert several.objects[key].body == one.objects[key].body
