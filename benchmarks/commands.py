"""The commands that are compared."""

import sys
from collections.abc import Mapping
from pathlib import Path

OURS = Path(sys.executable).with_name("backup-pipeline")
DUMP_ALONE = (OURS, "backup", "--no-verify")
RIVALS = (sys.executable, "-m", "benchmarks.rivals")
RESTORED = "restored"

RESTORE = (OURS, "restore", "--latest", "--into", RESTORED, "--no-confirm")
VERIFY = (OURS, "verify", "--latest")
BARE = ("sh", "-c", "pg_dump > /dev/null")

NO_DIGESTS = {"BACKUP_DIGESTS": "false"}


def with_jobs(number: int) -> Mapping[str, str]:
    """What has our commands work with so many jobs."""
    return {"BACKUP_JOBS": str(number)}


def ours(jobs: int | None = None) -> str:
    """What such a contender is called; without a number, the jobs are the default."""
    return "ours" if jobs is None else f"ours, {jobs} job{'s' if jobs > 1 else ''}"
