"""What an old cron job has left is adopted, restored and pruned; half a dump is not."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline import cli
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.adopt import adopt, adoptable
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_manifest, record
from backup_pipeline.engine.contents import differences, read_contents, under_roots
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Act, Codec, EvidenceEntry, State
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, Refused, VerificationFailed
from backup_pipeline_tests.integration.databases import (
    EVERY_KIND,
    assert_equal,
    databases,
    drop_database,
    new_database,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEYS = Keys("backups/postgres/")
NAME = "ahold_options_2025-12-16_120000"
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
OPTIONS = ["--clean", "--if-exists", "--no-owner", "--no-privileges"]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def source(any_postgres: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(any_postgres, EVERY_KIND) as server:
        yield server


def dumped(postgres: EmbeddedPostgres, database: str, *more: str) -> bytes:
    """What the old script's `pg_dump ... | gzip` made."""
    command = f"{postgres.bin_dir}/pg_dump {' '.join((*OPTIONS, *more))} | gzip"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={"PATH": "/usr/bin:/bin", **postgres.environment(database)},
        capture_output=True,
        check=True,
    ).stdout


def leave(store: ObjectStore, body: bytes, name: str = NAME) -> BackupName:
    parsed = BackupName.parse(name)
    store.put(KEYS.of(parsed, Kind.DUMP), body)
    return parsed


def assert_it_comes_back(
    postgres: EmbeddedPostgres, store: ObjectStore, name: BackupName, source: Server
) -> None:
    target = f"{source.database}_restored"
    try:
        restore(store, KEYS, name, source, target, clock=now)
        assert_equal(postgres, source, source.using(target))
    finally:
        drop_database(postgres, target)


def test_an_old_file_is_adopted_verified_restored_and_drilled(
    any_postgres: EmbeddedPostgres, source: Server, store: ObjectStore
) -> None:
    name = leave(store, dumped(any_postgres, source.database))
    (stray,) = read_catalog(store, KEYS).strays
    assert "adopt" in stray.reason
    manifest = adopt(store, KEYS, name, AMSTERDAM, clock=now)
    (backup,) = read_catalog(store, KEYS).backups
    assert backup.state is State.VERIFIED
    assert backup.findings == ()
    assert backup.taken_at == datetime(2025, 12, 16, 11, 0, tzinfo=UTC)
    assert manifest.rows > 0
    with source.connect() as connection:
        assert manifest.source.server_version_num == connection.info.server_version
    assert verify(store, KEYS, name, clock=now).passed
    assert_it_comes_back(any_postgres, store, name, source)
    result = drill(store, KEYS, name, source, [any_postgres.bin_dir], clock=now)
    assert result.entry.passed
    assert len(result.not_compared) == 2


def test_a_dump_that_has_rows_of_partitions_under_their_roots_name_is_restored_and_drilled(
    any_postgres: EmbeddedPostgres, source: Server, store: ObjectStore
) -> None:
    name = leave(store, dumped(any_postgres, source.database, "--load-via-partition-root"))
    manifest = adopt(store, KEYS, name, AMSTERDAM, clock=now)
    rows = {each.table: each.rows for each in manifest.contents.tables}
    assert rows["measured"] == 900
    assert "measured_rest" not in rows
    assert_it_comes_back(any_postgres, store, name, source)
    result = drill(store, KEYS, name, source, [any_postgres.bin_dir], clock=now)
    assert result.entry.findings == ()
    with source.connect() as connection:
        connection.execute("DELETE FROM public.measured WHERE value = 7")
    with PostgresDumpSource(source, [any_postgres.bin_dir]).open_dump() as dump:
        found = under_roots(read_contents(dump), manifest.contents, dump.inheritance.roots)
    assert list(differences(manifest.contents, found)) == [
        "table public.measured has 899 rows where 900 were dumped"
    ]


def test_gzip_members_one_after_the_other_are_one_file(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18, EVERY_KIND) as source:
        sql = gzip.decompress(dumped(postgres18, source.database))
        pieces = [gzip.compress(sql[at : at + 1000]) for at in range(0, len(sql), 1000)]
        name = leave(store, b"".join(pieces))
        adopt(store, KEYS, name, AMSTERDAM, clock=now)
        assert verify(store, KEYS, name, clock=now).passed
        assert_it_comes_back(postgres18, store, name, source)


def test_frames_of_zstd_are_adopted_as_well(store: ObjectStore, good: bytes) -> None:
    sql = gzip.decompress(good)
    asked = zstd.CompressionParameter
    # A window as large as the program zstd makes it with --long.
    long = zstd.compress(sql[1000:], options={asked.window_log: 27})
    frames = zstd.compress(sql[:1000]) + long
    for body, whole in ((frames, True), (frames[:-4], False)):
        name = BackupName.parse(NAME if whole else "ahold_options_2025-12-15_120000")
        store.put(KEYS.of(name, Kind.DUMP_ZSTD), body)
        assert "adopt" in read_catalog(store, KEYS).strays[0].reason
        assert adoptable(store, KEYS, "ahold_options") == (name,)
        if whole:
            assert adopt(store, KEYS, name, AMSTERDAM, clock=now).codec is Codec.ZSTD
            assert verify(store, KEYS, name, clock=now).passed
        else:
            with pytest.raises(VerificationFailed, match="cut"):
                adopt(store, KEYS, name, AMSTERDAM, clock=now)


@pytest.fixture
def good(postgres18: EmbeddedPostgres) -> bytes:
    with new_database(postgres18, EVERY_KIND) as server:
        return dumped(postgres18, server.database)


def test_half_a_dump_is_not_adopted_whatever_gzip_says(store: ObjectStore, good: bytes) -> None:
    sql = gzip.decompress(good)
    bad = {
        "cut by a killed pg_dump": gzip.compress(sql[: len(sql) * 9 // 10]),
        "cut between two statements": gzip.compress(sql[: sql.rindex(b"\n--\n-- Name: ")]),
        "cut by a killed gzip": good[:-20],
        "one bit flipped": good[:2000] + bytes([good[2000] ^ 1]) + good[2001:],
        "not gzip": sql,
        "empty": gzip.compress(b""),
        "nothing": b"",
        "somebody's notes": gzip.compress(b"buy milk\n" * 1000),
        "psql would run it": gzip.compress(sql.replace(b"\nSET ", b"\n\\! id\nSET ", 1)),
    }
    for number, body in enumerate(bad.values()):
        name = leave(store, body, f"ahold_options_2025-12-16_12000{number}")
        with pytest.raises(VerificationFailed):
            adopt(store, KEYS, name, AMSTERDAM, clock=now)
    assert read_catalog(store, KEYS).backups == ()
    assert len(read_catalog(store, KEYS).strays) == len(bad)


def test_a_damaged_adopted_file_fails_its_verification(store: ObjectStore, good: bytes) -> None:
    name = leave(store, good)
    adopt(store, KEYS, name, AMSTERDAM, clock=now)
    store.put(KEYS.of(name, Kind.DUMP), good[:-1] + b"\xff", overwrite=True)
    assert not verify(store, KEYS, name, clock=now).passed


def test_a_name_that_lies_about_the_future_is_not_believed(store: ObjectStore, good: bytes) -> None:
    name = leave(store, good, "ahold_options_2099-12-16_120000")
    manifest = adopt(store, KEYS, name, AMSTERDAM, clock=now)
    assert abs(manifest.source.snapshot_at - now()) < timedelta(minutes=1)


def test_a_dry_run_writes_nothing(store: ObjectStore, good: bytes) -> None:
    name = leave(store, good)
    adopt(store, KEYS, name, AMSTERDAM, dry_run=True, clock=now)
    assert [info.key for info in store.list("")] == [KEYS.of(name, Kind.DUMP)]


def test_what_is_a_backup_already_or_not_there_is_not_adopted(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18) as server:
        name = BackupName.of(server.database, now())
        source = PostgresDumpSource(server, [postgres18.bin_dir])
        back_up(source, store, KEYS, name, clock=now)
    with pytest.raises(Refused):
        adopt(store, KEYS, name, AMSTERDAM, clock=now)
    assert not read_manifest(store, KEYS, name).adopted
    with pytest.raises(NotFound):
        adopt(store, KEYS, BackupName.parse(NAME), AMSTERDAM, clock=now)


def test_what_is_being_deleted_is_not_adopted(store: ObjectStore, good: bytes) -> None:
    name = leave(store, good)
    etag = store.head(KEYS.of(name, Kind.DUMP)).etag
    begun = EvidenceEntry(Act.EXPIRE, now(), True, etag, ("8 days old",), 0, 0, 0.0)
    record(store, KEYS, name, begun)
    with pytest.raises(Refused, match="deletion"):
        adopt(store, KEYS, name, AMSTERDAM, clock=now)
    record(store, KEYS, name, replace(begun, etag="another"))
    assert adopt(store, KEYS, name, AMSTERDAM, clock=now).adopted


def test_a_dump_whose_backup_was_killed_before_its_manifest_can_be_adopted(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18, EVERY_KIND) as server:
        name = BackupName.of(server.database, now())
        source = PostgresDumpSource(server, [postgres18.bin_dir])
        back_up(source, store, KEYS, name, clock=now)
        store.delete(KEYS.of(name, Kind.MANIFEST))
        # Its members each have a closing line, and its sections come one after the other.
        adopt(store, KEYS, name, ZoneInfo("UTC"), clock=now)
        target = f"{server.database}_restored"
        try:
            restore(store, KEYS, name, server, target, clock=now)
            assert_equal(postgres18, server, server.using(target))
        finally:
            drop_database(postgres18, target)


def test_on_the_command_line_they_are_adopted_listed_restored_and_pruned(
    store: ObjectStore,
    good: bytes,
    postgres18: EmbeddedPostgres,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in {**postgres18.environment("postgres"), **s3_environment}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BACKUP_DATABASE", "ahold_options")
    names = [leave(store, good, f"ahold_options_2025-12-{day}_120000") for day in (10, 11, 12, 13)]
    assert cli.run(["adopt", "--all", "--dry-run"]) == 0
    assert cli.run(["adopt", str(names[0])]) == 0
    assert cli.run(["adopt", "--all"]) == 0
    assert cli.run(["list"]) == 0
    assert capsys.readouterr().out.count("verified") == 4
    try:
        assert cli.run(["restore", "--at", "2025-12-11T13:00", "--no-confirm"]) == 0
        assert "ahold_options_2025_12_11_120000" in databases(postgres18)
    finally:
        drop_database(postgres18, "ahold_options_2025_12_11_120000")
    assert cli.run(["prune"]) == 0
    left = [str(backup.name) for backup in read_catalog(store, KEYS).backups]
    assert left == [str(name) for name in reversed(names[1:])]
