"""Errors as Dagster shows them, and what is retried: proved by Dagster's own runs."""

from collections import Counter

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from backup_pipeline import errors
from backup_pipeline.defs import failures
from backup_pipeline.defs.failures import MAX_RETRIES, as_failure
from backup_pipeline.defs.jobs import JOB
from backup_pipeline.defs.outcomes import outcome_of
from backup_pipeline.engine.model import Section
from backup_pipeline.engine.notify import Outcome
from backup_pipeline_tests.defs.project import Project, current_job, failure_of

TRANSIENT = {errors.PostgresUnreachable, errors.PostgresSilent, errors.StoreUnreachable}


def subclasses(cls: type[errors.BackupPipelineError]) -> list[type[errors.BackupPipelineError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


class Failing:
    """Raises an error in the middle of the data, the first `times` times."""

    def __init__(self, error: BaseException, times: int = 99) -> None:
        self.error = error
        self.times = times

    def __call__(self, section: Section) -> None:
        if section is Section.DATA and self.times:
            self.times -= 1
            raise self.error


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.0)


def outcome_of_last_run(project: Project) -> Outcome:
    """What people would be told of it."""
    outcome = outcome_of(project.database, project.instance, project.instance.get_runs()[0])
    assert outcome is not None
    return outcome


@pytest.mark.parametrize("cls", subclasses(errors.BackupPipelineError))
def test_every_error_keeps_its_message_hint_and_exit_code(
    cls: type[errors.BackupPipelineError],
) -> None:
    error = cls("what happened", hint="what to do")
    error.add_note("what was left")
    failure = as_failure(error)

    assert failure.description == "what happened\nwhat was left\nwhat to do"
    assert failure.metadata["error"].value == cls.__name__
    assert failure.metadata["exit_code"].value == cls.exit_code
    assert failure.metadata["hint"].value == "what to do"
    assert failure.allow_retries == (cls in TRANSIENT)


def test_a_transient_fault_is_retried_and_the_run_succeeds(project: Project) -> None:
    project.postgres.fail = Failing(errors.PostgresUnreachable("no route"), times=MAX_RETRIES)

    result = project.run()

    assert result.success
    assert project.postgres.dumps == MAX_RETRIES + 1
    assert len(project.backups()) == 1
    assert project.memory.uploads == {}
    outcome = outcome_of_last_run(project)
    assert outcome.succeeded
    assert len(outcome.lines) == 4  # nothing of the retries


def test_retries_end_and_the_failure_says_what_happened(project: Project) -> None:
    project.postgres.fail = Failing(errors.StoreUnreachable("no answer from http://nas:9000"))

    result = project.run()

    assert project.postgres.dumps == MAX_RETRIES + 1
    failure = failure_of(result, "database_dump")
    assert failure["error"] == "StoreUnreachable"
    assert failure["description"].startswith("no answer from http://nas:9000\n")
    outcome = outcome_of_last_run(project)
    assert not outcome.succeeded
    assert outcome.lines[0] == "no answer from http://nas:9000"
    assert project.keys_in_bucket() == set()


@pytest.mark.parametrize(
    "error",
    [
        errors.StoreDenied("wrong key"),
        errors.PostgresDenied("wrong password"),
        errors.ClientTooOld("too old"),
        ValueError("a bug"),
    ],
)
def test_what_will_not_pass_by_itself_is_not_retried(project: Project, error: Exception) -> None:
    project.postgres.fail = Failing(error)
    assert not project.run().success
    assert project.postgres.dumps == 1


@pytest.mark.parametrize("interruption", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_a_cancelled_run_ends_at_once_and_leaves_nothing(
    project: Project, interruption: type[BaseException]
) -> None:
    def cancel(section: Section) -> None:
        if section is Section.DATA:
            project.instance.report_run_canceling(project.instance.get_runs()[0])
            raise interruption

    project.postgres.fail = cancel

    result = project.run()

    run = project.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert project.postgres.dumps == 1
    assert project.keys_in_bucket() == set()
    assert project.memory.uploads == {}


def test_no_asset_has_a_retry_policy_because_it_would_outlive_a_cancellation(
    project: Project,
) -> None:
    ops = project.defs.resolve_job_def(JOB).all_node_defs
    policies = Counter(op.retry_policy for op in ops if isinstance(op, dg.OpDefinition))
    assert set(policies) == {None}


def test_a_failure_with_retries_switched_off_still_says_what_happened(lasting: Project) -> None:
    lasting.postgres.fail = Failing(errors.PostgresUnreachable("no route"))

    with dg.execute_job(
        dg.reconstructable(current_job),
        instance=lasting.instance,
        run_config={"execution": {"config": {"in_process": {"retries": {"disabled": {}}}}}},
    ) as result:
        (event,) = (event for event in result.all_events if event.is_step_failure)

    assert lasting.postgres.dumps == 1
    data = event.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["error"].value == "PostgresUnreachable"
    assert outcome_of_last_run(lasting).lines[0] == "no route"
