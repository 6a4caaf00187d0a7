"""The jobs: what is launched as one run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.defs.assets import key_prefix
from backup_pipeline.settings import Settings

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

JOB = "database_backup_pipeline"
DATABASE_TAG = "backup_pipeline/database"
"""The run tag by which `dagster.yaml` keeps runs of one database from running side by side."""

# Three steps, one after the other, gain nothing from a process each; the launchpad can still
# choose `multiprocess` instead.
_IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}


def backup_job(
    settings: Settings, assets: Sequence[dg.AssetsDefinition]
) -> "UnresolvedAssetJobDefinition":
    """`database_backup_pipeline`: dump, verify and prune; each outcome is told by its asset."""
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(*assets),
        config=_IN_PROCESS,
        run_tags={DATABASE_TAG: key_prefix(settings.database)},
        description="Back the database up, prove that the backup is whole, delete what has "
        "expired, and tell what came of it.",
    )
