"""Each documented way of starting Dagster in the project's directory."""

from pathlib import Path

import pytest

from backup_pipeline_tests.dagster_ui import LOCATION, WAYS, processes_of, started


@pytest.mark.parametrize("way", WAYS)
def test_it_serves_the_project_and_leaves_no_process_behind(tmp_path: Path, way: str) -> None:
    with started(tmp_path, {}, WAYS[way]) as ui:
        assert ui.locations() == {LOCATION: "RepositoryLocation"}
    assert processes_of(tmp_path) == []
