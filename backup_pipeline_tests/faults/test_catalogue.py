"""The page that promises what becomes of each fault names tests that there are."""

from backup_pipeline_tests.faults.catalogue import is_defined, read_catalogue


def test_every_fault_has_its_row() -> None:
    assert [fault.number for fault in read_catalogue()] == list(range(1, 40))


def test_every_row_names_tests_and_every_test_is_there() -> None:
    missing = [
        (fault.number, test)
        for fault in read_catalogue()
        for test in fault.tests or (None,)
        if not test or not is_defined(test)
    ]
    assert missing == []
