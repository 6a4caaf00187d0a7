"""`restore`: choose a backup, show what will happen, ask, and do it."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import options, words
from backup_pipeline.cli.documents import of_backup
from backup_pipeline.cli.output import Output, command
from backup_pipeline.cli.show import show_catalog
from backup_pipeline.errors import NotConfirmed, TargetExists

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from backup_pipeline.engine.age import Identity
    from backup_pipeline.engine.model import Backup
    from backup_pipeline.engine.postgres import Server
    from backup_pipeline.engine.restore import RestoreResult
    from backup_pipeline.engine.selection import Selection
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
    replace: bool = False
    add: bool = False


@click.command(short_help="Bring a backup back, beside the live database or in its place.")
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
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="With --replace: once it is loaded, wait so long for the live one's sessions to end.",
)
@click.option(
    "--disconnect", is_flag=True, help="With --replace: end the sessions that are left then."
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME",
    help="Only this table: its name, or SCHEMA.NAME with * and ? in it.",
)
@click.option("--schema", "schemas", multiple=True, metavar="NAME", help="Only this schema.")
@click.option("--schema-only", is_flag=True, help="Only definitions, no rows.")
@click.option("--data-only", is_flag=True, help="Only rows, into tables that are there.")
@click.option("--add", is_flag=True, help="Load a part into the existing database --into.")
@click.option("--no-confirm", is_flag=True, help="Don't ask.")
@click.option("--database", help="Choose among the backups of this database.")
@click.option("--since", metavar="TIME", help="With --list: only those taken at TIME or later.")
@click.option("--until", metavar="TIME", help="With --list: only those taken by TIME.")
@options.jobs
@options.identity
@click.option(
    "--limit-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Read so many MB a second from the store at most; BACKUP_LIMIT_RATE does not count here.",
)
@command
def restore(
    output: Output,
    list_only: bool,
    latest: bool,
    at: str | None,
    name: str | None,
    into: str | None,
    replace: bool,
    wait: float,
    disconnect: bool,
    tables: tuple[str, ...],
    schemas: tuple[str, ...],
    schema_only: bool,
    data_only: bool,
    add: bool,
    no_confirm: bool,
    database: str | None,
    since: str | None,
    until: str | None,
    jobs: int | None,
    identity_file: str | None,
    limit_rate: float | None,
) -> None:
    """Restore a backup into a new database, or in place of the live one.

    Without --into and --replace the new database is named like the backup.
    --table and --schema take exact names, as pg_restore does, and --table SCHEMA.NAME as pg_dump
    does, with * and ?; no other table's rows are read.
    """
    if [list_only, latest, at is not None, name is not None].count(True) != 1:
        raise click.UsageError("Give one of --list, --latest, --at and --backup.")
    if (disconnect or wait) and not replace:
        raise click.UsageError("--wait and --disconnect go with --replace.")
    if not (since is until is None or list_only):
        raise click.UsageError("--since and --until go with --list.")
    partly = bool(tables or schemas or schema_only or data_only)
    _require_sense(
        partly=partly, both=schema_only and data_only, data_only=data_only, add=add, into=into
    )
    if partly and replace:
        raise click.UsageError("A part of a backup can't --replace a whole database.")
    if list_only:
        show_catalog(output, database, since, until)
        return
    from backup_pipeline.settings import load_settings

    # Who restores is in haste; what is left to others at night is not left to them now.
    settings = load_settings(database=database, jobs=jobs, identity_file=identity_file).model_copy(
        update={"limit_rate": limit_rate}
    )
    identities = settings.identities()
    choice = Choice(latest, at, name)
    plan = _plan(output, settings, choice, into, replace=replace, add=add)
    _describe(output, plan, settings.zone)
    if plan.exists and not (replace or add):
        raise TargetExists(f"there is a database {plan.target!r} already")
    if not no_confirm:
        _confirm(plan)
    if partly:
        from backup_pipeline.engine.selection import Selection

        wanted = Selection(tables, schemas, definitions=not data_only, rows=not schema_only)
        _restore_part(output, settings, plan, wanted, identities, add=add)
        return
    result = _restore(
        output, settings, plan, identities, replace=replace, disconnect=disconnect, wait=wait
    )
    _report(output, plan, result)


def _plan(
    output: Output,
    settings: "Settings",
    choice: Choice,
    into: str | None,
    *,
    replace: bool,
    add: bool,
) -> Plan:
    from backup_pipeline.engine.choice import database_name, new_database
    from backup_pipeline.engine.restore import database_exists

    backup = choose(output, settings, choice)
    if into is not None:
        target = database_name(into)
    else:
        target = backup.name.database if replace else new_database(backup.name)
    server = settings.server()
    exists = database_exists(server, target)
    return Plan(backup, server, target, exists=exists, replace=replace, add=add)


def choose(output: Output, settings: "Settings", choice: Choice) -> "Backup":
    """The backup that was asked for; raises `NotFound`."""
    from backup_pipeline.engine.choice import backup_at, named_backup, newest_backup, parse_moment
    from backup_pipeline.engine.names import BackupName

    store, keys, now = settings.store(), settings.keys(), datetime.now(UTC)
    if choice.name is not None:
        return named_backup(store, keys, BackupName.parse(choice.name))
    if choice.at is not None:
        moment = parse_moment(choice.at, settings.zone)
        return backup_at(store, keys, settings.database, moment, now, output.warn)
    return newest_backup(store, keys, settings.database, now, output.warn)


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
        f"{backup.tables} tables, {backup.rows:,} rows{', encrypted' if backup.encrypted else ''}",
        "evidence": "; ".join((evidence, *backup.findings)),
        "server": f"host {server.host}, port {server.port}, user {server.user}",
        "database": f"{plan.target} ({_fate(plan)})",
    }
    output.say(*(f"{label:<9} {value}" for label, value in lines.items()))


def _fate(plan: Plan) -> str:
    if not plan.exists:
        return "will be created"
    if plan.add:
        return "exists, and is added to in one transaction"
    if not plan.replace:
        return "exists"
    return f"is replaced; the present one is kept as {plan.target}_before_<date and time>"


def _confirm(plan: Plan) -> None:
    if not sys.stdin.isatty():
        raise NotConfirmed("nobody is here to confirm the restore: the input is no terminal")
    verb = "Add to" if plan.add else "Replace" if plan.exists else "Create"
    question = f"{verb} the database {plan.target!r}?"
    if not click.confirm(question, err=True):
        raise NotConfirmed("the restore was not confirmed")


def _restore(
    output: Output,
    settings: "Settings",
    plan: Plan,
    identities: "Sequence[Identity]",
    *,
    replace: bool,
    disconnect: bool,
    wait: float,
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
            wait=wait,
            bin_dirs=settings.clients_dirs(),
            jobs=settings.jobs,
            identities=identities,
            clock=lambda: datetime.now(UTC),
            report=report,
        )


def _require_sense(
    *, partly: bool, both: bool, data_only: bool, add: bool, into: str | None
) -> None:
    """Raise `click.UsageError` for options that contradict each other."""
    if both:
        raise click.UsageError("--schema-only and --data-only leave nothing.")
    if add and not (partly and into):
        raise click.UsageError("--add goes with --into and with a part: --table, --schema, ...")
    if data_only and not add:
        raise click.UsageError("--data-only goes with --add: a new database has no tables.")


def _restore_part(
    output: Output,
    settings: "Settings",
    plan: Plan,
    wanted: "Selection",
    identities: "Sequence[Identity]",
    *,
    add: bool,
) -> None:
    from backup_pipeline.engine.selection import restore_selection

    with output.progress() as report:
        result = restore_selection(
            settings.store(),
            settings.keys(),
            plan.backup.name,
            plan.server,
            plan.target,
            wanted,
            settings.clients_dirs(),
            add=add,
            jobs=settings.jobs,
            identities=identities,
            clock=lambda: datetime.now(UTC),
            report=report,
        )
    output.document(
        {
            "backup": of_backup(plan.backup),
            "database": result.database,
            "tables": result.tables,
            "rows": result.rows,
            "read_bytes": result.read_bytes,
            "seconds": result.seconds,
        }
    )
    output.say(
        f"restored the rows of {result.tables} tables, {result.rows:,} of them, into "
        f"{result.database} in {words.seconds(result.seconds)}; "
        f"{words.size(result.read_bytes)} of {words.size(plan.backup.size)} were read"
    )


def _report(output: Output, plan: Plan, result: "RestoreResult") -> None:
    from backup_pipeline.engine.access import told

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
            "missing": [
                {"role": each.role, "right": each.right, "objects": list(each.objects)}
                for each in result.missing
            ],
        }
    )
    output.say(
        f"restored {result.tables} tables and {result.rows:,} rows into {result.database} "
        f"in {words.seconds(result.seconds)}"
    )
    if result.previous:
        output.say(f"the database that was there before is kept as {result.previous}")
    if said := told(result.missing):
        output.warn(
            f"everything belongs to {plan.server.user}, without rights for others: {said}",
            f"`backup-pipeline show {plan.backup.name}` lists them; REASSIGN OWNED, GRANT "
            "and ALTER DATABASE bring them back.",
        )
