"""`restore`: choose a backup, show what will happen, ask, and do it."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import words
from backup_pipeline.cli.documents import of_backup
from backup_pipeline.cli.output import Output, command
from backup_pipeline.cli.show import show_catalog
from backup_pipeline.errors import NotConfirmed, TargetExists

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from backup_pipeline.engine.model import Backup
    from backup_pipeline.engine.postgres import Server
    from backup_pipeline.engine.restore import RestoreResult
    from backup_pipeline.settings import Settings


@dataclass(frozen=True)
class Choice:
    """Which backup was asked for."""

    latest: bool
    at: str | None
    name: str | None


@dataclass(frozen=True)
class Plan:
    """What a restore will do."""

    backup: "Backup"
    server: "Server"
    target: str
    exists: bool


@click.command()
@click.option("--list", "list_only", is_flag=True, help="Only list the backups.")
@click.option("--latest", is_flag=True, help="Restore the newest backup.")
@click.option("--at", metavar="TIME", help="Restore the newest backup taken at or before TIME.")
@click.option("--backup", "name", metavar="NAME", help="Restore the backup NAME.")
@click.option("--into", metavar="DB", help="The database to restore into; it must not exist.")
@click.option(
    "--replace",
    is_flag=True,
    help="Swap the restored database in for the live one, which is kept under another name.",
)
@click.option("--disconnect", is_flag=True, help="With --replace: end the sessions that hold it.")
@click.option("--no-confirm", is_flag=True, help="Don't ask.")
@click.option("--database", help="Choose among the backups of this database.")
@command
def restore(
    output: Output,
    list_only: bool,
    latest: bool,
    at: str | None,
    name: str | None,
    into: str | None,
    replace: bool,
    disconnect: bool,
    no_confirm: bool,
    database: str | None,
) -> None:
    """Restore a backup into a new database, or in place of the live one.

    Without --into and --replace the new database is named like the backup.
    """
    if [list_only, latest, at is not None, name is not None].count(True) != 1:
        raise click.UsageError("Give one of --list, --latest, --at and --backup.")
    if disconnect and not replace:
        raise click.UsageError("--disconnect goes with --replace.")
    if list_only:
        show_catalog(output, database)
        return
    from backup_pipeline.settings import load_settings

    settings = load_settings(database=database)
    plan = _plan(settings, Choice(latest, at, name), into, replace=replace)
    _describe(output, plan, settings.zone)
    if plan.exists and not replace:
        raise TargetExists(f"there is a database {plan.target!r} already")
    if not no_confirm:
        _confirm(plan)
    result = _restore(output, settings, plan, replace=replace, disconnect=disconnect)
    _report(output, plan, result)


def _plan(settings: "Settings", choice: Choice, into: str | None, *, replace: bool) -> Plan:
    from backup_pipeline.engine.choice import database_name, new_database
    from backup_pipeline.engine.restore import database_exists

    backup = _choose(settings, choice)
    if into is not None:
        target = database_name(into)
    else:
        target = backup.name.database if replace else new_database(backup.name)
    server = settings.server()
    return Plan(backup, server, target, exists=database_exists(server, target))


def _choose(settings: "Settings", choice: Choice) -> "Backup":
    from backup_pipeline.engine.choice import backup_at, named_backup, newest_backup, parse_moment
    from backup_pipeline.engine.names import BackupName

    store, keys, now = settings.store(), settings.keys(), datetime.now(UTC)
    if choice.name is not None:
        return named_backup(store, keys, BackupName.parse(choice.name))
    if choice.at is not None:
        moment = parse_moment(choice.at, settings.zone)
        return backup_at(store, keys, settings.database, moment, now)
    return newest_backup(store, keys, settings.database, now)


def _describe(output: Output, plan: Plan, zone: "ZoneInfo") -> None:
    backup, server = plan.backup, plan.server
    evidence = str(backup.state)
    if backup.verified_at:
        evidence += f" ({words.local(backup.verified_at, zone)})"
    lines = {
        "backup": str(backup.name),
        "taken at": words.local_and_utc(backup.taken_at, zone),
        "age": words.age(max(datetime.now(UTC) - backup.taken_at, timedelta(0))),
        "size": f"{words.size(backup.size)}, {words.size(backup.raw_length)} of SQL, "
        f"{backup.tables} tables, {backup.rows:,} rows",
        "evidence": "; ".join((evidence, *backup.findings)),
        "server": f"host {server.host}, port {server.port}, user {server.user}",
        "database": f"{plan.target} ({_fate(plan)})",
    }
    output.say(*(f"{label:<9} {value}" for label, value in lines.items()))


def _fate(plan: Plan) -> str:
    if not plan.exists:
        return "will be created"
    return f"is replaced; the present one is kept as {plan.target}_before_<date and time>"


def _confirm(plan: Plan) -> None:
    if not sys.stdin.isatty():
        raise NotConfirmed("nobody is here to confirm the restore: the input is no terminal")
    question = f"{'Replace' if plan.exists else 'Create'} the database {plan.target!r}?"
    if not click.confirm(question, err=True):
        raise NotConfirmed("the restore was not confirmed")


def _restore(
    output: Output, settings: "Settings", plan: Plan, *, replace: bool, disconnect: bool
) -> "RestoreResult":
    from backup_pipeline.engine.restore import restore as restore_backup

    with output.progress() as report:
        return restore_backup(
            settings.store(),
            settings.keys(),
            plan.backup.name,
            plan.server,
            plan.target,
            replace=replace,
            disconnect=disconnect,
            clock=lambda: datetime.now(UTC),
            report=report,
        )


def _report(output: Output, plan: Plan, result: "RestoreResult") -> None:
    output.document(
        {
            "backup": of_backup(plan.backup),
            "host": plan.server.host,
            "port": plan.server.port,
            "user": plan.server.user,
            "database": result.database,
            "previous": result.previous,
            "tables": result.tables,
            "rows": result.rows,
            "seconds": result.seconds,
        }
    )
    output.say(
        f"restored {result.tables} tables and {result.rows:,} rows into {result.database} "
        f"in {words.seconds(result.seconds)}"
    )
    if result.previous:
        output.say(f"the database that was there before is kept as {result.previous}")
