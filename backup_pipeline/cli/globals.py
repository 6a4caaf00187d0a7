"""`globals`: the roles and other globals that a backup has, as SQL for psql."""

import os
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import options
from backup_pipeline.cli.documents import of_backup
from backup_pipeline.cli.output import Output, command
from backup_pipeline.cli.restore import Choice, choose
from backup_pipeline.errors import InvalidInput

if TYPE_CHECKING:
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.settings import Settings


@click.command("globals", short_help="Write the roles that a backup has as SQL, for psql.")
@click.option("--latest", is_flag=True, help="Those of the newest backup.")
@click.option("--at", metavar="TIME", help="Those of the newest backup taken at or before TIME.")
@click.option("--backup", "name", metavar="NAME", help="Those of the backup NAME.")
@click.option(
    "--output",
    "path",
    type=click.Path(),
    metavar="FILE",
    help="A new file that nobody else may read, instead of the standard output.",
)
@click.option("--database", help="Choose among the backups of this database.")
@options.identity
@command
def write_globals(
    output: Output,
    latest: bool,
    at: str | None,
    name: str | None,
    path: str | None,
    database: str | None,
    identity_file: str | None,
) -> None:
    """Write the roles and other globals of a backup as SQL, for `psql -d postgres`.

    Nothing is written before all of it was read and compared with what was stored.
    """
    from backup_pipeline.settings import load_settings

    if [latest, at is not None, name is not None].count(True) != 1:
        raise click.UsageError("Give one of --latest, --at and --backup.")
    if output.as_json and path is None:
        raise click.UsageError("--json goes with --output: without it, the output is SQL.")
    settings = load_settings(database=database, identity_file=identity_file)
    backup = choose(output, settings, Choice(latest, at, name))
    sql = _sql(settings, backup.name)
    if path is None:
        click.echo(sql, nl=False)
        return
    _write(path, sql)
    output.document({**of_backup(backup), "output": path})
    output.say(f"the globals of {backup.name} are in {path}")


def _sql(settings: "Settings", name: "BackupName") -> bytes:
    from backup_pipeline.engine.catalog import read_manifest
    from backup_pipeline.engine.stored import StoredBackup

    store, keys = settings.store(), settings.keys()
    manifest = read_manifest(store, keys, name)
    return StoredBackup(store, keys, manifest, settings.identities()).globals()


def _write(path: str, sql: bytes) -> None:
    try:
        # Passwords may be in it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(sql)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror}") from error
