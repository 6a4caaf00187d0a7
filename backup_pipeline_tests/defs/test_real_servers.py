"""The job on a real PostgreSQL and a real S3 server, through the project's own resources."""

import os
import signal
import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster_shared.serdes import serialize_value

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.jobs import DRILL, JOB
from backup_pipeline.defs.outcomes import outcome_of
from backup_pipeline.defs.resources import ConfiguredServices, resources
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.model import State
from backup_pipeline.engine.notify import Outcome
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.settings import load_settings
from backup_pipeline_tests.defs.project import failure_of, metadata_of
from backup_pipeline_tests.embedded.owners import children_named


@pytest.fixture
def _configured(
    sample_database: str,
    postgres: EmbeddedPostgres,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """An environment that leads to both servers, and no file of settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKUP_CONFIG", raising=False)
    found = {"BACKUP_PG_BIN_DIRS": str(postgres.bin_dir)}
    for variable, value in (found | s3_environment | postgres.environment(sample_database)).items():
        monkeypatch.setenv(variable, value)


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Load the project as Dagster would, from the environment, and run its job."""
    database = Database(load_settings())
    defs = database_definitions(database, resources(database))
    return defs.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False)


def drill(instance: dg.DagsterInstance, backup: str = "latest") -> dg.ExecuteInProcessResult:
    """Run the job that proves that a backup restores."""
    database = Database(load_settings())
    defs = database_definitions(database, resources(database))
    return defs.resolve_job_def(DRILL).execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {"ahold_options__restore_proof": {"config": {"backup": backup}}}}
        if backup != "latest"
        else None,
    )


def outcome_of_run(instance: dg.DagsterInstance, run_id: str) -> Outcome:
    """What people are told of a run."""
    ended = instance.get_run_by_id(run_id)
    assert ended is not None
    outcome = outcome_of(Database(load_settings()), instance, ended)
    assert outcome is not None
    return outcome


def everything_recorded(instance: dg.DagsterInstance, run_id: str) -> str:
    """All that Dagster keeps of a run: its config, tags and events."""
    recorded = [instance.get_run_by_id(run_id), *instance.all_logs(run_id)]
    return "\n".join(serialize_value(each) for each in recorded if each)


@pytest.mark.usefixtures("_configured")
def test_the_job_leaves_a_verified_backup_in_the_bucket(
    instance: dg.DagsterInstance, store: ObjectStore, sample_database: str
) -> None:
    result = run(instance)

    assert result.success
    (backup,) = read_catalog(store, load_settings().keys(), sample_database).backups
    assert backup.state is State.VERIFIED
    dump = metadata_of(result, "database_dump")
    assert dump["backup"] == str(backup.name)
    assert dump["rows"] == backup.rows > 1000
    assert dump["raw_size_bytes"] > 1_000_000
    assert dump["tables"] == backup.tables > 5
    assert metadata_of(result, "verified_backup")["size_bytes"] == dump["size_bytes"]


@pytest.mark.usefixtures("_configured")
def test_an_encrypted_backup_is_made_without_the_key_and_drilled_with_it(
    instance: dg.DagsterInstance,
    store: ObjectStore,
    sample_database: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    identity, key = Identity.made(), tmp_path / "backups.key"
    key.write_text(identity.secret)
    monkeypatch.setenv("BACKUP_RECIPIENTS", str(identity.recipient))
    made, refused = run(instance), drill(instance)

    assert made.success
    (backup,) = read_catalog(store, load_settings().keys(), sample_database).backups
    assert (backup.encrypted, backup.state) == (True, State.VERIFIED)
    assert metadata_of(made, "database_dump")["encrypted"] is True
    assert "not decrypted" in metadata_of(made, "verified_backup")["summary"]
    assert failure_of(refused, "restore_proof")["error"] == "NoIdentity"

    monkeypatch.setenv("BACKUP_IDENTITY_FILE", str(key))
    proved = drill(instance)
    assert proved.success
    assert metadata_of(proved, "restore_proof")["rows"] == backup.rows
    runs = [everything_recorded(instance, each.run_id) for each in (made, refused, proved)]
    assert identity.secret not in "".join(runs)


# One of Apprise's services imports a module that Python 3.13 has no more.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
@pytest.mark.usefixtures("_configured")
def test_no_secret_is_in_anything_that_dagster_keeps(
    instance: dg.DagsterInstance,
    postgres: EmbeddedPostgres,
    s3_server: S3Access,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BACKUP_NOTIFY_URLS", "json://canary-of-the-notifier@127.0.0.1:9/")
    good = run(instance)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-store")
    bad = run(instance)

    assert good.success
    assert failure_of(bad, "database_dump")["error"] == "StoreDenied"
    told = [outcome_of_run(instance, each.run_id) for each in (good, bad)]
    undelivered = [ConfiguredServices().send(outcome) for outcome in told]
    assert undelivered == [("notification service 1, JSON",)] * 2
    shown = "".join(
        [
            *(everything_recorded(instance, each.run_id) for each in (good, bad)),
            *capfd.readouterr(),
            repr(told),
        ]
    )
    for secret in (postgres.password, s3_server.secret_key, "canary-of-"):
        assert secret not in shown


@pytest.mark.usefixtures("_configured")
def test_a_run_cancelled_in_the_middle_of_pg_dump_leaves_nothing_within_seconds(
    instance: dg.DagsterInstance,
    store: ObjectStore,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    reached, real = tmp_path / "reached", postgres.bin_dir / "pg_dump"
    stalling = tmp_path / "pg_dump"
    stalling.write_text(
        "#!/bin/bash\n"
        f'case " $* " in *" --section=data "*) "{real}" "$@" | head -c 300000;'
        f' touch "{reached}"; sleep 300 ;; *) exec "{real}" "$@" ;; esac\n'
    )
    stalling.chmod(0o755)
    (tmp_path / "pg_restore").symlink_to(postgres.bin_dir / "pg_restore")
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(tmp_path))
    asked: list[float] = []

    def cancel() -> None:
        while not reached.exists():
            time.sleep(0.02)
        asked.append(time.monotonic())
        # What reaches a run's worker when its run is cancelled.
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=cancel, daemon=True).start()
    result = run(instance)

    assert time.monotonic() - asked[0] < 10
    assert not result.success
    assert [info.key for info in store.list("")] == []
    assert list(store.list_uploads("")) == []
    assert children_named("pg_dump", "sleep", "head") == []
    started = [event.step_key or "" for event in result.all_events if event.is_step_start]
    assert [key.rpartition("__")[2] for key in started] == ["database_dump"]


@pytest.mark.usefixtures("_configured")
def test_a_drill_proves_that_the_newest_backup_restores_and_how_long_it_takes(
    instance: dg.DagsterInstance,
    store: ObjectStore,
    sample_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "BACKUP_INVARIANTS",
        '[{"name": "prices", "query": "SELECT count(*) FROM quotes WHERE bid < 0", "expected": 0},'
        ' {"name": "none", "query": "SELECT count(*) FROM quotes", "expected": 0}]',
    )
    assert run(instance).success

    result = drill(instance)

    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert {name: check.passed for name, check in checks.items()} == {
        "restored_equal": True,
        "invariant_prices": True,
        "invariant_none": False,
    }
    assert "where 0 is expected" in (checks["invariant_none"].description or "")
    assert not result.success
    told = outcome_of_run(instance, result.run_id)
    assert told.title == f"Restore drill of {sample_database} FAILED"
    (backup,) = read_catalog(store, load_settings().keys(), sample_database).backups
    assert backup.state is State.FAILED

    monkeypatch.delenv("BACKUP_INVARIANTS")
    proof = metadata_of(drill(instance), "restore_proof")

    (backup,) = read_catalog(store, load_settings().keys(), sample_database).backups
    assert (backup.state, proof["backup"]) == (State.VERIFIED, str(backup.name))
    assert proof["recovery_seconds"] == pytest.approx(backup.recovery_seconds)
    assert proof["rows"] == backup.rows
    assert "is restorable" in proof["summary"]
