"""Tell people what became of a backup, from within the run that made it.

Hooks and not sensors: they also work where no daemon runs, and tell about each database once.
What a run can't say for itself, because it was cancelled or its worker died, is for a sensor.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.metadata import BACKUP
from backup_pipeline.defs.runs import materialized_by
from backup_pipeline.engine.notify import Outcome


def on_failure(database: Database, verb: str) -> dg.HookDefinition:
    """The hook of an asset whose failure ends the backup of a database."""

    needs = database.needs("notifier")

    @dg.failure_hook(name=database.own(f"notify_of_failed_{verb}"), required_resource_keys=needs)
    def notify_of_failure(context: dg.HookContext) -> None:
        said = _explanation(context.op_exception)
        _tell(
            database,
            context,
            Outcome(
                verb=verb,
                database=database.name,
                succeeded=False,
                title=f"Backup of {database.name}: {verb} failed",
                lines=(*said, f"Dagster run {context.run_id}"),
            ),
        )

    return notify_of_failure


def on_success(database: Database) -> dg.HookDefinition:
    """The hook of the last asset: the backup is made and verified, and the bucket pruned."""
    needs = database.needs("notifier")

    @dg.success_hook(name=database.own("notify_of_success"), required_resource_keys=needs)
    def notify_of_success(context: dg.HookContext) -> None:
        made = materialized_by(context.instance, context.run_id, database.dump)
        left = materialized_by(context.instance, context.run_id, database.pruned)
        done = f"{made[BACKUP]} is verified" if made else "what has expired is deleted"
        lines = [_sizes(made)] if made else []
        lines += [_remaining(left)] if left else []
        title = f"Backup of {database.name}: {done}"
        outcome = Outcome("backup", database.name, succeeded=True, title=title, lines=(*lines,))
        _tell(database, context, outcome)

    return notify_of_success


def _tell(database: Database, context: dg.HookContext, outcome: Outcome) -> None:
    """Write the outcome to the run's log and send it; a service that fails marks the hook alone.

    Dagster records a failing hook as an event of the run and leaves the run's own result as it is.
    """
    context.log.info("\n".join((outcome.title, *outcome.lines)))
    undelivered = database.notifier(context).send(outcome)
    if undelivered:
        raise dg.Failure(f"the outcome was not delivered to {', '.join(undelivered)}")


def _explanation(error: BaseException | None) -> tuple[str, ...]:
    # Retries that are used up, or switched off, wrap the failure that they were for.
    if isinstance(error, dg.RetryRequested):
        error = error.__cause__
    if isinstance(error, dg.Failure) and error.description:
        return tuple(error.description.splitlines())
    # Nobody looked through the text of an error that is not our own: it may quote a secret.
    return (f"An unexpected {type(error).__name__}; the log of the run says more.",)


def _sizes(made: Mapping[str, Any]) -> str:
    stored, raw = made["size_bytes"] / 1e6, made["raw_size_bytes"] / 1e6
    return (
        f"{made['rows']:,} rows in {made['tables']:,} tables, {raw:,.1f} MB of SQL, "
        f"{stored:,.1f} MB in the bucket, dumped in {made['duration_seconds']:,.1f} s"
    )


def _remaining(left: Mapping[str, Any]) -> str:
    return (
        f"{left['kept']:,} backups kept, {left['deleted']:,} deleted, "
        f"{left['reclaimed_bytes'] / 1e6:,.1f} MB reclaimed"
    )
