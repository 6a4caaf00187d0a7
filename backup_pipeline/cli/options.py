"""Options that several commands have."""

import click

jobs = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="So many things side by side, instead of BACKUP_JOBS.",
)

identity = click.option(
    "--identity",
    "identity_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The private key of encrypted backups, instead of BACKUP_IDENTITY_FILE.",
)

limit_rate = click.option(
    "--limit-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Move so many MB a second to or from the store at most, instead of BACKUP_LIMIT_RATE.",
)
