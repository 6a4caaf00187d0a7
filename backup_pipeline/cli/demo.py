"""`demo` and `dev`: the whole software on servers of its own."""

from pathlib import Path

import click

_directory = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".backup-pipeline"),
    show_default=True,
    help="Where the servers keep their data.",
)
_megabytes = click.option(
    "--megabytes",
    type=click.IntRange(min=1),
    default=80,
    show_default=True,
    help="The sample database's size as SQL.",
)


@click.command(short_help="See it all on a sample database, with servers started for it.")
@_directory
@_megabytes
def demo(directory: Path, megabytes: int) -> None:
    """Back up and restore a sample database, with everything started for the occasion."""
    from backup_pipeline.demo import run_demo

    run_demo(directory, megabytes=megabytes)


@click.command(short_help="Keep the demo's servers running, with the Dagster UI.")
@_directory
@_megabytes
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def dev(directory: Path, megabytes: int, port: int) -> None:
    """Run the same servers with the Dagster UI, until Ctrl-C."""
    from backup_pipeline.demo import run_dev

    run_dev(directory, megabytes=megabytes, port=port)
