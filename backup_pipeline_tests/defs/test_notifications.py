"""Who is told what, and when."""

from datetime import timedelta

import dagster as dg
import pytest

from backup_pipeline.engine.model import Section
from backup_pipeline.errors import ChildFailed, StoreError
from backup_pipeline_tests.defs.project import NOON, Project
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import make_backup


def fail(section: Section) -> None:
    raise ChildFailed(f"pg_dump ended with code 1 in {section}", hint="Look at the server's log.")


def crash(section: Section) -> None:
    raise RuntimeError(f"hunter2 in {section}")


def hook_errors(result: dg.ExecuteInProcessResult) -> list[str]:
    return [
        event.message or ""
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.HOOK_ERRORED
    ]


def test_a_good_backup_is_told_once_with_its_sizes(project: Project) -> None:
    assert project.run().success

    (outcome,) = project.notifier.outcomes
    (backup,) = project.backups()
    assert outcome.succeeded
    assert outcome.database == "ahold_options"
    assert outcome.title == f"Backup of ahold_options: {backup.name} is verified"
    assert outcome.lines[0].startswith("3 rows in 1 tables, ")
    assert outcome.lines[1] == "1 backups kept, 0 deleted, 0.0 MB reclaimed"


def test_a_failed_backup_is_told_once_with_what_to_do(project: Project) -> None:
    project.postgres.fail = fail

    result = project.run()

    (outcome,) = project.notifier.outcomes
    assert not outcome.succeeded
    assert outcome.title == "Backup of ahold_options: dump failed"
    assert outcome.lines == (
        "pg_dump ended with code 1 in drops",
        "Look at the server's log.",
        f"Dagster run {result.run_id}",
    )


def test_the_step_that_failed_is_named(project: Project) -> None:
    project.run(only=["verified_backup"])
    project.run(only=["database_dump"])
    project.run(only=["pruned_bucket"])
    assert [(outcome.verb, outcome.succeeded) for outcome in project.notifier.outcomes] == [
        ("verify", False),
        ("prune", False),
    ]


def test_the_text_of_an_unknown_error_is_not_passed_on(project: Project) -> None:
    project.postgres.fail = crash
    project.run()
    (outcome,) = project.notifier.outcomes
    assert outcome.lines[0].startswith("An unexpected RuntimeError")
    assert "hunter2" not in repr(outcome)


def test_a_service_that_fails_is_reported_and_the_run_stays_good(project: Project) -> None:
    project.notifier.deaf = ("notification service 1, Slack",)

    result = project.run()

    assert result.success
    assert len(hook_errors(result)) == 1


def test_every_outcome_is_in_the_log_of_its_run(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.run()
    assert "is verified\n3 rows in 1 tables" in capfd.readouterr().err


def test_a_prune_that_ran_alone_speaks_of_the_prune_alone(project: Project) -> None:
    project.run(only=["database_dump", "verified_backup"])
    assert project.run(only=["pruned_bucket"]).success
    (outcome,) = project.notifier.outcomes
    assert outcome.title == "Backup of ahold_options: what has expired is deleted"
    assert len(outcome.lines) == 1


class LockedStore(MemoryStore):
    """Deletes nothing."""

    def delete(self, key: str) -> None:
        raise StoreError(f"{key} is locked")


def test_deletions_that_fail_are_told_although_the_backup_is_good(project: Project) -> None:
    project.use(LockedStore())
    for days in (20, 30, 40, 50):
        make_backup(project.memory, NOON - timedelta(days=days))

    result = project.run()

    assert not result.success
    (outcome,) = project.notifier.outcomes
    assert outcome.verb == "prune"
    assert "2 deletions failed" in outcome.lines[0]
    assert "safe" in outcome.lines[1]
