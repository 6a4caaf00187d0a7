"""Retention: what stays, what goes, and the sentence that says why."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.engine.model import Backup, RetentionPolicy, State, Stray
from backup_pipeline.engine.names import BackupName
from backup_pipeline.engine.retention import FUTURE_TOLERANCE, decide, newest, refusal

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
WEEK = RetentionPolicy(days=7, minimum=3)


def backup(
    age: timedelta | float,
    state: State = State.VERIFIED,
    *,
    database: str = "ahold_options",
    number: int = 0,
    findings: tuple[str, ...] = (),
    zone: tzinfo = UTC,
    pin: str | None = None,
) -> Backup:
    """A backup of an age in days; `number` tells those of one age apart."""
    taken_at = NOW - (age if isinstance(age, timedelta) else timedelta(days=age))
    return Backup(
        name=BackupName.of(database, taken_at + timedelta(seconds=number)),
        taken_at=taken_at.astimezone(zone),
        size=100,
        raw_length=1000,
        tables=1,
        rows=10,
        duration=1.0,
        server_version="18.1",
        state=state,
        verified_at=None,
        findings=findings,
        pin=pin,
    )


def taken(moment: str, *, zone: tzinfo = UTC) -> Backup:
    """A verified backup of a local time."""
    at = datetime.fromisoformat(moment).replace(tzinfo=zone)
    return backup(NOW - at.astimezone(UTC))


def reasons(policy: RetentionPolicy, *backups: Backup, now: datetime = NOW) -> list[str]:
    """Why each backup that stays does so, the newest first."""
    return [decision.reason for decision in decide(policy, backups, now) if decision.keep]


def kept(policy: RetentionPolicy, backups: Sequence[Backup]) -> list[Backup]:
    return [decision.backup for decision in decide(policy, backups, NOW) if decision.keep]


def test_a_backup_younger_than_the_days_stays() -> None:
    (decision,) = decide(RetentionPolicy(days=7, minimum=0), [backup(6.99)], NOW)
    assert (decision.keep, decision.reason) == (True, "younger than 7 days")


def test_a_backup_exactly_as_old_as_the_days_expires() -> None:
    (decision,) = decide(RetentionPolicy(days=7, minimum=0), [backup(7)], NOW)
    assert not decision.keep


def test_the_newest_verified_backups_stay_whatever_their_age() -> None:
    decisions = decide(WEEK, [backup(day) for day in (10, 20, 30, 40)], NOW)
    assert [decision.keep for decision in decisions] == [True, True, True, False]
    assert decisions[0].reason == "one of the 3 newest verified backups"
    assert decisions[3].reason == "40 days old, and 3 newer verified ones stay"


def test_young_verified_backups_count_among_the_minimum() -> None:
    assert len(kept(WEEK, [backup(day) for day in (1, 2, 3, 10)])) == 3


def test_failed_backups_do_not_count_among_the_minimum() -> None:
    failed = backup(8, State.FAILED, findings=("one bit is flipped",))
    decisions = decide(WEEK, [failed, backup(20), backup(21), backup(22)], NOW)
    assert [decision.keep for decision in decisions] == [False, True, True, True]
    assert decisions[0].reason == "8 days old, and failed verification: one bit is flipped"


def test_unverified_backups_take_no_place_of_verified_ones() -> None:
    backups = [backup(9, State.UNVERIFIED), backup(20), backup(21), backup(22), backup(23)]
    decisions = decide(WEEK, backups, NOW)
    assert [decision.keep for decision in decisions] == [True, True, True, True, False]
    assert decisions[0].reason == "not verified; if it were, one of the 3 newest verified backups"
    assert decisions[3].reason == "one of the 3 newest verified backups"


def test_an_unverified_backup_expires_where_a_verified_one_would() -> None:
    backups = [backup(8), backup(9), backup(10), backup(11, State.UNVERIFIED)]
    assert decide(WEEK, backups, NOW)[3].reason == "11 days old, and is not verified"
    many = [backup(day, State.UNVERIFIED) for day in range(8, 400)]
    assert kept(WEEK, many) == many[:3]


def test_an_unverified_backup_stays_for_its_month_until_it_is_known_to_be_bad() -> None:
    policy = replace(DAYS_ONLY, monthly=2)
    unseen = replace(taken("2025-11-30T12:00"), state=State.UNVERIFIED)
    good = taken("2025-11-29T12:00")
    assert reasons(policy, unseen, good) == [
        "not verified; if it were, the newest verified backup of 2025-11 (monthly, 1 of 2)",
        "the newest verified backup of 2025-11 (monthly, 1 of 2)",
    ]
    assert kept(policy, [replace(unseen, state=State.FAILED), good]) == [good]


def test_a_backup_dated_in_the_future_stays_and_counts_for_nothing() -> None:
    decisions = decide(RetentionPolicy(days=7, minimum=1), [backup(-1), backup(8)], NOW)
    assert [decision.keep for decision in decisions] == [True, True]
    assert "dated in the future" in decisions[0].reason
    assert decisions[1].reason == "one of the 1 newest verified backups"


def test_clocks_may_differ_a_little_before_a_date_counts_as_future() -> None:
    (decision,) = decide(WEEK, [backup(-FUTURE_TOLERANCE)], NOW)
    assert decision.reason == "younger than 7 days"


def test_each_database_is_judged_for_itself() -> None:
    backups = [backup(day, database=name) for name in ("a", "b") for day in (10, 11)]
    policy = RetentionPolicy(days=7, minimum=1)
    assert {(b.name.database, (NOW - b.taken_at).days) for b in kept(policy, backups)} == {
        ("a", 10),
        ("b", 10),
    }


def test_only_utc_decides_also_across_the_end_of_summer_time() -> None:
    amsterdam = ZoneInfo("Europe/Amsterdam")
    now = datetime(2025, 10, 26, 12, 0, tzinfo=amsterdam)
    old = backup(0, zone=amsterdam)
    # 24.5 hours earlier, though the wall clock moved by 23.5 only.
    taken_at = (now.astimezone(UTC) - timedelta(hours=24.5)).astimezone(amsterdam)
    old = Backup(**{**{f: getattr(old, f) for f in old.__slots__}, "taken_at": taken_at})
    (decision,) = decide(RetentionPolicy(days=1, minimum=0), [old], now)
    assert not decision.keep


DAYS_ONLY = RetentionPolicy(days=0, minimum=0)


def test_the_newest_backup_of_each_day_stays() -> None:
    backups = [taken(f"2025-12-{day:02}T{hour}:00") for day in (1, 2, 4) for hour in (10, 20)]
    assert reasons(replace(DAYS_ONLY, daily=2), *backups) == [
        "the newest verified backup of 2025-12-04 (daily, 1 of 2)",
        "the newest verified backup of 2025-12-02 (daily, 2 of 2)",
    ]


def test_weeks_are_those_of_iso_8601_also_where_the_year_ends() -> None:
    """Monday, 30 December 2024, is in the first week of 2025."""
    backups = [taken("2025-01-05T12:00"), taken("2024-12-30T12:00"), taken("2024-12-29T12:00")]
    assert reasons(replace(DAYS_ONLY, weekly=9), *backups) == [
        "the newest verified backup of 2025-W01 (weekly, 1 of 9)",
        "the newest verified backup of 2024-W52 (weekly, 2 of 9)",
    ]


def test_months_and_years_without_a_backup_are_not_counted() -> None:
    backups = [taken("2025-12-01T12:00"), taken("2025-03-31T12:00"), taken("2021-06-30T12:00")]
    assert len(reasons(replace(DAYS_ONLY, monthly=3), *backups)) == 3
    assert reasons(replace(DAYS_ONLY, yearly=2), *backups) == [
        "the newest verified backup of 2025 (yearly, 1 of 2)",
        "the newest verified backup of 2021 (yearly, 2 of 2)",
    ]


def test_the_reason_is_the_strongest_of_those_that_hold() -> None:
    policy = RetentionPolicy(days=1, minimum=2, daily=5, weekly=5, monthly=2, yearly=1)
    backups = [
        backup(0.5),
        backup(2),
        taken("2025-12-13T22:00"),
        taken("2025-12-07T22:00"),
        taken("2025-11-30T22:00"),
    ]
    assert reasons(policy, *backups) == [
        "younger than 1 day",
        "one of the 2 newest verified backups",
        "the newest verified backup of 2025-12-13 (daily, 3 of 5)",
        "the newest verified backup of 2025-W49 (weekly, 3 of 5)",
        "the newest verified backup of 2025-11 (monthly, 2 of 2)",
    ]
    (yearly,) = reasons(replace(policy, days=0, minimum=0), backup(0.5))
    assert yearly == "the newest verified backup of 2025 (yearly, 1 of 1)"


def test_only_verified_backups_stand_for_their_day() -> None:
    """A failed backup, or one unseen, is no reason to let go of the good one before it."""
    policy = replace(DAYS_ONLY, daily=1)
    backups = [backup(1, State.FAILED), backup(1.1, State.UNVERIFIED), backup(1.2), backup(-2)]
    assert [b for b in kept(policy, backups) if b.taken_at <= NOW] == backups[1:3]


def test_midnight_is_that_of_the_zone() -> None:
    """23:30 in UTC is the next day already in Amsterdam."""
    backups = [taken("2025-12-10T22:30"), taken("2025-12-10T23:30")]
    policy = replace(DAYS_ONLY, daily=9)
    assert len(reasons(policy, *backups)) == 1
    assert len(reasons(replace(policy, zone=ZoneInfo("Europe/Amsterdam")), *backups)) == 2


def test_a_day_that_begins_twice_is_one_day() -> None:
    """In 2010 St. John's set its clocks back at 00:01, to 23:01 of the day before."""
    policy = replace(DAYS_ONLY, daily=9, zone=ZoneInfo("America/St_Johns"))
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC)  # 00:00 there
    backups = [
        backup(NOW - (midnight + timedelta(minutes=minutes))) for minutes in (-5, 0.5, 20, 90)
    ]
    assert reasons(policy, *backups) == [
        "the newest verified backup of 2010-11-07 (daily, 1 of 9)",
        "the newest verified backup of 2010-11-06 (daily, 2 of 9)",
    ]


def test_a_pinned_backup_stays_whatever_its_age_and_state() -> None:
    backups = [
        backup(400, pin="before the migration"),
        backup(500, State.FAILED, pin=""),
        backup(-2, pin="clock test"),
    ]
    assert reasons(DAYS_ONLY, *backups) == [
        "pinned: clock test",
        "pinned: before the migration",
        "pinned",
    ]


def test_a_pinned_backup_counts_like_any_other() -> None:
    policy = RetentionPolicy(days=0, minimum=1)
    assert len(kept(policy, [backup(1, pin="mine"), backup(2)])) == 1


def test_a_year_of_evenings_leaves_days_weeks_months_and_years() -> None:
    """Pruned each evening, as in production."""
    policy = RetentionPolicy(days=0, minimum=1, daily=7, weekly=4, monthly=12, yearly=3)
    held: list[Backup] = []
    for age in reversed(range(800)):
        now = NOW - timedelta(days=age)
        held = [d.backup for d in decide(policy, [*held, backup(age)], now) if d.keep]
    assert [f"{each.taken_at:%Y-%m-%d}" for each in held] == [
        *(f"2025-12-{day}" for day in (16, 15, 14, 13, 12, 11, 10)),
        *("2025-12-07", "2025-11-30", "2025-10-31", "2025-09-30", "2025-08-31", "2025-07-31"),
        *("2025-06-30", "2025-05-31", "2025-04-30", "2025-03-31", "2025-02-28", "2025-01-31"),
        *("2024-12-31", "2023-12-31"),
    ]


def test_an_empty_bucket_needs_no_decision() -> None:
    assert decide(WEEK, [], NOW) == ()
    assert refusal([], NOW) is None


@pytest.mark.parametrize("state", [State.UNVERIFIED, State.FAILED])
def test_nothing_may_be_deleted_while_the_newest_backup_is_not_verified(state: State) -> None:
    latest = backup(1, state)
    reason = refusal([backup(2), latest], NOW)
    assert reason is not None
    assert str(latest.name) in reason


def test_deleting_is_allowed_when_the_newest_backup_is_verified() -> None:
    assert refusal([backup(1), backup(2, State.FAILED)], NOW) is None


def test_a_verified_backup_dated_in_the_future_does_not_stand_in_for_the_newest() -> None:
    assert refusal([backup(-1), backup(1, State.FAILED)], NOW) is not None
    assert refusal([backup(-1, State.FAILED), backup(1)], NOW) is None
    assert newest([backup(-1)], NOW) is None


def test_a_dump_without_a_readable_manifest_blocks_until_a_newer_backup_is_verified() -> None:
    stray = Stray("b/x.sql.gz", 9, NOW - timedelta(days=1), "it has no manifest", deletable=False)
    assert refusal([backup(2)], NOW, [stray]) == (
        "b/x.sql.gz is newer than every backup: it has no manifest"
    )
    assert refusal([], NOW, [stray]) is not None
    assert refusal([backup(0.5), backup(2)], NOW, [stray]) is None


def test_the_second_in_which_the_newest_backup_was_taken_counts_as_after_it() -> None:
    """A store that tells whole seconds makes an object look up to one older than it is."""
    latest = backup(1)
    taken_at = latest.taken_at.replace(microsecond=900_000)
    whole = taken_at.replace(microsecond=0)
    stray = Stray("b/x.manifest.json", 9, whole, "it is damaged", deletable=False)
    assert refusal([replace(latest, taken_at=taken_at)], NOW, [stray]) is not None
    earlier = replace(stray, modified_at=whole - timedelta(seconds=1))
    assert refusal([replace(latest, taken_at=taken_at)], NOW, [earlier]) is None
