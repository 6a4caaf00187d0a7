"""Pins: what somebody wants to keep stays, also when a prune runs at the same moment."""

from typing import TYPE_CHECKING

import pytest

from backup_pipeline.engine.catalog import read_catalog, read_evidence, read_pin
from backup_pipeline.engine.model import Act, KeepDecision, Pin, PruneResult, RetentionPolicy
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.engine.pins import is_pinned, pin, unpin
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.errors import InvalidInput, NotFound, VerificationFailed
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

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = RetentionPolicy(days=7, minimum=1)


class Interrupted(MemoryStore):
    """Lets somebody else act right before a chosen call."""

    def __init__(self) -> None:
        super().__init__(lambda: days_ago(9))
        self.before: dict[tuple[str, str], Callable[[], object]] = {}

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        self._meanwhile("put", key)
        return super().put(key, body, overwrite=overwrite)

    def delete(self, key: str) -> None:
        self._meanwhile("delete", key)
        super().delete(key)

    def _meanwhile(self, verb: str, key: str) -> None:
        if act := self.before.pop((verb, key), None):
            act()


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def old(store: Interrupted) -> BackupName:
    """A backup that the next prune would delete."""
    make_backup(store, days_ago(1))
    return make_backup(store, days_ago(8))


def keep(store: MemoryStore, name: BackupName, reason: str = "before the migration") -> Pin:
    return pin(store, KEYS, name, reason, clock=lambda: NOW)


def pinned(store: MemoryStore, name: BackupName) -> str | None:
    return {b.name: b.pin for b in read_catalog(store, KEYS).backups}[name]


def run(store: MemoryStore) -> PruneResult:
    return prune(store, KEYS, DATABASE, POLICY, now=NOW)


def decision(result: PruneResult, name: BackupName) -> KeepDecision:
    return next(each for each in result.decisions if each.backup.name == name)


def whole(store: MemoryStore, name: BackupName) -> bool:
    return {KEYS.of(name, kind) for kind in MADE} <= set(store.objects)


def test_a_pinned_backup_is_kept_until_it_is_unpinned(store: Interrupted, old: BackupName) -> None:
    assert keep(store, old) == Pin(1, str(old), NOW, "before the migration")
    result = run(store)
    assert not result.deleted
    assert decision(result, old).reason == "pinned: before the migration"
    unpin(store, KEYS, old)
    assert run(store).deleted == (str(old),)
    assert not any(str(old) in key for key in store.objects)


def test_the_catalog_knows_who_is_pinned_and_why(store: Interrupted, old: BackupName) -> None:
    assert pinned(store, old) is None
    keep(store, old, "")
    assert pinned(store, old) == ""
    keep(store, old, "a second thought")
    assert pinned(store, old) == "a second thought"
    unpin(store, KEYS, old)
    assert pinned(store, old) is None


def test_a_pin_is_seen_although_the_index_was_written_before_it(
    store: Interrupted, old: BackupName
) -> None:
    keep(store, old)
    run(store)
    unpin(store, KEYS, old)
    make_backup(store, days_ago(0.5))
    keep(store, old, "again")
    assert pinned(store, old) == "again"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is damaged or not ours"),
        (b'{"version": 1, "name": "x", "at": "2025-01-01T00:00:00Z", "reason": "x"}', "is that of"),
        (b'{"version": 2, "name": "x", "at": "2025-01-01T00:00:00Z", "reason": "x"}', "version"),
    ],
)
def test_a_pin_that_can_not_be_read_keeps_all_the_same(
    store: Interrupted, old: BackupName, body: bytes, said: str
) -> None:
    store.put(KEYS.of(old, Kind.PIN), body)
    with pytest.raises(VerificationFailed):
        read_pin(store, KEYS, old)
    result = run(store)
    assert not result.deleted
    assert said in decision(result, old).reason
    unpin(store, KEYS, old)
    assert run(store).deleted == (str(old),)


def test_what_does_not_exist_can_not_be_pinned(store: Interrupted) -> None:
    name = BackupName.of(DATABASE, NOW)
    for act in (lambda: keep(store, name), lambda: unpin(store, KEYS, name)):
        with pytest.raises(NotFound, match=f"there is no backup {name}"):
            act()
    assert not store.objects


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "\udc80"])
def test_a_reason_is_one_line_of_text(store: Interrupted, old: BackupName, reason: str) -> None:
    with pytest.raises(InvalidInput, match="one line of text"):
        keep(store, old, reason)
    assert not is_pinned(store, KEYS, old)


def test_unpinning_twice_is_no_error(store: Interrupted, old: BackupName) -> None:
    keep(store, old)
    for _ in range(2):
        unpin(store, KEYS, old)


def test_a_pin_without_a_backup_is_a_stray_that_unpinning_takes_away(
    store: Interrupted, old: BackupName
) -> None:
    keep(store, old)
    for kind in MADE:
        store.delete(KEYS.of(old, kind))
    (stray,) = read_catalog(store, KEYS).strays
    assert (stray.key, stray.deletable) == (KEYS.of(old, Kind.PIN), False)
    assert not run(store).deleted
    unpin(store, KEYS, old)
    assert read_catalog(store, KEYS).strays == ()


# Of a pin and a prune at the same moment, either the pin holds or whoever set it is told.


def test_a_pin_set_after_the_prune_listed_the_bucket_holds(
    store: Interrupted, old: BackupName
) -> None:
    older = make_backup(store, days_ago(9))
    store.before["delete", KEYS.of(old, Kind.MANIFEST)] = lambda: keep(store, older)
    result = run(store)
    assert result.deleted == (str(old),)
    assert whole(store, older)
    assert decision(result, older).keep
    assert decision(result, older).reason == "pinned meanwhile"
    assert Act.EXPIRE not in {entry.act for entry in read_evidence(store, KEYS, older).entries}


def test_a_pin_set_right_before_the_manifest_is_deleted_holds(
    store: Interrupted, old: BackupName
) -> None:
    store.before["delete", KEYS.of(old, Kind.MANIFEST)] = lambda: keep(store, old)
    result = run(store)
    assert (result.deleted, result.failed, result.reclaimed) == ((), (), 0)
    assert decision(result, old).reason == "pinned meanwhile"
    assert whole(store, old)
    assert pinned(store, old) == "before the migration"
    assert run(store).decisions[1].keep


def test_who_pins_what_is_being_deleted_is_told(store: Interrupted, old: BackupName) -> None:
    store.before["put", KEYS.of(old, Kind.PIN)] = lambda: run(store)
    with pytest.raises(NotFound, match=f"{old} was not pinned"):
        keep(store, old)
    assert not any(str(old) in key for key in store.objects)


def test_a_prune_that_was_killed_beside_a_pin_leaves_the_dump_to_nobody(
    store: Interrupted, old: BackupName
) -> None:
    """The deletion is on record and the manifest gone, but the pin says to keep what is left."""
    make_evidence(store, old, act=Act.EXPIRE)
    keep(store, old)
    store.delete(KEYS.of(old, Kind.MANIFEST))
    assert not run(store).deleted
    assert KEYS.of(old, Kind.DUMP) in store.objects


def test_two_prunes_at_the_same_moment_respect_a_pin(store: Interrupted, old: BackupName) -> None:
    """The other one has deleted the manifest, seen the pin, and is about to put it back."""

    def other_prune() -> None:
        keep(store, old)
        del store.objects[KEYS.of(old, Kind.MANIFEST)]

    store.before["put", KEYS.of(old, Kind.EVIDENCE)] = other_prune
    assert not run(store).deleted
    assert {key for key in store.objects if str(old) in key} == {
        KEYS.of(old, kind) for kind in (*MADE, Kind.PIN) if kind is not Kind.MANIFEST
    }


def test_two_prunes_at_the_same_moment_finish_each_others_work(
    store: Interrupted, old: BackupName
) -> None:
    others: list[PruneResult] = []
    store.before["put", KEYS.of(old, Kind.EVIDENCE)] = lambda: others.append(run(store))
    result = run(store)
    assert others[0].deleted == result.deleted == (str(old),)
    assert not result.failed
    assert not any(str(old) in key for key in store.objects)
