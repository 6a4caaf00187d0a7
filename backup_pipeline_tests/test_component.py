"""The example: two databases of somebody else's Dagster project."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import cast

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._utils.schedules import cron_string_iterator

from backup_pipeline.defs.component import DatabaseBackupComponent
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import InvalidInput
from backup_pipeline.settings import Settings, load_settings

EXAMPLE = Path(__file__).parent.parent / "examples" / "trading_data"
NOTHING = cast("dg.ComponentLoadContext", None)
"""What the component is told of where its YAML lies: it does not look."""
JOBS = ("database_backup_pipeline", "restore_database", "verify_backups", "prune_backups")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An instance that asks nobody for anything and tells nobody anything."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    return tmp_path


@pytest.fixture
def orders(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Where the database of the name that the example has is; dropped afterwards."""
    load_sample(postgres.dsn("orders"), megabytes=1)
    yield postgres.dsn("orders")
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE orders WITH (FORCE)")


def run(arguments: Sequence[str], home: Path, **environment: str) -> str:
    """A command in the example's directory; gives what it wrote to stdout."""
    venv = Path(sys.prefix)
    env = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
        "HOME": str(home),
        "DAGSTER_HOME": str(home),
        **environment,
    }
    ended = subprocess.run(
        arguments,
        cwd=EXAMPLE,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_a_few_lines_of_yaml_give_each_database_everything(home: Path) -> None:
    listed = json.loads(run(["dg", "list", "defs", "--json"], home))

    jobs = {job["name"] for job in listed["jobs"]}
    assert jobs >= {f"{job}_{database}" for job in JOBS for database in ("orders", "quotes")}
    assert {schedule["name"]: schedule["cron_schedule"] for schedule in listed["schedules"]} == {
        "daily_backup_orders": "0 23 * * *",
        "weekly_drill_orders": "0 5 * * 0",
        "weekly_drill_quotes": "0 5 * * 0",
        "daily_backup_quotes": "30 22 * * 1-5",
    }
    assets = {asset["asset_key"] for asset in listed["assets"]}
    assert {"orders/verified_backup", "quotes/verified_backup", "orders/migration"} <= assets
    sensors = {sensor["name"] for sensor in listed["sensors"]}
    assert "backup_after_assets_orders" in sensors
    assert "backup_after_assets_quotes" not in sensors


def test_every_attribute_is_a_setting_and_every_rule_of_retention_an_attribute() -> None:
    settings = set(Settings.model_fields)
    attributes = set(DatabaseBackupComponent.model_fields) - {"dsn_variable", "suffix"}
    assert attributes <= settings
    assert {name for name in settings if name.startswith("retention_")} <= attributes


def test_yaml_says_whether_backups_have_globals() -> None:
    def build(globals_: str) -> dg.Definitions:
        component = DatabaseBackupComponent(database="orders", globals=globals_)
        return component.build_defs(NOTHING)

    build("with-passwords")
    with pytest.raises(InvalidInput, match="BACKUP_GLOBALS can't be used"):
        build("some")


def test_a_project_may_have_an_executor_of_its_own() -> None:
    @dg.asset
    def mine() -> None:
        pass

    theirs = dg.Definitions(assets=[mine], executor=dg.multiprocess_executor)
    ours = DatabaseBackupComponent(database="orders").build_defs(NOTHING)
    repository = dg.Definitions.merge(theirs, ours).get_repository_def()

    jobs = {job.name: job for job in repository.get_all_jobs()}

    assert jobs["database_backup_pipeline_orders"].executor_def is dg.multi_or_in_process_executor
    assert jobs["__ASSET_JOB"].executor_def is dg.multiprocess_executor


@pytest.mark.parametrize("database", ["orders", "quotes"])
def test_no_backup_of_the_example_is_stale_before_the_next_one_is_due(database: str) -> None:
    (file,) = EXAMPLE.glob(f"**/{database}/defs.yaml")
    given = yaml.safe_load(file.read_text())["attributes"]
    component = DatabaseBackupComponent(**given)
    settings = load_settings(**component.model_dump(exclude={"dsn_variable", "suffix"}))
    monday = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
    due = cron_string_iterator(monday, settings.schedule, settings.timezone)
    gaps = [later - earlier for earlier, later in pairwise(islice(due, 15))]
    assert max(gaps) < timedelta(hours=settings.freshness_hours)


def test_dg_knows_the_component_and_checks_its_attributes(home: Path) -> None:
    components = run(["dg", "list", "components", "--json"], home)
    assert "backup_pipeline.DatabaseBackupComponent" in components
    run(["dg", "check", "defs"], home)


def test_one_of_them_is_backed_up_and_then_its_migration_may_run(
    home: Path,
    postgres: EmbeddedPostgres,
    s3_environment: dict[str, str],
    store: ObjectStore,
    orders: str,
) -> None:
    environment = {
        **s3_environment,
        "ORDERS_DSN": orders,
        "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
    }

    def dagster(*arguments: str) -> str:
        command = [sys.executable, "-m", "dagster", *arguments]
        return run([*command, "-m", "trading_data.definitions"], home, **environment)

    with pytest.raises(AssertionError, match="BackupTooOld"):
        dagster("asset", "materialize", "--select", "orders/migration")
    dagster("job", "execute", "-j", "database_backup_pipeline_orders")
    dagster("asset", "materialize", "--select", "orders/migration")

    (backup,) = read_catalog(store, Keys("backups/postgres/"), "orders").backups
    assert backup.state is State.VERIFIED
