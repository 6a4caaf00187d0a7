"""What a run came to, in words for people: read from Dagster's event log once the run has ended."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.jobs import DRILL, PRUNE, RESTORE, VERIFY
from backup_pipeline.defs.metadata import SUMMARY
from backup_pipeline.engine.notify import Outcome

if TYPE_CHECKING:
    # What a step's failure holds; Dagster does not export it.
    from dagster_shared.error import SerializableErrorInfo

# What Dagster raises in a step whose blocking check failed; the check says more by itself.
_BLOCKED = "DagsterAssetCheckFailedError"
_CONCERNS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
}
_WORDS = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "FAILED",
    dg.DagsterRunStatus.CANCELED: "was cancelled",
}


def outcome_of(
    database: Database, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Outcome | None:
    """The outcome of an ended run, or `None` for a run that has nothing to do with the database.

    Failed checks, warnings too, are part of it.
    The text of an error that is not our own is never passed on: it may quote a secret.
    """
    verb = _verb(database, instance, run)
    if verb is None:
        return None
    failures = tuple(_failures(instance, run))
    # A verification that failed says the same as an error and as a check.
    warnings = tuple(
        f"Check {name}: {said}"
        for name, said in _failed_checks(instance, run)
        if not any(said in line for line in failures)
    )
    word = _WORDS[run.status]
    if warnings and run.is_success:
        word += f" with {len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
    lines = [*failures, *warnings, *_summaries(instance, run)]
    if run.is_failure and not lines:
        lines = ["No step failed: the run was never begun, or its process died."]
    return Outcome(
        verb=verb,
        database=database.name,
        succeeded=run.is_success,
        title=f"{verb.capitalize()} of {database.name} {word}",
        lines=(*lines, _where(database, run)),
        warnings=warnings,
    )


def _verb(database: Database, instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    jobs = {RESTORE: "restore", VERIFY: "verification", PRUNE: "prune", DRILL: "restore drill"}
    for job, verb in jobs.items():
        if run.job_name == database.own(job):
            return verb
    planned = instance.get_records_for_run(run.run_id, of_type=_CONCERNS).records
    events = [record.event_log_entry.get_dagster_event() for record in planned]
    # What a run of several assets is for is the first of them.
    makes = {
        database.dump: "backup",
        database.verified: "verification",
        database.proof: "restore drill",
        database.pruned: "prune",
    }
    made = {event.asset_key for event in events}
    checked = {_checked(event) for event in events}
    named = (verb for key, verb in makes.items() if key in made)
    return next(named, "check" if checked & makes.keys() else None)


def _checked(event: dg.DagsterEvent) -> dg.AssetKey | None:
    if event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
        return None
    return event.asset_check_planned_data.asset_key


def _failures(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[str]:
    """What each failed step said."""
    of_type = dg.DagsterEventType.STEP_FAILURE
    for record in instance.get_records_for_run(run.run_id, of_type=of_type).records:
        data = record.event_log_entry.get_dagster_event().step_failure_data
        failure = data.user_failure_data
        if failure and failure.description and "exit_code" in failure.metadata:
            yield from failure.description.splitlines()
        elif (kind := _kind(data.error)) != _BLOCKED:
            yield f"An unexpected {kind}; the log of the run says more."


def _kind(error: "SerializableErrorInfo | None") -> str:
    """The class of the error below those that Dagster wraps round it."""
    while error and error.cause:
        error = error.cause
    return (error and error.cls_name) or "error"


def _failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[tuple[str, str]]:
    """The name of each, and what it said."""
    of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for record in instance.get_records_for_run(run.run_id, of_type=of_type).records:
        check = record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        if not check.passed:
            yield f"{check.asset_key.path[-1]}.{check.check_name}", check.description or "failed"


def _summaries(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[str]:
    """What each step that ended well says of itself."""
    of_type = dg.DagsterEventType.STEP_OUTPUT
    for record in instance.get_records_for_run(run.run_id, of_type=of_type).records:
        metadata = record.event_log_entry.get_dagster_event().step_output_data.metadata
        if SUMMARY in metadata:
            yield _without_marks(str(metadata[SUMMARY].value))


def _without_marks(markdown: str) -> str:
    return re.sub(r"\\(.)|[*`]", lambda found: found[1] or "", markdown)


def _where(database: Database, run: dg.DagsterRun) -> str:
    url = database.settings.dagster_url
    return f"{url.rstrip('/')}/runs/{run.run_id}" if url else f"Dagster run {run.run_id}"
