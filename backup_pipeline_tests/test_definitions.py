"""What Dagster finds when it loads the project, by each of the ways in which it is started."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SECRETS = {
    "BACKUP_DSN": "postgresql://backup:canary-dsn@127.0.0.1:1/ahold_options",
    "BACKUP_NOTIFY_URLS": "json://canary-notify@127.0.0.1:1/",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "PGPASSWORD": "canary-pg",
}
LOAD = """
import json, sys, time
import dagster
begun = time.process_time()
from backup_pipeline.definitions import defs
took = time.process_time() - begun
heavy = {"boto3", "botocore", "psycopg", "dagster_aws", "apprise"} & set(sys.modules)
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value
repository = defs.get_repository_def()
assets = repository.asset_graph
print(json.dumps({
    "took": took,
    "heavy": sorted(heavy),
    "assets": {
        key.to_user_string(): [up.to_user_string() for up in assets.get(key).parent_keys]
        for key in assets.get_all_asset_keys()
    },
    "jobs": [job.name for job in repository.get_all_jobs()],
    "checks": sorted(
        f"{check.asset_key.path[-1]}.{check.name}" for check in assets.asset_check_keys
    ),
    "pools": sorted(
        {pool for job in repository.get_all_jobs() for op in job.all_node_defs for pool in op.pools}
    ),
    "schedules": {each.name: each.job_name for each in repository.schedule_defs},
    "resources": sorted(defs.resources),
    "shown": serialize_value(RepositorySnap.from_def(repository)),
}))
"""


def run(
    arguments: Sequence[str], home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A fresh Python in the project's root, with nothing in its environment but this."""
    env = {"PATH": os.environ["PATH"], "DAGSTER_HOME": str(home), "HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def load(home: Path, **given: str) -> dict[str, Any]:
    loaded = run(["-c", LOAD], home, **given)
    assert loaded.returncode == 0, loaded.stderr
    assert "canary" not in loaded.stdout + loaded.stderr
    result = json.loads(loaded.stdout)
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The project, loaded with an empty environment."""
    return load(tmp_path_factory.mktemp("home"))


def test_the_names_that_operators_know(loaded: dict[str, Any]) -> None:
    assert loaded["assets"] == {
        "ahold_options/database": [],
        "ahold_options/database_dump": ["ahold_options/database"],
        "ahold_options/verified_backup": ["ahold_options/database_dump"],
        "ahold_options/restore_proof": ["ahold_options/verified_backup"],
        "ahold_options/pruned_bucket": ["ahold_options/verified_backup"],
    }
    assert set(loaded["jobs"]) - {"__ASSET_JOB"} == {
        "database_backup_pipeline",
        "prune_backups",
        "restore_database",
        "restore_drill",
        "verify_backups",
    }
    assert loaded["checks"] == [
        "database_dump.duration_usual",
        "database_dump.object_present",
        "database_dump.rows_usual",
        "database_dump.size_sane",
        "database_dump.size_usual",
        "pruned_bucket.minimum_kept",
        "pruned_bucket.no_stale_upload",
        "pruned_bucket.no_stray",
        "restore_proof.restored_equal",
        "verified_backup.backup_recent",
        "verified_backup.bytes_whole",
        "verified_backup.dump_complete",
    ]
    assert loaded["pools"] == [
        "ahold_options",
        "ahold_options_drill",
        "ahold_options_restore",
        "ahold_options_verify",
    ]
    assert loaded["schedules"] == {
        "daily_backup": "database_backup_pipeline",
        "weekly_drill": "restore_drill",
    }
    assert loaded["resources"] == ["bucket", "notifier", "postgres"]


def test_it_loads_without_a_connection_or_a_slow_import(loaded: dict[str, Any]) -> None:
    assert loaded["heavy"] == []
    assert loaded["took"] < 1  # seconds of this process beyond `import dagster`


def test_nothing_that_dagster_shows_of_it_holds_a_secret(tmp_path: Path) -> None:
    shown = load(tmp_path, **SECRETS)["shown"]
    assert "ahold_options" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("how", [[], ["-w", "workspace.yaml"]], ids=["pyproject", "workspace"])
def test_both_ways_of_starting_dagster_find_the_project(tmp_path: Path, how: list[str]) -> None:
    validated = run(["-m", "dagster", "definitions", "validate", *how], tmp_path)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    assert "backup_pipeline" in validated.stdout + validated.stderr


def test_a_setting_that_can_not_be_used_is_named_when_the_project_loads(tmp_path: Path) -> None:
    refused = run(["-c", "import backup_pipeline.definitions"], tmp_path, BACKUP_RETENTION_DAYS="x")
    assert refused.returncode != 0
    assert "BACKUP_RETENTION_DAYS can't be used" in refused.stderr
