"""What Dagster finds when it loads the project, by each of the ways in which it is started."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest
import yaml

from backup_pipeline.definitions import defs
from backup_pipeline.defs.jobs import DATABASE_TAG

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
shown = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
print(json.dumps({"took": took, "shown": shown, "heavy": sorted(heavy)}))
"""


def run(
    arguments: Sequence[str], home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A fresh Python in the project's root, with nothing in its environment but this."""
    env = {"PATH": os.environ["PATH"], "DAGSTER_HOME": str(home), "HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_the_names_that_operators_know() -> None:
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    } == {
        "ahold_options/database_dump": set(),
        "ahold_options/verified_backup": {"ahold_options/database_dump"},
        "ahold_options/pruned_bucket": {"ahold_options/verified_backup"},
    }
    repository = defs.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} - {"__ASSET_JOB"} == {
        "database_backup_pipeline"
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {"daily_backup"}
    assert set(defs.resources or {}) == {"postgres", "bucket", "notifier"}


def test_the_project_loads_without_a_connection_a_secret_or_a_slow_import(tmp_path: Path) -> None:
    loaded = run(["-c", LOAD], tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    result = json.loads(loaded.stdout)
    assert result["heavy"] == []
    assert result["took"] < 1  # seconds of this process beyond `import dagster`


def test_nothing_that_dagster_shows_of_the_project_holds_a_secret(tmp_path: Path) -> None:
    loaded = run(["-c", LOAD], tmp_path, **SECRETS)
    assert loaded.returncode == 0, loaded.stderr
    assert "ahold_options" in loaded.stdout
    assert "canary" not in loaded.stdout + loaded.stderr


@pytest.mark.parametrize("how", [[], ["-w", "workspace.yaml"]], ids=["pyproject", "workspace"])
def test_both_ways_of_starting_dagster_find_the_project(tmp_path: Path, how: list[str]) -> None:
    validated = run(["-m", "dagster", "definitions", "validate", *how], tmp_path)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    assert "backup_pipeline" in validated.stdout + validated.stderr


def test_a_setting_that_can_not_be_used_is_named_when_the_project_loads(tmp_path: Path) -> None:
    refused = run(["-m", "dagster", "definitions", "validate"], tmp_path, BACKUP_RETENTION_DAYS="x")
    assert refused.returncode != 0
    assert "BACKUP_RETENTION_DAYS can't be used" in refused.stdout + refused.stderr


def test_the_instance_file_is_one_that_dagster_accepts(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert not instance.run_retries_enabled
        assert instance.storage_directory().startswith(str(tmp_path))


def test_the_limit_of_one_run_per_database_goes_by_the_tag_of_the_job() -> None:
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    (limit,) = config["concurrency"]["runs"]["tag_concurrency_limits"]
    assert limit == {"key": DATABASE_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    job = defs.resolve_job_def("database_backup_pipeline")
    assert job.run_tags[DATABASE_TAG] == "ahold_options"
