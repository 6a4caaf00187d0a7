"""The assets of a database, run by Dagster on fakes."""

import time
from datetime import datetime, timedelta

import dagster as dg
import pytest

from backup_pipeline.defs.database import Database, key_prefix
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.jobs import JOB
from backup_pipeline.defs.resources import resources
from backup_pipeline.engine.model import Codec, Globals, Section, State
from backup_pipeline.errors import ChildFailed
from backup_pipeline.settings import Settings
from backup_pipeline_tests.defs.project import (
    NOON,
    Project,
    failure_of,
    flip_a_bit,
    metadata_of,
)
from backup_pipeline_tests.fakes_dump import ROWS, section_sql
from backup_pipeline_tests.made_backups import make_backup

RAW = sum(len(section_sql(section)) for section in Section)


def fail_in_the_data(section: Section) -> None:
    if section is Section.DATA:
        raise ChildFailed("pg_dump was ended by SIGKILL")


def test_the_job_leaves_a_verified_backup(project: Project) -> None:
    result = project.run()

    assert result.success
    (backup,) = project.backups()
    assert backup.state is State.VERIFIED
    assert backup.name.label == datetime(2025, 12, 16, 12, 0, 1)  # noqa: DTZ001  # local time


@pytest.mark.parametrize("globals_", list(Globals))
def test_the_backup_has_the_globals_that_the_settings_ask_for(
    instance: dg.DagsterInstance, globals_: Globals
) -> None:
    project = Project(instance, Settings(database="ahold_options", globals=globals_))
    result = project.run()
    assert result.success
    (backup,) = project.backups()
    assert (backup.globals, backup.state) == (globals_, State.VERIFIED)
    assert metadata_of(result, "database_dump")["globals"] == str(globals_)


def test_the_job_on_fakes_takes_less_than_a_second(project: Project) -> None:
    project.run()
    begun = time.process_time()
    project.run()
    assert time.process_time() - begun < 1


def test_client_tools_without_security_fixes_are_named_in_the_log(
    instance: dg.DagsterInstance,
) -> None:
    for minimum, warned in (("18.7", False), ("18.8", True)):
        settings = Settings(database="ahold_options", client_minimums=(minimum,))
        result = Project(instance, settings).run()
        assert result.success
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert ("pg_dump 18.7 is older than 18.8, the security minimum" in logged) is warned


def test_each_step_reports_numbers_under_fixed_names(project: Project) -> None:
    result = project.run()

    dump = metadata_of(result, "database_dump")
    (backup,) = project.backups()
    assert dump["backup"] == str(backup.name)
    assert dump["dagster/uri"] == f"s3://memory/backups/postgres/{backup.name}.sql.gz"
    assert dump["size_bytes"] == backup.size > 0
    assert dump["raw_size_bytes"] == RAW
    assert dump["compression_ratio"] == pytest.approx(RAW / backup.size)
    assert dump["throughput_bytes_per_second"] == pytest.approx(RAW / dump["duration_seconds"])
    assert (dump["tables"], dump["rows"]) == (1, ROWS)
    assert [dict(row.data) for row in dump["rows_per_table"].records] == [
        {"table": "public.trades", "rows": 3}
    ]
    assert dump["manifest"]["name"] == str(backup.name)

    verified = metadata_of(result, "verified_backup")
    assert verified["backup"] == dump["backup"]
    assert (verified["size_bytes"], verified["rows"]) == (backup.size, ROWS)
    assert verified["dagster/uri"].endswith(".verified.json")

    pruned = metadata_of(result, "pruned_bucket")
    assert (pruned["kept"], pruned["deleted"], pruned["reclaimed_bytes"]) == (1, 0, 0)
    (kept,) = pruned["kept_backups"].records
    assert kept.data["backup"] == str(backup.name)


def test_a_backup_of_zstd_passes_every_step(instance: dg.DagsterInstance) -> None:
    project = Project(instance, Settings(database="ahold_options", codec=Codec.ZSTD))
    result = project.run()
    assert result.success
    (backup,) = project.backups()
    assert (backup.codec, backup.state) == (Codec.ZSTD, State.VERIFIED)
    uri = f"s3://memory/backups/postgres/{backup.name}.sql.zst"
    assert metadata_of(result, "database_dump")["dagster/uri"] == uri
    blocking = ("object_present", "size_sane")
    judged = [each for each in result.get_asset_check_evaluations() if each.check_name in blocking]
    assert [each.passed for each in judged] == [True, True]


def test_expired_backups_go_and_the_reasons_are_told(project: Project) -> None:
    old = [make_backup(project.memory, NOON - timedelta(days=days)) for days in (20, 30, 40)]

    pruned = metadata_of(project.run(), "pruned_bucket")

    assert (pruned["kept"], pruned["deleted"]) == (3, 1)  # a minimum of three verified ones stays
    (gone,) = pruned["deleted_backups"].records
    assert (gone.data["backup"], gone.data["fate"]) == (str(old[-1]), "deleted")
    assert pruned["reclaimed_bytes"] > 0
    assert old[-1] not in [backup.name for backup in project.backups()]


def test_a_failing_dump_leaves_nothing_and_fails_the_run(project: Project) -> None:
    project.postgres.fail = fail_in_the_data

    result = project.run()

    assert not result.success
    assert project.keys_in_bucket() == set()
    assert project.memory.uploads == {}
    assert project.postgres.dumps == 1
    started = [event.step_key for event in result.all_events if event.is_step_start]
    assert started == ["ahold_options__database_dump"]


def test_a_damaged_backup_fails_and_nothing_is_pruned(project: Project) -> None:
    old = [make_backup(project.memory, NOON - timedelta(days=days)) for days in (20, 30, 40, 50)]
    assert project.run(only=["database_dump"]).success
    (newest, *_) = project.backups()
    flip_a_bit(project, newest.name)

    result = project.run(only=["verified_backup", "pruned_bucket"])

    assert not result.success
    failure = failure_of(result, "verified_backup")
    assert (failure["error"], failure["exit_code"]) == ("VerificationFailed", 7)
    assert str(newest.name) in failure["description"]
    assert {backup.name for backup in project.backups()} == {newest.name, *old}
    assert project.notifier.beats == 0


def test_pruning_alone_refuses_while_the_newest_backup_is_not_verified(project: Project) -> None:
    make_backup(project.memory, NOON - timedelta(days=50))
    assert project.run(only=["database_dump"]).success

    result = project.run(only=["pruned_bucket"])

    assert not result.success
    failure = failure_of(result, "pruned_bucket")
    assert (failure["error"], failure["exit_code"]) == ("NewestNotVerified", 3)
    assert "backup-pipeline verify" in failure["hint"]
    assert len(project.backups()) == 2


def test_verification_alone_takes_the_newest_backup_whoever_made_it(project: Project) -> None:
    assert project.run(only=["database_dump"]).success
    by_hand = make_backup(project.memory, project.clock(), verified=None)

    result = project.run(only=["verified_backup"])

    # It is no real dump, so it can't pass; what matters is which one was looked at.
    assert str(by_hand) in failure_of(result, "verified_backup")["description"]


def test_verification_without_any_backup_says_what_to_do(project: Project) -> None:
    failure = failure_of(project.run(only=["verified_backup"]), "verified_backup")
    assert failure["error"] == "NotFound"
    assert "database_dump" in failure["hint"]


@pytest.mark.parametrize(
    "database",
    ["a/b", "--version", "x y", "naïve", "q\"uo'te", "new\nline", "a.b", "../up", "数据", "$(id)"],
)
def test_a_database_of_any_name_is_backed_up(instance: dg.DagsterInstance, database: str) -> None:
    project = Project(instance, Settings(database=database))
    result = project.run()
    assert result.success
    assert [backup.name.database for backup in project.backups()] == [database]


@pytest.mark.parametrize("database", ["default", "class", "int", "Public", "a" * 63, "1"])
def test_names_that_mean_something_to_python_or_dagster_stay_as_they_are(
    instance: dg.DagsterInstance, database: str
) -> None:
    assert key_prefix(database) == database
    assert Project(instance, Settings(database=database)).run().success


def test_no_two_databases_share_a_key() -> None:
    names = ["a-b", "a_b", "a.b", "a b", "A_b", "数据", "データ", "__"]
    assert len({key_prefix(name) for name in names}) == len(names)


def test_two_databases_live_in_one_project() -> None:
    both = [
        Database(Settings(database="orders-db"), suffix="_one"),
        Database(Settings(database="orders_db"), suffix="_other"),
    ]
    defs = dg.Definitions.merge(*(database_definitions(each, resources(each)) for each in both))
    assert len(defs.resolve_asset_graph().get_all_asset_keys()) == 10
    assert {f"{JOB}_one", f"{JOB}_other"} <= {job.name for job in defs.resolve_all_job_defs()}


def test_the_job_runs_its_steps_in_one_process_unless_told_otherwise(project: Project) -> None:
    job = project.defs.resolve_job_def(JOB)
    assert job.run_config == {"execution": {"config": {"in_process": {}}}}
