"""The dump into the bucket alone: what `backup-pipeline backup` does before it verifies and prunes.

`python -m benchmarks.dump_alone`, with the variables of the command line.
"""

from datetime import UTC, datetime

from backup_pipeline.engine.backup import back_up
from backup_pipeline.settings import load_settings


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Make one backup."""
    settings = load_settings()
    back_up(
        settings.source(),
        settings.store(),
        settings.keys(),
        settings.name(_now()),
        compression_level=settings.compression_level,
        clock=_now,
    )


main()
