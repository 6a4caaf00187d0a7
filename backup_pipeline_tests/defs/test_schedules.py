"""The daily schedule, walked through a year and both of its clock changes."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.jobs import backup_job
from backup_pipeline.defs.schedules import backup_schedule
from backup_pipeline.settings import Settings

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=AMSTERDAM)


def schedule_of(settings: Settings) -> dg.ScheduleDefinition:
    return backup_schedule(Database(settings), backup_job(Database(settings)))


def ticks_of_2026(schedule: dg.ScheduleDefinition) -> list[datetime]:
    """What the daemon asks for, by the very function that it asks."""
    ticks: list[datetime] = []
    for tick in schedule_execution_time_iterator(
        NEW_YEAR.timestamp(), schedule.cron_schedule, schedule.execution_timezone
    ):
        if tick.astimezone(AMSTERDAM).year > 2026:
            return ticks
        ticks.append(tick.astimezone(UTC))
    raise AssertionError("a schedule never ends")


def test_it_runs_by_itself_at_23_in_amsterdam() -> None:
    schedule = schedule_of(Settings())
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "0 23 * * *"
    assert schedule.execution_timezone == "Europe/Amsterdam"
    assert schedule.job_name == "database_backup_pipeline"


def test_a_year_has_one_backup_on_each_day_at_23_local_time() -> None:
    ticks = ticks_of_2026(schedule_of(Settings()))

    local = [tick.astimezone(AMSTERDAM) for tick in ticks]
    assert len({tick.date() for tick in local}) == len(ticks) == 365
    assert {(tick.hour, tick.minute) for tick in local} == {(23, 0)}


def test_both_clock_changes_shift_the_day_between_two_backups_by_an_hour() -> None:
    ticks = ticks_of_2026(schedule_of(Settings()))
    odd = {
        after.date().isoformat(): after - before
        for before, after in pairwise(ticks)
        if after - before != timedelta(days=1)
    }
    assert odd == {"2026-03-29": timedelta(hours=23), "2026-10-25": timedelta(hours=25)}


def test_a_schedule_in_the_missing_and_the_doubled_hour_still_runs_once_a_day() -> None:
    ticks = ticks_of_2026(schedule_of(Settings(schedule="30 2 * * *")))
    days = [tick.astimezone(AMSTERDAM).date() for tick in ticks]
    assert len(days) == len(set(days)) == 365


def test_time_and_zone_are_settings() -> None:
    schedule = schedule_of(Settings(schedule="15 4 * * *", timezone="Asia/Tokyo"))
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("15 4 * * *", "Asia/Tokyo")
