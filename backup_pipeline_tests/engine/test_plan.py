"""Which tables are dumped by themselves: the large ones, in groups that are as even as can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.engine.plan import LARGE, plan


def sizes_of(*sizes: int) -> dict[tuple[str, str], int]:
    return {("public", f"t{index}"): size for index, size in enumerate(sizes)}


def test_one_job_dumps_everything_together() -> None:
    assert plan(sizes_of(100 * LARGE, LARGE), 1) == ()


def test_small_tables_stay_together() -> None:
    assert plan(sizes_of(*[LARGE - 1] * 1000), 4) == ()


def test_the_jobs_are_as_even_as_whole_tables_allow() -> None:
    sizes = sizes_of(4 * LARGE, 3 * LARGE, 2 * LARGE, LARGE)
    assert plan(sizes, 2) == ((("public", "t1"), ("public", "t2")),)


def test_one_job_has_the_rest_and_large_tables_as_far_as_it_has_room() -> None:
    small = [LARGE - 1] * 5
    assert plan(sizes_of(2 * LARGE, *small), 2) == ((("public", "t0"),),)
    (group,) = plan(sizes_of(*[2 * LARGE] * 9, *small), 2)
    assert len(group) == 6


def test_a_giant_is_alone() -> None:
    groups = plan(sizes_of(1000 * LARGE, 1, *[LARGE] * 40), 3)
    assert (("public", "t0"),) in groups


@given(st.lists(st.integers(0, 50 * LARGE), max_size=60), st.integers(1, 8))
def test_no_job_has_more_than_another_by_more_than_a_table(sizes: list[int], jobs: int) -> None:
    tables = sizes_of(*sizes)
    groups = plan(tables, jobs)
    grouped = [table for group in groups for table in group]
    assert len(grouped) == len(set(grouped))
    assert all(tables[table] >= LARGE for table in grouped)
    assert len(groups) < jobs
    weights = [sum(tables[table] for table in group) for group in groups]
    weights.append(sum(sizes) - sum(weights))
    least = min(weights) if len(weights) == jobs else 0
    for group in groups:
        smallest = min(tables[table] for table in group)
        assert sum(tables[table] for table in group) - smallest <= least


@pytest.mark.parametrize("jobs", [2, 3])
def test_more_tables_than_arguments_leave_some_with_the_rest(jobs: int) -> None:
    groups = plan(sizes_of(*[LARGE] * 2500), jobs)
    assert 0 < sum(map(len, groups)) <= 1000
