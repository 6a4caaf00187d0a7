"""A backup compared with those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.history import (
    Limits,
    compare_duration,
    compare_rows,
    compare_size,
    earlier_manifests,
)
from backup_pipeline.engine.model import Manifest, TableRows
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import KEYS, NOW, days_ago, make_backup, manifest_of

LIMITS = Limits(runs=7, change=0.5, slowdown=3)


def manifest(
    *, size: int = 1000, seconds: float = 20, rows: Mapping[str, int] | None = None
) -> Manifest:
    """A manifest of so many bytes, seconds and rows per table."""
    made = manifest_of(BackupName.of("orders", NOW), NOW, b"x" * size, b"")
    tables = tuple(TableRows("public", table, count) for table, count in (rows or {}).items())
    (member,) = made.members
    return replace(
        made,
        members=(replace(member, tables=tables),),
        finished_at=made.started_at + timedelta(seconds=seconds),
    )


def of_sizes(*sizes: int) -> Sequence[Manifest]:
    return [manifest(size=size) for size in sizes]


def of_rows(*rows: Mapping[str, int]) -> Sequence[Manifest]:
    return [manifest(rows=each) for each in rows]


@pytest.mark.parametrize(
    ("size", "passed"), [(1000, True), (500, True), (1500, True), (499, False), (1501, False)]
)
def test_a_size_may_differ_from_the_median_by_a_fraction_of_it(size: int, passed: bool) -> None:
    found = compare_size(manifest(size=size), of_sizes(900, 1000, 30_000), LIMITS)
    assert (found.passed, found.expected, found.actual) == (passed, 1000, size)
    assert "the median of 3 earlier backups, 1,000." in found.sentence


def test_the_first_backup_of_all_is_like_nothing_and_passes() -> None:
    first = manifest(rows={"trades": 5})
    for compare in (compare_size, compare_duration, compare_rows):
        found = compare(first, [], LIMITS)
        assert found.passed
        assert found.expected == found.actual > 0
        assert "no earlier backup" in found.sentence


@pytest.mark.parametrize(("seconds", "passed"), [(1, True), (60, True), (61, False)])
def test_a_backup_may_take_a_few_times_the_median(seconds: float, passed: bool) -> None:
    earlier = [manifest(seconds=each) for each in (20, 20, 500)]
    found = compare_duration(manifest(seconds=seconds), earlier, LIMITS)
    assert (found.passed, found.expected, found.actual) == (passed, 20, seconds)


def test_a_short_backup_is_never_slow() -> None:
    found = compare_duration(manifest(seconds=9), [manifest(seconds=0.5)], LIMITS)
    assert found.passed


@pytest.mark.parametrize(("rows", "passed"), [(500, True), (1500, True), (499, False)])
def test_a_table_may_change_by_a_fraction_of_its_median(rows: int, passed: bool) -> None:
    earlier = of_rows({"trades": 1000}, {"trades": 1000}, {"trades": 7})
    found = compare_rows(manifest(rows={"trades": rows}), earlier, LIMITS)
    assert (found.passed, found.expected, found.actual) == (passed, 1000, rows)


def test_one_emptied_table_is_named_though_the_sum_is_as_ever() -> None:
    earlier = of_rows({"trades": 1000, "quotes": 1000})
    found = compare_rows(manifest(rows={"trades": 0, "quotes": 1400}), earlier, LIMITS)
    assert not found.passed
    assert found.sentence == "Unusual rows: public.trades 0 instead of about 1,000."


def test_a_table_that_vanished_is_named_and_a_new_one_is_no_news() -> None:
    found = compare_rows(manifest(rows={"new": 10_000}), of_rows({"old": 3}), LIMITS)
    assert not found.passed
    assert found.sentence == "Unusual rows: public.old is gone."


def test_a_table_that_the_backup_before_had_no_more_is_not_missed() -> None:
    earlier = of_rows({"kept": 5}, {"kept": 5, "dropped": 9_000})
    assert compare_rows(manifest(rows={"kept": 5}), earlier, LIMITS).passed


def test_a_few_rows_more_or_less_are_no_news() -> None:
    assert compare_rows(manifest(rows={"t": 90}), of_rows({"t": 2}), LIMITS).passed


def test_many_unusual_tables_are_counted() -> None:
    earlier = of_rows({f"t{number}": 1000 for number in range(9)})
    found = compare_rows(manifest(), earlier, LIMITS)
    assert found.sentence.endswith("public.t4 is gone and 4 more.")


def test_the_bucket_is_the_history() -> None:
    store = MemoryStore()
    latest = make_backup(store, days_ago(1))
    usual = [make_backup(store, days_ago(days)) for days in (2, 3, 4)]
    make_backup(store, days_ago(0))  # later than the one that is judged
    make_backup(store, days_ago(2.5), verified=False)
    make_backup(store, days_ago(2), database="another")

    found = earlier_manifests(
        store,
        KEYS,
        read_catalog(store, KEYS, latest.database).backups,
        read_manifest(store, KEYS, latest),
        runs=2,
    )

    assert [each.name for each in found] == [str(name) for name in usual[:2]]


def test_a_backup_that_vanishes_meanwhile_is_left_out() -> None:
    store = MemoryStore()
    latest, gone = make_backup(store, days_ago(1)), make_backup(store, days_ago(2))
    backups = read_catalog(store, KEYS, latest.database).backups
    manifest_of_latest = read_manifest(store, KEYS, latest)
    store.delete(KEYS.of(gone, Kind.MANIFEST))
    assert earlier_manifests(store, KEYS, backups, manifest_of_latest, runs=7) == ()
