"""Options that several commands have."""

import click

jobs = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="So many things side by side, instead of BACKUP_JOBS.",
)
