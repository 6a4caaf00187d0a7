"""`sync`: bring one live database to another server, without the bucket."""

import os
import sys
from dataclasses import replace as with_
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import options, words
from backup_pipeline.cli.output import Output, command
from backup_pipeline.errors import InvalidInput, NotConfirmed, TargetExists

if TYPE_CHECKING:
    from backup_pipeline.engine.postgres import Server


@click.command(short_help="Copy a live database straight to another server.")
@click.option(
    "--from", "origin", metavar="DSN", help="The database to copy; without it the configured one."
)
@click.option("--to", "destination", metavar="DSN", required=True, help="The server to copy it to.")
@click.option("--into", metavar="DB", help="The name of the copy; without it that of the database.")
@click.option(
    "--replace",
    is_flag=True,
    help="Swap the copy in for a database of that name, which is kept under another one.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="With --replace: once it is loaded, wait so long for sessions to end.",
)
@click.option(
    "--disconnect", is_flag=True, help="With --replace: end the sessions that are left then."
)
@click.option("--no-confirm", is_flag=True, help="Don't ask.")
@options.jobs
@command
def sync(
    output: Output,
    origin: str | None,
    destination: str,
    into: str | None,
    replace: bool,
    wait: float,
    disconnect: bool,
    no_confirm: bool,
    jobs: int | None,
) -> None:
    """Copy a live database straight to another server, compared and switched in as a whole.

    A DSN is libpq's, `service=...` for instance, or `env:NAME` for one in a variable; a password
    belongs into a password file, because every user of a machine sees the arguments of commands.
    """
    from backup_pipeline.engine.choice import database_name
    from backup_pipeline.engine.restore import database_exists
    from backup_pipeline.engine.sync import sync as sync_database
    from backup_pipeline.settings import load_settings

    if (disconnect or wait) and not replace:
        raise click.UsageError("--wait and --disconnect go with --replace.")
    settings = load_settings(jobs=jobs)
    source = settings.source()
    if origin is not None:
        source = with_(source, server=_server("--from", origin, settings.postgres_timeout))
    target = database_name(into or source.server.database)
    server = _server("--to", destination, settings.postgres_timeout)
    exists = database_exists(server, target)
    _describe(output, source.server, server, target, exists=exists)
    if exists and not replace:
        raise TargetExists(f"there is a database {target!r} already")
    if not no_confirm:
        _confirm(target, exists=exists)
    with output.progress() as report:
        result = sync_database(
            source,
            server,
            target,
            settings.clients_dirs(),
            replace=replace,
            disconnect=disconnect,
            wait=wait,
            clock=lambda: datetime.now(UTC),
            report=report,
        )
    output.document(
        {
            "database": result.database,
            "previous": result.previous,
            "tables": result.tables,
            "rows": result.rows,
            "seconds": result.seconds,
        }
    )
    output.say(
        f"copied {result.tables} tables and {result.rows:,} rows into {result.database} "
        f"in {words.seconds(result.seconds)}"
    )
    if result.previous:
        output.say(f"the database that was there before is kept as {result.previous}")


def _server(option: str, text: str, patience: float) -> "Server":
    from backup_pipeline.engine.postgres import Server

    if text.startswith("env:"):
        found = os.environ.get(text.removeprefix("env:"))
        if found is None:
            raise InvalidInput(f"{option} names the variable {text[4:]}, which is not set")
        return with_(Server.of(found), patience=patience)
    server = Server.of(text)
    if server.gives_password:
        raise InvalidInput(
            f"{option} holds a password, which every user of this machine could read",
            hint="Put it into a password file (PGPASSFILE) or a service file, or the whole string "
            "into a variable: --to env:LAPTOP_DSN.",
        )
    return with_(server, patience=patience)


def _describe(
    output: Output, origin: "Server", server: "Server", target: str, *, exists: bool
) -> None:
    fate = "is replaced, and kept under another name" if exists else "will be created"
    output.say(
        f"from      {origin.describe()}",
        f"to        {server.using(target).describe()}",
        f"database  {target} ({fate})",
    )


def _confirm(target: str, *, exists: bool) -> None:
    if not sys.stdin.isatty():
        raise NotConfirmed("nobody is here to confirm the sync: the input is no terminal")
    if not click.confirm(f"{'Replace' if exists else 'Create'} the database {target!r}?", err=True):
        raise NotConfirmed("the sync was not confirmed")
