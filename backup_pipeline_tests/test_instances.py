"""The two instance files: SQLite for a start, PostgreSQL and the bucket in production."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity
from dagster._core.test_utils import create_run_for_test

from backup_pipeline.embedded.leash import Command, Leashed
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.store import ObjectStore

ROOT = Path(__file__).parent.parent
JOB = "database_backup_pipeline"
WHICH = ("-m", "backup_pipeline.definitions", "-j", JOB)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A DAGSTER_HOME with the instance file of a production deployment."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy" / "dagster.yaml").read_text())
    return tmp_path


@pytest.fixture
def production(
    home: Path,
    postgres: EmbeddedPostgres,
    database: str,
    sample_database: str,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dg.DagsterInstance]:
    """The instance, on an empty database and in the bucket of the backups."""
    server = postgres.environment(database)
    found = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": server["PGHOST"],
        "DAGSTER_PG_PORT": server["PGPORT"],
        "DAGSTER_PG_USERNAME": server["PGUSER"],
        "DAGSTER_PG_PASSWORD": server["PGPASSWORD"],
        "DAGSTER_PG_DB": database,
        "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
        **postgres.environment(sample_database),
        **s3_environment,
    }
    for variable, value in found.items():
        monkeypatch.setenv(variable, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


def require_what_both_promise(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == 24 * 60 * 60
    assert not instance.run_retries_enabled
    assert instance.freshness_enabled
    pools = instance.get_concurrency_config().pool_config
    assert pools.pool_granularity is PoolGranularity.RUN
    assert pools.default_pool_limit == 1


def test_the_file_in_the_root_keeps_everything_in_its_own_directory(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        require_what_both_promise(instance)
        assert instance.storage_directory().startswith(str(tmp_path))


def test_the_production_file_also_loads_where_the_bucket_is_at_aws(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nobody sets an endpoint."""
    monkeypatch.setenv("BACKUP_BUCKET", "options-data")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    written = yaml.safe_load((home / "dagster.yaml").read_text())
    only = {"compute_logs": written["compute_logs"]}
    (home / "dagster.yaml").write_text(yaml.safe_dump(only))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        client = instance.compute_log_manager._s3_session  # type: ignore[attr-defined]
        assert client.meta.endpoint_url.endswith("amazonaws.com")


def test_a_run_whose_machine_died_is_failed_by_the_daemon_in_time(tmp_path: Path) -> None:
    """Nobody is left who could ask for its worker, and its pool would stay taken for ever."""
    limits = "max_runtime_seconds: 86400"
    text = (ROOT / "dagster.yaml").read_text()
    assert limits in text
    impatient = text.replace(limits, "max_runtime_seconds: 1\n  poll_interval_seconds: 1")
    (tmp_path / "dagster.yaml").write_text(impatient)
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    daemon = Command(
        arguments=[f"{Path(sys.executable).parent / 'dagster-daemon'}", "run"],
        environment={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        directory=tmp_path,
        grace=10,
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        dead = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING)
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, dead.job_name), dead.run_id
        )
        process = Leashed(daemon, tmp_path / "daemon.log")
        try:
            deadline = time.monotonic() + 60
            while not (run := instance.get_run_by_id(dead.run_id)) or not run.is_finished:
                assert time.monotonic() < deadline, (tmp_path / "daemon.log").read_text()[-3000:]
                time.sleep(0.3)
        finally:
            process.stop()
    assert run.status is dg.DagsterRunStatus.FAILURE


def test_production_keeps_runs_in_postgresql_and_logs_in_the_bucket(
    production: dg.DagsterInstance, home: Path, store: ObjectStore, sample_database: str
) -> None:
    require_what_both_promise(production)
    assert "Postgres" in type(production.run_storage).__name__

    ran = subprocess.run(
        [sys.executable, "-m", "dagster", "job", "execute", *WHICH],
        cwd=home,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    (run,) = production.get_runs()
    assert (run.job_name, run.status) == (JOB, dg.DagsterRunStatus.SUCCESS)
    logs = [info.key for info in store.list("dagster/compute-logs/")]
    assert any(run.run_id in key for key in logs)
    catalog = read_catalog(store, Keys("backups/postgres/"))
    assert [backup.name.database for backup in catalog.backups] == [sample_database]
    assert catalog.strays == ()
    assert list(home.glob("history*")) == []
