"""`backup-pipeline demo` and `dev`: the whole software on servers of its own."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.errors import BackupPipelineError, VerificationFailed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from backup_pipeline.engine.model import Backup
    from backup_pipeline.settings import Settings

JOB = "database_backup_pipeline"
DEFINITIONS = "backup_pipeline.definitions"


def run_demo(directory: Path, *, megabytes: int = 80) -> None:
    """Load a database, back it up through Dagster, list, restore, compare; then stop everything.

    Raises `VerificationFailed` where the restored database is not equal, and whatever a step
    raises.
    """
    console = _console()
    with _services(console, directory, megabytes):
        from backup_pipeline.settings import load_settings

        settings = load_settings()
        _run_job(console, directory)
        newest = _show_backups(console, settings)
        restored = _restore(console, settings, newest)
        _compare(console, settings, restored)
    _say_what_next(console, directory)


def run_dev(directory: Path, *, megabytes: int = 80, port: int = 3000) -> None:
    """Keep the same services running, with the Dagster UI on 127.0.0.1, until interrupted."""
    console = _console()
    with _services(console, directory, megabytes):
        console.print(
            f"\n  Dagster  [bold]http://127.0.0.1:{port}[/bold]"
            f"\n  a shell  [bold]. {directory}/env[/bold]   and then, for instance, "
            "[bold]backup-pipeline list[/bold]"
            f"\n  its log  [bold]{directory}/dagster.log[/bold]"
            "\n  the end  [bold]Ctrl-C[/bold]\n"
        )
        _dagster(directory, "dev", "-m", DEFINITIONS, "-h", "127.0.0.1", "-p", f"{port}")


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def _services(console: "Console", directory: Path, megabytes: int) -> Iterator[None]:
    """Both servers, an environment that points at them alone, and the sample database."""
    from backup_pipeline.embedded.sample import load_sample
    from backup_pipeline.embedded.services import Services

    with Services(directory) as services:
        with _step(console, "Starting PostgreSQL and an S3 server on 127.0.0.1"):
            services.start()
        services.lead(os.environ)
        with _step(console, f"Loading the sample database, {megabytes} MB of SQL"):
            load_sample(services.dsn, megabytes=megabytes)
        yield


@contextmanager
def _step(console: "Console", what: str) -> Iterator[None]:
    """Say what is being done, and how long it took; on no terminal only the latter."""
    entered = time.monotonic()
    with console.status(f"{what} ..."):
        yield
    console.print(f"[green]✓[/green] {what} [dim]{time.monotonic() - entered:.1f} s[/dim]")


def _run_job(console: "Console", directory: Path) -> None:
    with _step(console, f"Running the Dagster job [bold]{JOB}[/bold]"):
        _dagster(directory, "job", "execute", "-m", DEFINITIONS, "-j", JOB)


def _dagster(directory: Path, *arguments: str) -> None:
    """Run the `dagster` command on an instance of its own to its end; what it says goes to a log.

    It runs on a leash, so it ends with us, however we end.
    """
    from backup_pipeline.embedded.leash import Command, Leashed

    home = (directory / "dagster").absolute()
    home.mkdir(exist_ok=True)
    instance = files("backup_pipeline") / "dagster.yaml"
    (home / "dagster.yaml").write_bytes(instance.read_bytes())
    command = Command(
        arguments=[sys.executable, "-m", "dagster", *arguments],
        environment={**os.environ, "DAGSTER_HOME": str(home)},
        directory=Path.cwd(),
        grace=10,
    )
    log = directory / "dagster.log"
    process = Leashed(command, log)
    try:
        code = process.wait()
    finally:
        process.stop()
    if code:
        raise BackupPipelineError(f"dagster ended with code {code}", hint=f"Its log is {log}.")


def _show_backups(console: "Console", settings: "Settings") -> "Backup":
    from rich.table import Table

    from backup_pipeline.cli import words
    from backup_pipeline.engine.catalog import newest, read_catalog

    catalog = read_catalog(settings.store(), settings.keys(), settings.database)
    latest = newest(catalog.backups, datetime.now(UTC))
    assert latest is not None
    table = Table("backup", "size", "SQL", "rows", "made in", "state", box=None, pad_edge=False)
    for backup in catalog.backups:
        table.add_row(
            str(backup.name),
            words.size(backup.size),
            words.size(backup.raw_length),
            f"{backup.rows:,}",
            words.seconds(backup.duration),
            f"[green]{backup.state}[/green]",
        )
    _align(table, {1, 2, 3, 4})
    console.print(f"\nThe bucket [bold]{settings.bucket}[/bold] now holds\n")
    console.print(table, "")
    return latest


def _align(table: "Table", numbers: set[int]) -> None:
    for index, column in enumerate(table.columns):
        column.no_wrap = True
        column.justify = "right" if index in numbers else "left"


def _restore(console: "Console", settings: "Settings", backup: "Backup") -> str:
    from backup_pipeline.engine.choice import new_database
    from backup_pipeline.engine.restore import restore

    target = new_database(backup.name)
    with _step(console, f"Restoring it into the new database [bold]{target}[/bold]"):
        restore(
            settings.store(),
            settings.keys(),
            backup.name,
            settings.server(),
            target,
            bin_dirs=settings.clients_dirs(),
            jobs=settings.jobs,
            clock=lambda: datetime.now(UTC),
        )
    return target


def _compare(console: "Console", settings: "Settings", restored: str) -> None:
    """Show both databases table by table, and drop the copy."""
    from rich.table import Table

    from backup_pipeline.engine.contents import differences, read_contents

    server = settings.server()
    with _step(console, "Reading both databases again, to compare every row"):
        contents = []
        for each in (server, server.using(restored)):
            with replace(settings.source(), server=each).open_dump() as dump:
                contents.append(read_contents(dump))
    source, copy = contents
    table = Table("table", "rows", "restored", "", box=None, pad_edge=False)
    _align(table, {1, 2})
    tables = [{f"{t.schema}.{t.table}": t for t in contents.tables} for contents in (source, copy)]
    for name in sorted({*tables[0], *tables[1]}):
        here, there = (each.get(name) for each in tables)
        verdict = "[green]equal[/green]" if here == there else "[red]different[/red]"
        table.add_row(name, *(f"{t.rows:,}" if t else "missing" for t in (here, there)), verdict)
    console.print("", table, "")
    if different := list(differences(source, copy)):
        raise VerificationFailed(f"the restored database differs: {'; '.join(different)}")
    with server.using("postgres").connect() as admin:
        admin.execute(f'DROP DATABASE "{restored}" WITH (FORCE)')
    objects = source.large_objects.count if source.large_objects else 0
    console.print(
        f"[green]✓[/green] Both databases are equal: {len(source.tables)} tables, "
        f"{len(source.sequences)} sequences, {objects} large objects\n"
    )


def _say_what_next(console: "Console", directory: Path) -> None:
    console.print(
        "What next?\n\n"
        "  [bold]make dev[/bold]                            "
        "the same servers with the Dagster UI\n"
        f"  [bold]. {directory}/env[/bold]              meanwhile, in another shell:\n"
        "  [bold].venv/bin/backup-pipeline list[/bold]      and whatever README.md lists\n"
    )
