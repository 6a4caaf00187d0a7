"""`adopt`: make backups of the `.sql.gz` and `.sql.zst` files that other scripts have left."""

from datetime import UTC, datetime

import click

from backup_pipeline.cli import words
from backup_pipeline.cli.documents import of_manifest
from backup_pipeline.cli.output import Output, command
from backup_pipeline.errors import (
    NotFound,
    ObjectExists,
    ObjectMissing,
    Refused,
    VerificationFailed,
)


@click.command(short_help="Make backups of other scripts' dump files.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every dump without a manifest.")
@click.option("--dry-run", is_flag=True, help="Only look whether they are complete dumps.")
@click.option("--database", help="Instead of BACKUP_DATABASE.")
@command
def adopt(
    output: Output, names: tuple[str, ...], everything: bool, dry_run: bool, database: str | None
) -> None:
    """Read plain .sql.gz and .sql.zst files of other scripts whole, and give them manifests.

    From then on they are listed, verified, restored and pruned like every other backup.
    """
    from backup_pipeline.engine.adopt import adopt as adopt_dump
    from backup_pipeline.engine.adopt import adoptable
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.settings import load_settings

    if bool(names) == everything:
        raise click.UsageError("Give NAMEs, or --all.")
    asked = [BackupName.parse(name) for name in names]
    settings = load_settings(database=database)
    store, keys = settings.store(), settings.keys()
    done, failed = [], []
    with output.progress() as report:
        for name in asked or adoptable(store, keys, settings.database):
            try:
                manifest = adopt_dump(
                    store,
                    keys,
                    name,
                    settings.zone,
                    dry_run=dry_run,
                    clock=lambda: datetime.now(UTC),
                    report=report,
                )
            except VerificationFailed as error:
                failed.append(f"{name}: {error.message}")
                continue
            except (Refused, NotFound, ObjectExists, ObjectMissing) as error:
                # Somebody deletes it, or has adopted it meanwhile.
                if not everything:
                    raise
                output.warn(f"{name} is passed over: {error.message}")
                continue
            done.append(of_manifest(manifest, name))
            output.say(
                f"{name}: {'could be' if dry_run else 'is'} adopted, "
                f"{len(manifest.tables)} tables, {manifest.rows:,} rows, "
                f"{words.size(manifest.raw_length)} of SQL"
            )
    if failed:
        raise VerificationFailed(
            f"{len(failed)} of {len(failed) + len(done)} dumps are not complete: "
            + "; ".join(failed),
            hint="They are left as they are; nothing restores from half a dump.",
        )
    output.document({"adopted": done, "dry_run": dry_run})
