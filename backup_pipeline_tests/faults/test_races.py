"""Two runs at one moment, on a real store: one winner, and nothing in progress is ever pruned."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.model import Manifest, RetentionPolicy, State
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NewestNotVerified, ObjectExists
from backup_pipeline_tests.fakes_dump import FakePostgres
from backup_pipeline_tests.faults.chance import Chance

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEYS = Keys("backups/postgres/")


def now() -> datetime:
    return datetime.now(UTC)


def a_name(number: int) -> BackupName:
    return BackupName.of("shop", datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=number))


@pytest.fixture
def client(s3_server: S3Access) -> "Iterator[S3Client]":
    with closing(s3_server.client()) as client:
        yield client


def at_once(*runs: Callable[[], Manifest]) -> list[Manifest | ObjectExists]:
    """What each of several runs, begun at one moment, came to."""
    begin = threading.Barrier(len(runs))

    def run(each: Callable[[], Manifest]) -> Manifest | ObjectExists:
        begin.wait()
        try:
            return each()
        except ObjectExists as error:
            return error

    with ThreadPoolExecutor(len(runs)) as threads:
        return list(threads.map(run, runs))


def test_of_two_backups_of_one_name_one_wins_and_is_whole(
    store: ObjectStore, client: "S3Client", bucket: str, chance: Chance
) -> None:
    for number in chance.times(5, 100):
        name = a_name(number)

        def make(name: BackupName = name) -> Manifest:
            return back_up(FakePostgres().dump_source("shop"), store, KEYS, name, clock=now)

        results = at_once(make, make)
        (won,) = [each for each in results if isinstance(each, Manifest)]
        assert read_manifest(store, KEYS, name) == won
        found = client.head_object(Bucket=bucket, Key=KEYS.of(name, Kind.DUMP))
        assert found["Metadata"]["backup-id"] == won.id
        assert verify(store, KEYS, name, clock=now).passed
        assert list(store.list_uploads("")) == []


def test_a_prune_beside_a_backup_takes_nothing_that_is_in_progress(
    store: ObjectStore, chance: Chance
) -> None:
    policy = RetentionPolicy(days=0, minimum=1)
    refused = deleted = 0
    for number in chance.times(5, 100):
        name, done = a_name(number), threading.Event()

        def make(name: BackupName = name, done: threading.Event = done) -> None:
            try:
                back_up(FakePostgres().dump_source("shop"), store, KEYS, name, clock=now)
                assert verify(store, KEYS, name, clock=now).passed
            finally:
                done.set()

        with ThreadPoolExecutor(1) as threads:
            making = threads.submit(make)
            while not done.is_set():
                try:
                    found = prune(store, KEYS, "shop", policy, now=now())
                    deleted += len(found.deleted)
                    assert found.aborted_uploads == ()
                except NewestNotVerified:
                    refused += 1
            making.result()
        deleted += len(prune(store, KEYS, "shop", policy, now=now()).deleted)
        assert verify(store, KEYS, name, clock=now).passed
        (left,) = read_catalog(store, KEYS, "shop").backups
        assert (left.name, left.state) == (name, State.VERIFIED)
    assert deleted == number
