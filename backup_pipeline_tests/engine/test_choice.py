"""Which backup was meant, and what is said of those that could not be read."""

from datetime import timedelta

import pytest

from backup_pipeline.engine.choice import backup_at, newest_backup
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import DATABASE, KEYS, NOW, days_ago, make_backup


class Dated(MemoryStore):
    """Can say of an object that it was written earlier."""

    def __init__(self) -> None:
        self.now = NOW
        super().__init__(clock=lambda: self.now)

    def put_damaged(self, days: float) -> str:
        """The key of a manifest that nobody can read, written so long ago."""
        key = KEYS.of(BackupName.of(DATABASE, days_ago(days)), Kind.MANIFEST)
        self.now = days_ago(days)
        self.put(key, b"{}")
        return key


@pytest.fixture
def store() -> Dated:
    return Dated()


def test_what_may_be_a_newer_backup_is_told_with_the_newest_that_can_be_read(
    store: Dated,
) -> None:
    name = make_backup(store, days_ago(2))
    store.put_damaged(3)
    key = store.put_damaged(1)
    told: list[str] = []
    assert newest_backup(store, KEYS, DATABASE, NOW, told.append).name == name
    (sentence,) = told
    assert sentence.startswith(f"{key} may be a newer backup, and can't be read: ")


def test_what_a_store_whose_clock_is_ahead_has_written_is_told_as_well(store: Dated) -> None:
    make_backup(store, days_ago(2))
    key = store.put_damaged(-0.001)
    told: list[str] = []
    newest_backup(store, KEYS, DATABASE, NOW, told.append)
    assert [sentence.partition(" ")[0] for sentence in told] == [key]


def test_of_a_moment_only_what_was_written_by_then_is_told(store: Dated) -> None:
    name = make_backup(store, days_ago(4))
    key = store.put_damaged(3)
    store.put_damaged(1)
    told: list[str] = []
    moment = NOW - timedelta(days=2)
    assert backup_at(store, KEYS, DATABASE, moment, NOW, told.append).name == name
    assert [sentence.partition(" ")[0] for sentence in told] == [key]


def test_nothing_is_told_where_all_can_be_read(store: Dated) -> None:
    make_backup(store, days_ago(2))
    make_backup(store, days_ago(1))
    told: list[str] = []
    newest_backup(store, KEYS, DATABASE, NOW, told.append)
    assert told == []
