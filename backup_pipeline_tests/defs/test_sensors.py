"""Who is told what, and when: sensors evaluated as the daemon does, with their cursors."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from backup_pipeline.defs.jobs import JOB, PRUNE, RESTORE
from backup_pipeline.engine.model import Section
from backup_pipeline.engine.notify import Heartbeat, Outcome
from backup_pipeline.errors import ChildFailed, StoreError
from backup_pipeline.settings import Settings
from backup_pipeline_tests.defs.project import NOON, Project, flip_a_bit, metadata_of
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import make_backup

ENDS = ("tell_success", "tell_failure", "tell_cancellation")


@dataclass
class Daemon:
    """Ticks the sensors of a project and keeps their cursors."""

    project: Project
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, *names: str) -> list[Any]:
        """One tick of each sensor; gives what they answered."""
        return [self._tick(name) for name in names]

    def _tick(self, name: str) -> Any:
        sensor = self.project.defs.resolve_sensor_def(self.project.database.own(name))
        context = dg.build_sensor_context(
            instance=self.project.instance,
            cursor=self.cursors.get(name),
            repository_def=self.project.defs.get_repository_def(),
            resources=self.project.defs.resources,
            sensor_name=name,
        )
        data = sensor.evaluate_tick(context)
        self.cursors[name] = data.cursor
        if data.dagster_run_reactions:
            return [reaction.error for reaction in data.dagster_run_reactions]
        return data.run_requests or data.skip_message


@pytest.fixture
def daemon(project: Project) -> Daemon:
    """A daemon that has ticked once, so that its cursors stand at the beginning."""
    ticking = Daemon(project)
    ticking.tick(*ENDS)
    return ticking


def told(daemon: Daemon) -> list[Outcome]:
    """What people are told after another tick of each sensor."""
    daemon.project.notifier.outcomes.clear()
    daemon.tick(*ENDS)
    return list(daemon.project.notifier.outcomes)


def fail(section: Section) -> None:
    raise ChildFailed(f"pg_dump ended with code 1 in {section}", hint="Look at the server's log.")


def crash(section: Section) -> None:
    raise RuntimeError(f"hunter2 in {section}")


def test_a_good_backup_is_told_once_with_its_sizes(daemon: Daemon) -> None:
    result = daemon.project.run()
    (backup,) = daemon.project.backups()

    (outcome,) = told(daemon)

    assert outcome.succeeded
    assert outcome.warnings == ()
    assert outcome.title == "Backup of ahold_options succeeded"
    assert len(outcome.lines) == 4, outcome.lines
    dumped, verified, pruned, where = outcome.lines
    assert dumped.startswith(f"{backup.name}: 3 rows in 1 tables, ")
    assert verified.startswith(f"{backup.name}: ")
    assert pruned == "1 backups kept, 0 deleted, 0.0 MB reclaimed"
    assert where == f"Dagster run {result.run_id}"
    assert told(daemon) == []


def test_the_message_links_to_the_run_where_the_ui_is_known(instance: dg.DagsterInstance) -> None:
    project = Project(instance, Settings(dagster_url="https://dagster.example.com/"))
    daemon = Daemon(project)
    daemon.tick(*ENDS)
    result = project.run()
    (outcome,) = told(daemon)
    assert outcome.lines[-1] == f"https://dagster.example.com/runs/{result.run_id}"


def test_runs_of_an_outage_of_the_daemon_are_told_afterwards(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.project.run()
    told_later = [*told(daemon), *told(daemon)]
    assert len(told_later) == 3


def test_a_failed_backup_is_told_with_what_to_do(daemon: Daemon) -> None:
    daemon.project.postgres.fail = fail

    result = daemon.project.run()

    (outcome,) = told(daemon)
    assert not outcome.succeeded
    assert outcome.title == "Backup of ahold_options FAILED"
    assert outcome.lines == (
        "pg_dump ended with code 1 in drops",
        "Look at the server's log.",
        f"Dagster run {result.run_id}",
    )


def test_the_text_of_an_unknown_error_is_not_passed_on(daemon: Daemon) -> None:
    daemon.project.postgres.fail = crash
    daemon.project.run()
    (outcome,) = told(daemon)
    assert outcome.lines[0].startswith("An unexpected RuntimeError")
    assert "hunter2" not in repr(outcome)


def test_a_run_whose_worker_died_is_told(daemon: Daemon) -> None:
    project = daemon.project
    job = project.defs.resolve_job_def("database_backup_pipeline")
    run = project.instance.create_run_for_job(job)
    for key in (project.database.dump, project.database.verified):
        project.instance.report_dagster_event(
            dg.DagsterEvent.build_asset_materialization_planned_event(
                job.name, "step", planned(key)
            ),
            run_id=run.run_id,
        )
    project.instance.report_run_failed(run)
    (outcome,) = told(daemon)
    assert outcome.lines[0] == "No step failed: the run was never begun, or its process died."


def test_a_cancelled_run_is_told(daemon: Daemon) -> None:
    project = daemon.project
    job = project.defs.resolve_job_def(RESTORE)
    run = project.instance.create_run_for_job(job)
    project.instance.report_run_canceled(run)
    (outcome,) = told(daemon)
    assert not outcome.succeeded
    assert outcome.title == "Restore of ahold_options was cancelled"


def test_a_failed_check_that_only_warns_is_part_of_the_message(daemon: Daemon) -> None:
    make_backup(daemon.project.memory, NOON - timedelta(days=1))  # another table

    assert daemon.project.run().success

    (outcome,) = told(daemon)
    assert outcome.succeeded
    assert outcome.title == "Backup of ahold_options succeeded with 2 warnings"
    assert "Check database_dump.rows_usual: Unusual rows: public.quotes is gone." in outcome.lines


def test_a_check_that_blocks_is_told_in_its_own_words(instance: dg.DagsterInstance) -> None:
    daemon = Daemon(Project(instance, Settings(size_minimum=10**6)))
    daemon.tick(*ENDS)
    assert not daemon.project.run().success
    (outcome,) = told(daemon)
    assert outcome.title == "Backup of ahold_options FAILED"
    assert outcome.lines[0].startswith("Check database_dump.size_sane: The dump has ")


def test_a_backup_that_is_not_whole_is_told_once_and_not_thrice(daemon: Daemon) -> None:
    project = daemon.project
    assert project.run(only=["database_dump"]).success
    daemon.tick(*ENDS)
    (backup,) = project.backups()
    flip_a_bit(project, backup.name)
    assert not project.run(only=["verified_backup"]).success
    (outcome,) = told(daemon)
    assert outcome.lines[0].startswith(f"{backup.name} is not whole: member ")
    assert len([line for line in outcome.lines if "member" in line]) == 1


def test_a_job_that_an_operator_launched_is_told_in_its_own_words(daemon: Daemon) -> None:
    make_backup(daemon.project.memory, NOON - timedelta(days=1))
    result = daemon.project.defs.resolve_job_def(PRUNE).execute_in_process(
        instance=daemon.project.instance
    )
    assert result.success
    (outcome,) = told(daemon)
    assert outcome.title == "Prune of ahold_options succeeded"
    assert outcome.lines[0] == "1 backups kept, 0 would be deleted, 0.0 MB reclaimed"


@pytest.mark.parametrize(
    ("asset", "verb"), [("verified_backup", "Verification"), ("pruned_bucket", "Prune")]
)
def test_a_run_that_makes_no_backup_is_not_called_one(
    daemon: Daemon, asset: str, verb: str
) -> None:
    assert daemon.project.run().success
    told(daemon)
    assert daemon.project.run(only=[asset]).success
    (outcome,) = told(daemon)
    assert outcome.title == f"{verb} of ahold_options succeeded"


def test_a_run_of_checks_alone_is_called_one(daemon: Daemon) -> None:
    project = daemon.project
    assert project.run().success
    told(daemon)
    checks = dg.AssetSelection.checks_for_assets(project.database.dump)
    job = dg.define_asset_job("checks", checks)
    theirs = dg.Definitions.merge(project.defs, dg.Definitions(jobs=[job]))
    assert theirs.resolve_job_def("checks").execute_in_process(instance=project.instance).success
    (outcome,) = told(daemon)
    assert outcome.title == "Check of ahold_options succeeded"


def test_runs_that_have_nothing_to_do_with_the_database_are_not_told(daemon: Daemon) -> None:
    @dg.asset
    def somebody_elses() -> None:
        pass

    assert dg.materialize([somebody_elses], instance=daemon.project.instance).success
    assert told(daemon) == []


def test_somebody_elses_job_that_makes_our_backup_is_told(daemon: Daemon) -> None:
    project = daemon.project
    job = dg.define_asset_job("theirs", [project.database.dump])
    theirs = dg.Definitions(
        assets=project.defs.assets, resources=project.defs.resources, jobs=[job]
    )
    resolved = theirs.resolve_job_def("theirs")
    assert resolved.execute_in_process(instance=project.instance).success
    (outcome,) = told(daemon)
    assert outcome.title == "Backup of ahold_options succeeded"


def test_a_service_that_fails_is_reported_once_and_the_run_stays_good(daemon: Daemon) -> None:
    daemon.project.notifier.deaf = ("notification service 1, Slack",)
    result = daemon.project.run()

    ((error,),) = daemon.tick("tell_success")

    assert "was not delivered to notification service 1, Slack" in error.message
    run = daemon.project.instance.get_run_by_id(result.run_id)
    assert run
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert len(daemon.project.notifier.outcomes) == 1
    daemon.tick("tell_success")
    assert len(daemon.project.notifier.outcomes) == 1


class LockedStore(MemoryStore):
    """Deletes nothing."""

    def delete(self, key: str) -> None:
        raise StoreError(f"{key} is locked")


def test_deletions_that_fail_are_told_although_the_backup_is_good(daemon: Daemon) -> None:
    daemon.project.use(LockedStore())
    for days in (20, 30, 40, 50):
        make_backup(daemon.project.memory, NOON - timedelta(days=days))

    assert not daemon.project.run().success

    (outcome,) = told(daemon)
    assert "2 deletions failed" in outcome.lines[0]
    assert "safe" in outcome.lines[1]
    assert any("read back" in line for line in outcome.lines)


# Freshness


def judge(project: Project, before: FreshnessState, now: FreshnessState) -> None:
    """What the freshness daemon reports when it finds a change."""
    project.instance._report_runless_asset_event(
        FreshnessStateChange(
            key=project.database.verified,
            previous_state=before,
            new_state=now,
            state_change_timestamp=project.clock().timestamp(),
        )
    )


def test_a_stale_backup_is_told_once_and_so_is_the_end_of_it(daemon: Daemon) -> None:
    project = daemon.project
    judge(project, FreshnessState.UNKNOWN, FreshnessState.PASS)
    assert "fresh" in daemon.tick("tell_staleness")[0]
    judge(project, FreshnessState.PASS, FreshnessState.FAIL)
    for _ in range(3):
        assert "stale" in daemon.tick("tell_staleness")[0]
    judge(project, FreshnessState.FAIL, FreshnessState.PASS)
    for _ in range(3):
        daemon.tick("tell_staleness")

    titles = [(outcome.title, outcome.succeeded) for outcome in project.notifier.outcomes]
    assert titles == [
        ("Backup of ahold_options is STALE", False),
        ("Backup of ahold_options is fresh again", True),
    ]


def test_a_backup_that_was_never_made_is_told_once_its_time_is_over(
    instance: dg.DagsterInstance,
) -> None:
    project = Project(instance, Settings(freshness_hours=1))
    daemon = Daemon(project)
    daemon.tick("tell_staleness")
    assert project.notifier.outcomes == []
    project.clock.now += timedelta(hours=2)
    daemon.tick("tell_staleness")
    daemon.tick("tell_staleness")
    (outcome,) = project.notifier.outcomes
    assert outcome.title == "Backup of ahold_options was NEVER made"


def test_staleness_that_can_not_be_told_to_one_is_not_told_to_the_others_for_ever(
    daemon: Daemon,
) -> None:
    """A tick that fails would lose its cursor."""
    daemon.project.notifier.deaf = ("Slack",)
    judge(daemon.project, FreshnessState.PASS, FreshnessState.FAIL)
    assert "was not delivered to Slack" in daemon.tick("tell_staleness")[0]
    for _ in range(2):
        assert daemon.tick("tell_staleness") == ["The newest verified backup is stale."]
    assert len(daemon.project.notifier.outcomes) == 1


def test_an_old_backup_that_is_verified_again_is_no_fresher_for_that(daemon: Daemon) -> None:
    project = daemon.project
    assert project.run().success
    assert "fresh" in daemon.tick("tell_staleness")[0]
    project.clock.now += timedelta(hours=27)

    assert project.run(only=["verified_backup"]).success
    judge(project, FreshnessState.UNKNOWN, FreshnessState.PASS)  # by Dagster's way of counting

    assert "stale" in daemon.tick("tell_staleness")[0]
    (outcome,) = project.notifier.outcomes
    assert outcome.title == "Backup of ahold_options is STALE"
    assert project.run().success
    assert project.run(only=["verified_backup"]).success
    assert "fresh" in daemon.tick("tell_staleness")[0]


def test_a_verification_of_an_older_backup_makes_the_newest_one_no_staler(daemon: Daemon) -> None:
    project = daemon.project
    dumped = project.run(only=["database_dump"])
    project.clock.now += timedelta(hours=20)
    assert project.run().success
    again = project.defs.resolve_job_def(JOB).execute_in_process(
        instance=project.instance,
        asset_selection=[project.database.verified],
        tags={"dagster/parent_run_id": dumped.run_id},
    )
    assert again.success
    project.clock.now += timedelta(hours=20)
    assert "fresh" in daemon.tick("tell_staleness")[0]


def test_freshness_is_declared_once_on_the_verified_backup(project: Project) -> None:
    graph = project.defs.resolve_asset_graph()
    declared = {
        key.path[-1]: graph.get(key).freshness_policy
        for key in graph.get_all_asset_keys()
        if graph.get(key).freshness_policy
    }
    assert declared == {
        "verified_backup": dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))
    }


# The dead man's switch


@pytest.mark.parametrize("heartbeat", list(Heartbeat))
def test_a_verified_backup_beats_once_and_says_what_became_of_it(
    project: Project, heartbeat: Heartbeat
) -> None:
    project.notifier.heartbeat = heartbeat
    result = project.run()
    assert result.success
    assert project.notifier.beats == 1
    assert metadata_of(result, "verified_backup")["heartbeat"] == heartbeat


def test_an_old_backup_that_is_verified_again_does_not_beat_and_is_warned_of(
    project: Project,
) -> None:
    assert project.run(only=["database_dump"]).success
    project.clock.now += timedelta(hours=27)

    result = project.run(only=["verified_backup"])

    assert result.success
    assert project.notifier.beats == 0
    assert metadata_of(result, "verified_backup")["heartbeat"] == "not sent for an old backup"
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert not checks["backup_recent"].passed
    assert checks["backup_recent"].severity is dg.AssetCheckSeverity.WARN
    assert checks["backup_recent"].description == "It was taken 27.0 hours ago; 26 are allowed."


def test_a_backup_that_is_not_verified_does_not_beat(project: Project) -> None:
    project.postgres.fail = fail
    project.run()
    assert project.notifier.beats == 0


# A backup after somebody else's asset


def test_a_backup_is_started_after_each_materialization_of_the_asset_it_waits_for(
    instance: dg.DagsterInstance,
) -> None:
    project = Project(instance, Settings(after_assets=("etl/trades", "etl/quotes")))
    daemon = Daemon(project)

    def materialize(name: str) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(["etl", name]))

    assert "None of them" in daemon.tick("backup_after_assets")[0]
    materialize("trades")
    ((request,),) = daemon.tick("backup_after_assets")
    assert request.tags["backup_pipeline/after"] == "etl/trades"
    assert "None of them" in daemon.tick("backup_after_assets")[0]
    materialize("trades")
    materialize("quotes")
    ((again,),) = daemon.tick("backup_after_assets")
    assert again.run_key != request.run_key


def test_a_backfill_queues_one_backup_at_a_time_and_none_is_forgotten(
    instance: dg.DagsterInstance,
) -> None:
    daemon = Daemon(Project(instance, Settings(after_assets=("etl/trades",))))
    daemon.tick("backup_after_assets")
    job = daemon.project.defs.resolve_job_def(JOB)
    waiting = instance.create_run_for_job(job)
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization(["etl", "trades"]))
        assert "not begun yet" in daemon.tick("backup_after_assets")[0]
    instance.report_run_canceled(waiting)
    ((request,),) = daemon.tick("backup_after_assets")
    assert request.tags["backup_pipeline/after"] == "etl/trades"
    assert "None of them" in daemon.tick("backup_after_assets")[0]


def test_what_was_there_before_it_was_waited_for_is_no_reason_for_a_backup(
    instance: dg.DagsterInstance,
) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("old"))
    before = Daemon(Project(instance, Settings(after_assets=("etl/trades",))))
    before.tick("backup_after_assets")
    after = Daemon(Project(instance, Settings(after_assets=("etl/trades", "old"))), before.cursors)
    assert "None of them" in after.tick("backup_after_assets")[0]
    instance.report_runless_asset_event(dg.AssetMaterialization("old"))
    ((request,),) = after.tick("backup_after_assets")
    assert request.tags["backup_pipeline/after"] == "old"


def test_without_such_assets_there_is_no_such_sensor(project: Project) -> None:
    names = {sensor.name for sensor in project.defs.sensors or ()}
    assert names == {*ENDS, "tell_staleness"}


def test_all_sensors_run_as_soon_as_they_are_loaded(project: Project) -> None:
    for sensor in project.defs.sensors or ():
        assert isinstance(sensor, dg.SensorDefinition)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def planned(key: dg.AssetKey) -> Any:
    from dagster._core.events import AssetMaterializationPlannedData

    return AssetMaterializationPlannedData(key)
