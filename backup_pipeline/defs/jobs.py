"""The jobs: what is launched as one run."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.defs.database import Database

if TYPE_CHECKING:
    # What `define_asset_job` returns; Dagster does not export it.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

JOB = "database_backup_pipeline"

# Three steps, one after the other, gain nothing from a process each; the launchpad can still
# choose `multiprocess` instead.
_IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}


def backup_job(database: Database) -> "UnresolvedAssetJobDefinition":
    """`database_backup_pipeline`: dump, verify and prune; each outcome is told by its asset."""
    return dg.define_asset_job(
        database.own(JOB),
        selection=[database.dump, database.verified, database.pruned],
        config=_IN_PROCESS,
        description="Back the database up, prove that the backup is whole, delete what has "
        "expired, and tell what came of it.",
    )
