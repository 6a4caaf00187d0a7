"""`keep` and `unkeep`: pin a backup, so that no prune deletes it, and let go of it again."""

from datetime import UTC, datetime

import click

from backup_pipeline.cli.output import Output, command


@click.command()
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="Why, in one line; `prune` shows it.")
@command
def keep(output: Output, name: str, reason: str) -> None:
    """Pin the backup NAME: no prune deletes it."""
    from backup_pipeline.cli.documents import of_pin
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.engine.pins import pin
    from backup_pipeline.settings import load_settings

    parsed = BackupName.parse(name)
    settings = load_settings()
    made = pin(settings.store(), settings.keys(), parsed, reason, clock=lambda: datetime.now(UTC))
    output.document(of_pin(made))
    output.say(f"{name} is kept until `backup-pipeline unkeep {name}`")


@click.command()
@click.argument("name")
@command
def unkeep(output: Output, name: str) -> None:
    """Leave the pinned backup NAME to retention again."""
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.engine.pins import unpin
    from backup_pipeline.settings import load_settings

    parsed = BackupName.parse(name)
    settings = load_settings()
    unpin(settings.store(), settings.keys(), parsed)
    output.document({"name": name, "pin": None})
    output.say(f"{name} is not pinned any more; `backup-pipeline prune` decides")
