"""Before a migration: is there a backup that is young enough?"""

from datetime import UTC, datetime, timedelta

import pytest

import backup_pipeline
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import BackupTooOld
from backup_pipeline_tests.made_backups import make_backup


@pytest.fixture(autouse=True)
def _configured(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in s3_environment.items():
        monkeypatch.setenv(variable, value)


def hours_ago(hours: float) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


def test_a_verified_backup_that_is_young_enough_lets_the_caller_go_on(store: ObjectStore) -> None:
    name = make_backup(store, hours_ago(5))
    assert backup_pipeline.require_fresh_backup(hours=6) == str(name)


def test_an_older_one_stops_it(store: ObjectStore) -> None:
    make_backup(store, hours_ago(7))
    with pytest.raises(BackupTooOld, match="no verified backup that is younger than 6 hours"):
        backup_pipeline.require_fresh_backup(hours=6)


@pytest.mark.parametrize("verified", [None, False])
def test_one_that_is_not_verified_counts_for_nothing(
    store: ObjectStore, verified: bool | None
) -> None:
    make_backup(store, hours_ago(1), verified=verified)
    with pytest.raises(BackupTooOld):
        backup_pipeline.require_fresh_backup(hours=6)


def test_one_that_is_dated_in_the_future_counts_for_nothing(store: ObjectStore) -> None:
    make_backup(store, hours_ago(-1))
    with pytest.raises(BackupTooOld):
        backup_pipeline.require_fresh_backup(hours=6)


def test_the_clocks_of_two_machines_may_differ_a_little(store: ObjectStore) -> None:
    name = make_backup(store, datetime.now(UTC) + timedelta(minutes=4))
    assert backup_pipeline.require_fresh_backup(hours=6) == str(name)


def test_another_database_may_be_asked_for(store: ObjectStore) -> None:
    make_backup(store, hours_ago(1), database="orders")
    with pytest.raises(BackupTooOld, match="ahold_options"):
        backup_pipeline.require_fresh_backup(hours=6)
    assert backup_pipeline.require_fresh_backup(hours=6, database="orders").startswith("orders_")
