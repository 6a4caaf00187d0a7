"""`metrics`: what the bucket holds, for Prometheus."""

from datetime import UTC, datetime
from pathlib import Path

import click

from backup_pipeline.cli.output import Output, command
from backup_pipeline.errors import BackupPipelineError


@click.command()
@click.option(
    "--output",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write them into FILE, whole or not at all, for node_exporter's textfile collector.",
)
@command
def metrics(output: Output, path: Path | None) -> None:
    """Print what the bucket holds as metrics for Prometheus."""
    from prometheus_client import generate_latest, write_to_textfile

    from backup_pipeline.engine.catalog import read_catalog
    from backup_pipeline.engine.metrics import metrics_of
    from backup_pipeline.settings import load_settings

    settings = load_settings()
    catalog = read_catalog(settings.store(), settings.keys())
    registry = metrics_of(catalog, [settings.database], datetime.now(UTC))
    if path:
        try:
            write_to_textfile(str(path), registry)
        except OSError as error:
            raise BackupPipelineError(
                f"{path} can't be written: {error.strerror}",
                hint="Its directory must exist, and let this user make files.",
            ) from error
    output.document(
        [
            {"name": sample.name, "labels": sample.labels, "value": sample.value}
            for metric in registry.collect()
            for sample in metric.samples
        ]
    )
    if not (path or output.as_json):
        click.echo(generate_latest(registry), nl=False)
