"""Fixtures for tests of the Dagster project."""

import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob

from backup_pipeline_tests.defs.project import Project, projects


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A run in this process leaves SIGTERM in the hands of Dagster's way with SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory, which forgets everything with the test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def project(instance: dg.DagsterInstance) -> Project:
    """The project on fakes."""
    return Project(instance)


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Project]:
    """The project on an instance that keeps its runs in files, as `execute_job` demands."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        # Dagster remembers the repository that it found by its name, and so another test's.
        for remembered in (
            ReconstructableJob.get_repository_definition,
            ReconstructableJob.get_definition,
        ):
            remembered.cache_clear()
        projects.append(Project(instance))
        yield projects[-1]
        projects.pop()
