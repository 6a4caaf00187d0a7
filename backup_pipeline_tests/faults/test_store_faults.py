"""The network to the store and the store itself at their worst: a backup is whole or absent."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.choice import newest_backup
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import RetentionPolicy
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import (
    NewestNotVerified,
    StoreError,
    StoreUnreachable,
    VerificationFailed,
)
from backup_pipeline_tests.embedded.owners import children_named
from backup_pipeline_tests.fakes_dump import FakePostgres
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.conftest import FaultyStore
from backup_pipeline_tests.faults.s3_proxy import (
    Fault,
    FaultyS3,
    answers,
    answers_after_all,
    cuts,
    does,
    drips,
    flips,
    flips_the_request,
    heeds_no_range,
    loses_the_reply,
    resets,
    stalls,
    stalls_in_the_answer,
)
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database
from backup_pipeline_tests.made_backups import make_backup

KEYS = Keys("backups/postgres/")
CALLS = ("CreateMultipartUpload", "UploadPart", "PutObject", "CompleteMultipartUpload")
"""What a backup asks of the store."""
ATTEMPTS = 3
SILENCE = 1.5
"""Seconds without a byte that end a call: a busy store deletes in less what a failure left."""
FAULTS = {
    "500": answers(500, "InternalError"),
    "503 SlowDown": answers(503, "SlowDown"),
    "200 with an error": answers(200, "InternalError"),
    "reset": resets(),
    "reset in the request": resets(after=20),
    "lost reply": loses_the_reply,
    "500 after all": answers_after_all(500, "InternalError"),
    "stall": stalls,
    "cut answer": cuts(5),
    "stall in the answer": stalls_in_the_answer(5),
}
SETTLED = {
    (FAULTS[fault], call)
    for fault in ("lost reply", "500 after all", "stall in the answer", "cut answer")
    for call in ("PutObject", "CompleteMultipartUpload")
} | {
    # The answer has no body that could be cut.
    (FAULTS[fault], "UploadPart")
    for fault in ("stall in the answer", "cut answer")
}
"""Where the store did as it was asked, and its answer or a look at the object tells."""
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def noisy(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A database whose dump hardly shrinks: some 12 MB, which are three parts."""
    with database_of(postgres18, rows=20_000) as server:
        yield server


@pytest.fixture(scope="module")
def small(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """The same with some 300 kB."""
    with database_of(postgres18, rows=500) as server:
        yield server


@contextmanager
def database_of(postgres: EmbeddedPostgres, rows: int) -> Iterator[Server]:
    with new_database(postgres) as server:
        with server.connect() as connection:
            connection.execute(
                "CREATE TABLE public.noise AS SELECT i, (SELECT string_agg(md5(random()::text), '')"
                f" FROM generate_series(1, 30) WHERE i > 0) FROM generate_series(1, {rows}) AS i"
            )
        yield server


@pytest.fixture
def backup(small: Server, store: ObjectStore, postgres18: EmbeddedPostgres) -> BackupName:
    """A backup of the small one."""
    source = PostgresDumpSource(small, [postgres18.bin_dir])
    back_up(source, store, KEYS, a_name(), clock=now)
    return a_name()


def make(store: ObjectStore, name: BackupName) -> None:
    back_up(FakePostgres().dump_source(name.database), store, KEYS, name, clock=now)


def a_name(number: int = 0) -> BackupName:
    return BackupName.of("shop", datetime(2025, 12, 16, 23, 0, number, tzinfo=UTC))


def assert_absent(store: ObjectStore) -> None:
    """Nothing is in the bucket, and nothing is on its way."""
    assert [info.key for info in store.list("")] == []
    assert list(store.list_uploads("")) == []


def abort_nameless_uploads(store: ObjectStore, call: str) -> None:
    """What only prune can abort: an upload whose id was in a reply that was lost.

    Nothing tells it from that of another run of this name, so nobody else may.
    """
    if call == "CreateMultipartUpload":
        later = now() + timedelta(minutes=1)
        prune(store, KEYS, "shop", RetentionPolicy(), now=later, stale_after=timedelta(0))


@every_fault
def test_a_fault_that_passes_costs_a_retry_and_no_backup(
    fault: Fault, store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3, chance: Chance
) -> None:
    for number, call in enumerate(chance.some(CALLS, 2)):
        faulty_s3.heal()
        rule = faulty_s3.on(call, fault, times=1)
        make(faulty_store(read_timeout=SILENCE, max_attempts=ATTEMPTS), a_name(number))
        assert rule.met > 0
        assert verify(store, KEYS, a_name(number), clock=now).passed
        abort_nameless_uploads(store, call)
        assert list(store.list_uploads("")) == []


@every_fault
def test_a_fault_that_stays_ends_in_an_error_after_a_few_tries_and_nothing_is_left(
    fault: Fault, store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3, chance: Chance
) -> None:
    for call in chance.some(CALLS, 1):
        faulty_s3.heal()
        faulty_s3.on(call, fault)
        begun = time.monotonic()
        failing = faulty_store(read_timeout=SILENCE, max_attempts=2)
        if (fault, call) in SETTLED:
            make(failing, a_name())
            assert verify(store, KEYS, a_name(), clock=now).passed
            for kind in Kind:
                store.delete(KEYS.of(a_name(), kind))
        else:
            with pytest.raises(StoreError, match=call):
                make(failing, a_name())
            abort_nameless_uploads(store, call)
            assert_absent(store)
        # A backup has two objects to PUT.
        assert faulty_s3.seen.count(call) <= 2 * 2
        # Two tries that long, a pause between, and much patience for a busy machine.
        assert time.monotonic() - begun < 60


def test_a_part_that_stalls_in_the_middle_of_a_real_dump_ends_it(
    noisy: Server,
    store: ObjectStore,
    faulty_store: FaultyStore,
    faulty_s3: FaultyS3,
    postgres18: EmbeddedPostgres,
) -> None:
    faulty_s3.on("UploadPart", stalls, skip=1)
    source = PostgresDumpSource(noisy, [postgres18.bin_dir])
    # What is being sent is timed by the one, and what is being received by the other.
    slow = faulty_store(connect_timeout=SILENCE, read_timeout=SILENCE, max_attempts=2)
    with pytest.raises(StoreUnreachable, match="UploadPart"):
        back_up(source, slow, KEYS, a_name(), clock=now)
    assert_absent(store)
    assert children_named("pg_dump") == []


def test_bytes_that_change_on_their_way_to_the_store_are_never_a_backup(
    noisy: Server,
    store: ObjectStore,
    faulty_store: FaultyStore,
    faulty_s3: FaultyS3,
    postgres18: EmbeddedPostgres,
) -> None:
    faulty_s3.on("UploadPart", flips_the_request(at=1000), skip=1)
    source = PostgresDumpSource(noisy, [postgres18.bin_dir])
    with pytest.raises(StoreError, match="UploadPart"):
        back_up(source, faulty_store(max_attempts=2), KEYS, a_name(), clock=now)
    assert_absent(store)


def test_a_slow_store_is_waited_for(
    store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3
) -> None:
    """What holds is the time without a single byte, not the time for the whole answer."""
    make(store, a_name())
    body = b"x" * (1 << 20)
    store.put("large", body)
    faulty_s3.on("GetObject", drips(pace=0.1))
    slow = faulty_store(read_timeout=0.8, max_attempts=1)
    assert b"".join(slow.read("large")) == body
    assert faulty_s3.seen.count("GetObject") == 1


# Reading


READING = {
    "500": answers(500, "InternalError"),
    "503 SlowDown": answers(503, "SlowDown"),
    "reset": resets(),
    "stall": stalls,
    "cut answer": cuts(50_000),
    "stall in the answer": stalls_in_the_answer(50_000),
}


@pytest.mark.parametrize("fault", READING.values(), ids=READING.keys())
def test_a_fault_that_passes_while_reading_costs_a_retry_and_no_alarm(
    fault: Fault, backup: BackupName, faulty_store: FaultyStore, faulty_s3: FaultyS3
) -> None:
    rule = faulty_s3.on("GetObject", fault, times=1, key_ends=Kind.DUMP)
    reading = faulty_store(read_timeout=SILENCE, max_attempts=ATTEMPTS)
    assert verify(reading, KEYS, backup, clock=now).passed
    assert rule.met > 1


@pytest.mark.parametrize("fault", READING.values(), ids=READING.keys())
def test_a_fault_that_stays_while_restoring_leaves_the_target_as_it_was(
    fault: Fault,
    backup: BackupName,
    small: Server,
    faulty_store: FaultyStore,
    faulty_s3: FaultyS3,
    postgres18: EmbeddedPostgres,
) -> None:
    before = databases(postgres18)
    # The first time the dump is read to verify it, and then to load it.
    faulty_s3.on("GetObject", fault, skip=1, key_ends=Kind.DUMP)
    reading = faulty_store(read_timeout=SILENCE, max_attempts=2)
    with pytest.raises(StoreUnreachable, match="GetObject"):
        restore(reading, KEYS, backup, small, small.database, replace=True, clock=now)
    assert databases(postgres18) == before


def test_wrong_bytes_from_the_store_never_reach_a_database(
    backup: BackupName,
    small: Server,
    faulty_store: FaultyStore,
    faulty_s3: FaultyS3,
    postgres18: EmbeddedPostgres,
    chance: Chance,
) -> None:
    before = databases(postgres18)
    # Verified whole, and then wrong when it is read to be loaded.
    for number in chance.times(2, 20):
        skip = number % 2
        faulty_s3.heal()
        at = chance.random.randrange(100_000)
        faulty_s3.on("GetObject", flips(at), skip=skip, key_ends=Kind.DUMP)
        with pytest.raises(VerificationFailed):
            restore(faulty_store(), KEYS, backup, small, small.database, replace=True, clock=now)
        assert databases(postgres18) == before


def test_a_backup_that_vanishes_between_the_listing_and_the_reading_is_told_and_no_crash(
    store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3
) -> None:
    for number in range(3):
        make(store, a_name(number))
    gone = a_name(1)

    def vanish() -> None:
        for kind in Kind:
            store.delete(KEYS.of(gone, kind))

    faulty_s3.on("GetObject", does(vanish), times=1, key_ends=KEYS.of(gone, Kind.MANIFEST))
    catalog = read_catalog(faulty_store(), KEYS, "shop")
    assert [backup.name for backup in catalog.backups] == [a_name(2), a_name(0)]
    assert any("vanished" in stray.reason for stray in catalog.strays)


def test_a_backup_that_the_store_delivers_no_more_stands_in_the_way_of_no_other(
    backup: BackupName,
    small: Server,
    store: ObjectStore,
    faulty_store: FaultyStore,
    faulty_s3: FaultyS3,
    postgres18: EmbeddedPostgres,
) -> None:
    verify(store, KEYS, backup, clock=now)
    lost = BackupName.of("shop", datetime(2025, 12, 16, 23, 0, 1, tzinfo=UTC))
    make(store, lost)
    verify(store, KEYS, lost, clock=now)
    faulty_s3.on("GetObject", answers(500, "InternalError"), key_ends=KEYS.of(lost, Kind.MANIFEST))
    faulty = faulty_store(max_attempts=2)
    told: list[str] = []
    assert newest_backup(faulty, KEYS, "shop", now(), told.append).name == backup
    assert len(told) == 1
    assert "may be a newer backup, and can't be read: GetObject" in told[0]
    with pytest.raises(NewestNotVerified, match="is newer than every backup: GetObject"):
        prune(faulty, KEYS, "shop", RetentionPolicy(days=1), now=now() + timedelta(days=30))
    assert {found.name for found in read_catalog(store, KEYS, "shop").backups} == {backup, lost}
    target = f"{small.database}_back"
    try:
        restore(faulty, KEYS, backup, small, target, clock=now)
    finally:
        drop_database(postgres18, target)


# Writing documents


@pytest.mark.parametrize("fault", [loses_the_reply, answers_after_all(500, "InternalError")])
def test_a_lost_reply_never_makes_a_second_run_win(
    fault: Fault, store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3
) -> None:
    """A run that is refused because the name is taken never damages who took it."""
    make(store, a_name())
    before = {info.key: info.etag for info in store.list("")}
    for call in ("PutObject", "CompleteMultipartUpload"):
        faulty_s3.on(call, fault)
    with pytest.raises(StoreError):
        make(faulty_store(max_attempts=2), a_name())
    assert {info.key: info.etag for info in store.list("")} == before
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.DUMP, Kind.EVIDENCE])
def test_a_deletion_that_the_store_refuses_is_told_and_done_by_the_next_prune(
    store: ObjectStore, faulty_store: FaultyStore, faulty_s3: FaultyS3, kind: Kind
) -> None:
    """As it is with a version that is locked, or a policy that forbids deleting."""
    old = make_backup(store, now() - timedelta(days=30))
    new = make_backup(store, now() - timedelta(days=1))
    policy = RetentionPolicy(days=7, minimum=1)
    faulty_s3.on("DeleteObject", answers(403, "AccessDenied"), key_ends=kind)
    pruned = prune(faulty_store(), KEYS, old.database, policy, now=now())
    (said,) = pruned.failed
    assert str(old) in said
    assert "AccessDenied" in said
    assert pruned.deleted == ()
    catalog = read_catalog(store, KEYS)
    assert (old in [each.name for each in catalog.backups]) == (kind is Kind.MANIFEST)
    assert catalog.backups[0].name == new
    assert prune(store, KEYS, old.database, policy, now=now()).deleted == (str(old),)
    assert [each.name for each in read_catalog(store, KEYS).backups] == [new]
    assert not [info for info in store.list("") if str(old) in info.key]


# Disks


FULL_DISKS = """
import errno, os, sys
def full(event, arguments):
    if event in {"os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"} or (
        event == "open"
        and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        and arguments[0] != os.devnull
        and not isinstance(arguments[0], int)  # a pipe to a child, or memory
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments))
sys.addaudithook(full)
"""
"""Have a Python fail wherever it opens a file to write."""


def with_full_disks(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python that can't write a single byte to any disk."""
    command = [sys.executable, "-B", "-c", FULL_DISKS + code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_store_that_heeds_no_range_gives_no_bytes_of_another_place(
    faulty_s3: FaultyS3, faulty_store: FaultyStore
) -> None:
    store = faulty_store()
    store.put("k", bytes(range(100)))
    faulty_s3.on("GetObject", heeds_no_range)
    with pytest.raises(StoreError, match="asked for bytes 10 to 20"):
        list(store.read("k", 10, 10))


def test_no_verb_needs_any_disk(
    small: Server, postgres18: EmbeddedPostgres, s3_environment: dict[str, str]
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        **s3_environment,
        **postgres18.environment(small.database),
        "TMPDIR": "/nowhere",
    }
    copy = f"{small.database}_copy"
    try:
        for verb in (
            ["backup"],
            ["verify", "--all"],
            ["restore", "--latest", "--into", copy, "--no-confirm"],
            ["prune"],
        ):
            done = with_full_disks("from backup_pipeline.cli import main; main()", *verb, **env)
            assert done.returncode == 0, done.stderr
        assert copy in databases(postgres18)
    finally:
        drop_database(postgres18, copy)


def test_a_full_disk_is_one(tmp_path: Path) -> None:
    """The test above would pass as well if files could be written."""
    done = with_full_disks("open(sys.argv[1], 'w')", str(tmp_path / "file"))
    assert "No space left on device" in done.stderr


# The compressor


def test_a_compressor_that_fails_leaves_nothing(
    store: ObjectStore, small: Server, postgres18: EmbeddedPostgres
) -> None:
    source = PostgresDumpSource(small, [postgres18.bin_dir])
    with pytest.raises(Exception, match=r"(?i)compression level"):
        back_up(source, store, KEYS, a_name(), compression_level=99, clock=now)
    assert_absent(store)
    assert children_named("pg_dump") == []
