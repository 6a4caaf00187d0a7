"""What the asset checks say of good backups, of bad ones, and of unusual ones."""

from datetime import timedelta

import dagster as dg
import pytest

from backup_pipeline.engine.model import Section
from backup_pipeline.engine.names import Kind
from backup_pipeline.settings import Settings
from backup_pipeline_tests import fakes_dump
from backup_pipeline_tests.defs.project import KEYS, NOON, Project, failure_of, flip_a_bit
from backup_pipeline_tests.fakes_dump import ROWS
from backup_pipeline_tests.made_backups import make_backup

BLOCKING = {"object_present", "size_sane", "bytes_whole", "dump_complete"}


def results(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def numbers(evaluation: dg.AssetCheckEvaluation) -> tuple[object, object]:
    return tuple(evaluation.metadata[name].value for name in ("expected", "actual"))  # type: ignore[return-value]


def test_a_good_backup_passes_every_check_with_a_sentence_and_two_numbers(
    project: Project,
) -> None:
    result = project.run()

    found = results(result)
    assert len(found) == 11
    assert {name for name, each in found.items() if not each.passed} == set()
    for each in found.values():
        assert each.description
        assert each.description.endswith(".")
        assert all(isinstance(number, float) for number in numbers(each))
    (backup,) = project.backups()
    assert numbers(found["bytes_whole"]) == (backup.size, backup.size)
    assert numbers(found["dump_complete"]) == (ROWS, ROWS)


def test_what_blocks_is_what_makes_a_backup_no_backup(project: Project) -> None:
    graph = project.defs.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert {spec.name for spec in specs if spec.blocking} == BLOCKING


def test_a_damaged_backup_fails_its_check_and_says_where(project: Project) -> None:
    assert project.run(only=["database_dump"]).success
    (backup,) = project.backups()
    flip_a_bit(project, backup.name)

    result = project.run(only=["verified_backup", "pruned_bucket"])

    found = results(result)
    assert not found["bytes_whole"].passed
    assert "member" in str(found["bytes_whole"].description)
    assert failure_of(result, "verified_backup")["exit_code"] == 7
    assert result.get_asset_materialization_events() == []


def test_a_dump_that_is_too_small_stops_everything_below_it(instance: dg.DagsterInstance) -> None:
    project = Project(instance, Settings(database="ahold_options", size_minimum=10**6))
    old = make_backup(project.memory, NOON - timedelta(days=40))

    result = project.run()

    assert not result.success
    assert not results(result)["size_sane"].passed
    made = [event.asset_key for event in result.get_asset_materialization_events()]
    assert made == [project.database.dump]
    assert old in [backup.name for backup in project.backups()]


@pytest.mark.parametrize("kind", [Kind.DUMP, Kind.SCHEMA])
def test_an_object_that_is_lost_is_missed(project: Project, kind: Kind) -> None:
    assert project.run().success
    (backup,) = project.backups()
    project.memory.delete(KEYS.of(backup.name, kind))

    result = check_alone(project, "dump_checks")

    found = results(result)["object_present"]
    assert not found.passed
    assert str(found.description) == f"{KEYS.of(backup.name, kind)} is missing"
    expected, actual = numbers(found)
    assert isinstance(expected, float)
    assert isinstance(actual, float)
    assert actual < expected


def test_an_unusual_backup_is_warned_of_and_the_run_stays_green(project: Project) -> None:
    make_backup(project.memory, NOON - timedelta(days=1))  # another table, and fewer bytes

    result = project.run()

    assert result.success
    found = results(result)
    assert found["rows_usual"].severity is dg.AssetCheckSeverity.WARN
    assert not found["rows_usual"].passed
    assert found["rows_usual"].description == "Unusual rows: public.quotes is gone."
    assert not found["size_usual"].passed
    assert found["duration_usual"].passed


def test_a_new_instance_knows_the_history_of_the_bucket(
    project: Project, instance: dg.DagsterInstance
) -> None:
    assert project.run().success
    with dg.DagsterInstance.ephemeral() as fresh:
        other = Project(fresh)
        other.use(project.memory)
        other.clock.now = project.clock.now + timedelta(days=1)
        found = results(other.run())["rows_usual"]
    assert found.passed
    assert "the backup before" in str(found.description)


def test_the_bucket_is_looked_at_for_what_does_not_belong_there(project: Project) -> None:
    assert project.run().success
    (backup,) = project.backups()
    make_backup(project.memory, NOON - timedelta(days=1), verified=None)
    stray = KEYS.of(backup.name, Kind.DUMP).replace("2025-12-16", "2025-12-01")
    project.memory.put(stray, b"whose is it?")
    upload = project.memory.create_upload(stray.replace("2025-12-01", "2025-12-02"), {})
    project.clock.now += timedelta(days=2)

    result = check_alone(project, "bucket_checks")

    assert result.success
    found = results(result)
    assert {name for name, each in found.items() if not each.passed} == {
        "minimum_kept",
        "no_stray",
        "no_stale_upload",
    }
    assert numbers(found["minimum_kept"]) == (2, 1)
    assert str(found["no_stray"].description).startswith(stray)
    assert upload


def test_an_empty_database_is_a_good_backup(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = dict.fromkeys(Section, b"")
    monkeypatch.setattr(fakes_dump, "_SQL", nothing)
    monkeypatch.setattr(fakes_dump, "TABLES", ())
    result = project.run()
    assert result.success
    assert all(each.passed for each in results(result).values())


def test_one_check_may_be_run_by_itself(project: Project) -> None:
    assert project.run().success
    assert list(results(check_alone(project, "dump_checks", "rows_usual"))) == ["rows_usual"]


def check_alone(project: Project, op: str, only: str = "") -> dg.ExecuteInProcessResult:
    """Run the checks of one step without their asset, as the UI does."""
    graph = project.defs.resolve_asset_graph()
    asset = {"dump_checks": project.database.dump, "bucket_checks": project.database.pruned}[op]
    checks = [
        key
        for key in dg.AssetSelection.checks_for_assets(asset).resolve_checks(graph)
        if only in key.name
    ]
    job = dg.define_asset_job("checks_alone", dg.AssetSelection.checks(*checks))
    resolved = dg.Definitions(
        assets=project.defs.assets,
        asset_checks=project.defs.asset_checks,
        jobs=[job],
        resources=project.defs.resources,
    ).resolve_job_def("checks_alone")
    return resolved.execute_in_process(instance=project.instance, raise_on_error=False)
