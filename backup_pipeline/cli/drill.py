"""`drill`: restore a backup for a trial, compare it, and drop the copy."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import options, words
from backup_pipeline.cli.documents import of_entry
from backup_pipeline.cli.output import Output, command
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    from backup_pipeline.engine.drill import DrillResult
    from backup_pipeline.engine.names import BackupName


@click.command(short_help="Restore a backup for a trial and compare every row.")
@click.argument("name", required=False)
@click.option("--latest", is_flag=True, help="The newest backup of the database.")
@click.option("--database", help="Instead of BACKUP_DATABASE.")
@options.jobs
@options.identity
@options.limit_rate
@command
def drill(
    output: Output,
    name: str | None,
    latest: bool,
    database: str | None,
    jobs: int | None,
    identity_file: str | None,
    limit_rate: float | None,
) -> None:
    """Restore into a scratch database, compare every row, drop it, and record the proof."""
    from backup_pipeline.engine.choice import newest_backup
    from backup_pipeline.engine.drill import drill as drill_backup
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.settings import load_settings

    if (name is not None) == latest:
        raise click.UsageError("Give one of NAME and --latest.")
    asked = BackupName.parse(name) if name is not None else None
    settings = load_settings(
        database=database, jobs=jobs, identity_file=identity_file, limit_rate=limit_rate
    )
    store, keys = settings.store(), settings.keys()
    backup = asked or newest_backup(store, keys, settings.database, _now(), output.warn).name
    with output.progress() as report:
        result = drill_backup(
            store,
            keys,
            backup,
            settings.drill_server(),
            settings.clients_dirs(),
            invariants=settings.invariants,
            jobs=settings.jobs,
            identities=settings.identities(),
            clock=_now,
            report=report,
        )
    output.warn(*(f"not compared: {each}" for each in result.not_compared))
    if not result.entry.passed:
        raise VerificationFailed(
            f"{backup} is not what was dumped: {'; '.join(result.entry.findings)}"
        )
    output.document(_document(backup, result))
    output.say(*_lines(backup, result))


def _now() -> datetime:
    return datetime.now(UTC)


def _document(backup: "BackupName", result: "DrillResult") -> dict[str, object]:
    return {
        **of_entry(backup, result.entry),
        "recovery_seconds": result.entry.recovery_seconds,
        "tables": result.tables,
        "not_compared": list(result.not_compared),
        "invariants": [
            {"name": each.name, "passed": each.passed, "found": each.found}
            for each in result.invariants
        ],
    }


def _lines(backup: "BackupName", result: "DrillResult") -> tuple[str, ...]:
    entry = result.entry
    return (
        f"{backup} is restorable: {result.tables} tables, {entry.rows:,} rows, all equal",
        *(f"invariant {each.name} holds: {each.found}" for each in result.invariants),
        f"a recovery takes {words.seconds(entry.recovery_seconds or 0)}",
    )
