"""The jobs that an operator launches: restore, verify, prune."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._config.snap import snap_from_config_type

from backup_pipeline.defs.jobs import JOB, PRUNE, RESTORE, VERIFY
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import Kind
from backup_pipeline.engine.pins import pin
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.settings import Settings, load_settings
from backup_pipeline_tests.conftest import CreateDatabase
from backup_pipeline_tests.defs.project import NOON, Project, flip_a_bit
from backup_pipeline_tests.made_backups import KEYS, make_backup


def launch(
    project: Project, job: str, op: str, **config: object
) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """Run a job with this config; gives its result, and what its op told."""
    result = project.defs.resolve_job_def(job).execute_in_process(
        instance=project.instance,
        raise_on_error=False,
        run_config={"ops": {op: {"config": config}}} if config else {},
    )
    return result, told_by(result)


def told_by(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    for event in result.all_events:
        if event.is_successful_output:
            metadata = event.step_output_data.metadata
            return {name: value.value for name, value in metadata.items()}
        if event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            assert failure is not None, event.step_failure_data.error
            plain = {name: value.value for name, value in failure.metadata.items()}
            return {"description": failure.description, **plain}
    raise AssertionError("the job did nothing")


@pytest.mark.parametrize("job", [RESTORE, VERIFY, PRUNE])
def test_every_field_in_the_launchpad_has_a_default_and_a_help_text(
    project: Project, job: str
) -> None:
    (op,) = project.defs.resolve_job_def(job).all_node_defs
    assert isinstance(op, dg.OpDefinition)
    schema = op.config_schema.as_field().config_type
    fields = snap_from_config_type(schema).fields
    assert fields
    for field in fields:
        assert field.default_provided, field.name
        assert field.description
        assert field.description.endswith(".")


def test_the_jobs_of_a_database_carry_its_tag(project: Project) -> None:
    for job in (JOB, RESTORE, VERIFY, PRUNE):
        assert project.defs.resolve_job_def(job).tags == project.database.tags


# Verify


def test_every_backup_is_verified_once_more(project: Project) -> None:
    assert project.run().success
    assert project.run().success

    result, told = launch(project, VERIFY, "verified_backups")

    assert result.success
    assert (told["verified"], told["failed"]) == (2, 0)
    assert len(told["backups"].records) == 2


def test_a_damaged_backup_fails_the_job_and_is_named(project: Project) -> None:
    assert project.run().success
    assert project.run().success
    newest, older = project.backups()
    flip_a_bit(project, older.name)

    result, told = launch(project, VERIFY, "verified_backups", backup="all")

    assert not result.success
    assert str(older.name) in told["description"]
    assert (told["verified"], told["failed"], told["exit_code"]) == (1, 1, 7)
    assert [each.state for each in project.backups()] == [State.VERIFIED, State.FAILED]
    assert launch(project, VERIFY, "verified_backups", backup="latest")[0].success
    assert launch(project, VERIFY, "verified_backups", backup=str(newest.name))[0].success


def test_a_damaged_manifest_fails_the_job_and_the_rest_is_verified(project: Project) -> None:
    assert project.run().success
    assert project.run().success
    _, older = project.backups()
    project.memory.put(KEYS.of(older.name, Kind.MANIFEST), b"{}", overwrite=True)

    result, told = launch(project, VERIFY, "verified_backups")

    assert not result.success
    assert f"1 of 2 backups are not whole: {older.name}" in told["description"]
    assert (told["verified"], told["failed"]) == (1, 1)
    first, second = told["backups"].records
    assert (first.data["backup"], first.data["passed"]) == (str(older.name), False)
    assert "manifest" in first.data["findings"]
    assert second.data["passed"]


def test_what_a_prune_takes_meanwhile_is_passed_over(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.run().success
    assert project.run().success
    newest, older = project.backups()
    read = project.memory.read

    def pruned(key: str, *args: Any, **options: Any) -> Iterator[bytes]:
        if key == KEYS.of(newest.name, Kind.DUMP):
            project.memory.delete(KEYS.of(older.name, Kind.MANIFEST))
        return read(key, *args, **options)

    monkeypatch.setattr(project.memory, "read", pruned)
    result, told = launch(project, VERIFY, "verified_backups")
    assert result.success
    assert (told["verified"], told["failed"]) == (1, 0)


def test_a_backup_that_is_not_there_is_not_found(project: Project) -> None:
    result, told = launch(project, VERIFY, "verified_backups", backup="orders_2020-01-01_000000")
    assert not result.success
    assert told["exit_code"] == 4


# Prune


def test_pruning_is_a_dry_run_unless_told_otherwise(project: Project) -> None:
    for days in (20, 30, 40, 50):
        make_backup(project.memory, NOON - timedelta(days=days))

    result, told = launch(project, PRUNE, "pruned_backups")

    assert result.success
    assert told["deleted"] == 1
    (row,) = told["deleted_backups"].records
    assert row.data["fate"] == "would be deleted"
    assert len(project.backups()) == 4

    result, told = launch(project, PRUNE, "pruned_backups", dry_run=False)
    assert result.success
    assert (told["deleted"], len(project.backups())) == (1, 3)


def test_another_retention_may_be_given_for_once(project: Project) -> None:
    for days in (1, 2, 3, 4, 5):
        make_backup(project.memory, NOON - timedelta(days=days))
    _, told = launch(project, PRUNE, "pruned_backups", dry_run=False, retention_days=0)
    assert (told["kept"], told["deleted"]) == (3, 2)


def test_rules_and_pins_are_told_in_the_job_as_on_the_command_line(
    instance: dg.DagsterInstance,
) -> None:
    project = Project(instance, Settings(retention_minimum=1, retention_yearly=2))
    names = [
        make_backup(project.memory, NOON - timedelta(days=days)) for days in (1, 400, 500, 800)
    ]
    pin(project.memory, KEYS, names[3], "the last of the old system", clock=project.clock)

    _, told = launch(project, PRUNE, "pruned_backups", dry_run=False)

    assert [row.data["reason"] for row in told["kept_backups"].records] == [
        "younger than 7 days",
        "the newest verified backup of 2024 (yearly, 2 of 2)",
        "pinned: the last of the old system",
    ]
    (gone,) = told["deleted_backups"].records
    assert (gone.data["backup"], gone.data["fate"]) == (str(names[2]), "deleted")


# Restore, on real servers


@pytest.fixture
def real(
    instance: dg.DagsterInstance,
    sample_server: Server,
    postgres: EmbeddedPostgres,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Project]:
    """The project on a real PostgreSQL and a real S3 server, with one backup made."""
    monkeypatch.chdir(tmp_path)
    found = {"BACKUP_PG_BIN_DIRS": str(postgres.bin_dir)} | s3_environment
    found |= postgres.environment(sample_server.database)
    for variable, value in found.items():
        monkeypatch.setenv(variable, value)
    project = Project.on_real_servers(instance, load_settings())
    assert project.run().success
    yield project
    databases = names_like(sample_server, f"{sample_server.database}_%")
    with sample_server.using("postgres").connect() as admin:
        for name in databases:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def names_like(server: Server, pattern: str) -> list[str]:
    query = "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1"
    with server.using("postgres").connect() as admin:
        return [row[0] for row in admin.execute(query, (pattern,)).fetchall()]


def test_without_any_config_the_newest_backup_becomes_a_new_database(
    real: Project, sample_server: Server
) -> None:
    result, told = launch(real, RESTORE, "restored_database")

    assert result.success
    assert told["database"] in names_like(sample_server, f"{sample_server.database}_20%")
    assert told["previous"] == ""
    assert told["rows"] > 1000
    assert told["backup"] in told["summary"].replace("\\", "")


def test_a_restore_is_not_slowed_down_by_a_limit_for_the_night(
    real: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: set[float | None] = set()

    def delay(rate: RateLimit, size: int) -> float:
        assert size
        limits.add(rate._rate)
        return 0.0

    monkeypatch.setattr(RateLimit, "delay", delay)
    monkeypatch.setenv("BACKUP_LIMIT_RATE", "5")
    result, _ = launch(real, RESTORE, "restored_database")
    assert result.success
    assert limits == {None}
    result, _ = launch(real, VERIFY, "verified_backups")
    assert result.success
    assert limits == {None, 5_000_000}


def test_a_database_that_exists_is_replaced_only_when_its_name_is_repeated(
    real: Project, sample_server: Server
) -> None:
    live = sample_server.database
    for confirm in ("", "yes", live.upper()):
        result, told = launch(real, RESTORE, "restored_database", target=live, confirm=confirm)
        assert not result.success
        assert (told["error"], told["exit_code"]) == ("NotConfirmed", 3)
        assert repr(live) in told["hint"]
    assert names_like(sample_server, f"{live}_%") == []

    result, told = launch(real, RESTORE, "restored_database", target=live, confirm=live)

    assert result.success
    assert told["previous"] in names_like(sample_server, f"{live}_before_%")


def test_a_confirmation_of_another_database_is_a_mistake(
    real: Project, sample_server: Server, create_database: CreateDatabase
) -> None:
    result, told = launch(
        real, RESTORE, "restored_database", target="", confirm=sample_server.database
    )
    assert not result.success
    assert told["error"] == "NotConfirmed"
    assert names_like(sample_server, f"{sample_server.database}_%") == []


def test_a_moment_picks_the_newest_backup_by_then(real: Project) -> None:
    result, told = launch(real, RESTORE, "restored_database", backup="2000-01-01T12:00")
    assert not result.success
    assert told["exit_code"] == 4
    assert "2000-01-01 11:00:00 UTC" in told["description"]  # noon in Amsterdam

    assert launch(real, RESTORE, "restored_database", backup="2999-01-01T12:00Z")[0].success


def test_what_is_neither_a_name_nor_a_time_is_refused(real: Project) -> None:
    result, told = launch(real, RESTORE, "restored_database", backup="yesterday")
    assert not result.success
    assert told["exit_code"] == 2
