"""The list of guards is up to date, and one of them, taken out, is noticed."""

import pytest

from backup_pipeline_tests.faults.catalogue import is_defined
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.guards import MUTATIONS, Mutation
from backup_pipeline_tests.faults.mutations import ROOT, TESTS_FAILED, a_copy, run_tests, taken_out


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_each_guard_is_where_the_list_says(mutation: Mutation) -> None:
    assert (ROOT / mutation.path).read_text().count(mutation.old) == 1
    assert [test for test in mutation.tests if not is_defined(test)] == []


def test_a_guard_that_is_taken_out_is_noticed(chance: Chance) -> None:
    """One that needs no server; `make test-mutations` takes them all."""
    quick = [each for each in MUTATIONS if each.file in {"catalog.py", "retention.py", "names.py"}]
    mutation = chance.random.choice([each for each in quick if "drill" not in each.guard])
    with a_copy() as copy:
        with taken_out(mutation, copy):
            assert run_tests(copy, mutation.tests) == TESTS_FAILED, mutation.guard
        assert run_tests(copy, mutation.tests) == 0
