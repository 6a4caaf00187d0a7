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


def test_the_largest_comes_first() -> None:
    sizes = sizes_of(LARGE, 3 * LARGE, 2 * LARGE, 5)
    assert plan(sizes, 2) == ((("public", "t1"),), (("public", "t2"),), (("public", "t0"),))


def test_many_tables_make_few_even_groups() -> None:
    groups = plan(sizes_of(*[LARGE] * 100), 2)
    assert len(groups) == 8
    assert {len(group) for group in groups} == {12, 13}


def test_a_giant_is_alone() -> None:
    groups = plan(sizes_of(1000 * LARGE, *[LARGE] * 40), 2)
    assert groups[0] == (("public", "t0"),)


@given(st.lists(st.integers(0, 50 * LARGE), max_size=60), st.integers(2, 8))
def test_each_large_table_is_in_one_group(sizes: list[int], jobs: int) -> None:
    tables = sizes_of(*sizes)
    groups = plan(tables, jobs)
    grouped = [table for group in groups for table in group]
    assert sorted(grouped) == sorted(table for table in tables if tables[table] >= LARGE)
    assert len(groups) <= 4 * jobs
    weights = [sum(tables[table] for table in group) for group in groups]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("jobs", [2, 3])
def test_more_tables_than_arguments_leave_some_with_the_rest(jobs: int) -> None:
    groups = plan(sizes_of(*[LARGE] * 1500), jobs)
    assert sum(map(len, groups)) == 1000
