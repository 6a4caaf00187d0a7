"""Retention, on histories by the thousand, against its rules said once more as naively as possible.

Clocks that were set back, summer time, duplicate times, dates in the future, failures and pins.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.model import Backup, RetentionPolicy, State
from backup_pipeline.engine.names import BackupName
from backup_pipeline.engine.retention import FUTURE_TOLERANCE, decide, refusal

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
CLOCKS = [NOW, NOW + timedelta(hours=1), NOW + timedelta(days=40), NOW - timedelta(days=9)]
"""The pruning machine's: right, after the time of the newest backups, and set back."""
MOMENTS = [
    *(NOW - timedelta(days=age) for age in (-3, -0.01, 0, 0.5, 1, 2, 6.999, 7, 8, 30, 31, 400)),
    *(
        datetime.fromisoformat(moment)
        for moment in (
            "2024-12-29T23:30Z",  # weeks and years end on other days, and zones apart
            "2024-12-30T12:00Z",
            "2025-01-01T00:30Z",
            "2025-03-30T00:59:59Z",  # summer time in Amsterdam, from here ...
            "2025-03-30T01:00Z",
            "2025-10-25T22:30Z",  # ... to here, with an hour that comes twice
            "2025-10-26T00:30Z",
            "2025-10-26T01:30Z",
            "2010-11-07T02:30:30Z",  # a midnight that comes twice in St. John's
            "2010-11-07T02:45Z",
            "2010-11-07T03:45Z",
        )
    ),
]
DATABASES = ("a", "b")
ROWS = list(product(MOMENTS, State, DATABASES, (None, None, None, "", "mine")))


def history(rows: Sequence[tuple[datetime, State, str, str | None]]) -> list[Backup]:
    """Backups whose names say nothing of their times, as `--date` can make them."""
    return [
        Backup(
            name=BackupName.of(database, datetime(2000, 1, 1 + number, tzinfo=UTC)),
            taken_at=taken_at,
            size=100,
            raw_length=1000,
            tables=1,
            rows=10,
            duration=1.0,
            server_version="18.1",
            state=state,
            verified_at=None,
            pin=pin,
        )
        for number, (taken_at, state, database, pin) in enumerate(rows)
    ]


ZONES = [UTC, *map(ZoneInfo, ("Europe/Amsterdam", "America/St_Johns", "Pacific/Auckland"))]
few = st.integers(0, 4)
clocks = st.sampled_from(CLOCKS)
histories = st.lists(st.sampled_from(ROWS), max_size=25).map(history)
policies = st.builds(
    RetentionPolicy,
    days=st.integers(0, 10),
    minimum=few,
    daily=few,
    weekly=few,
    monthly=few,
    yearly=few,
    zone=st.sampled_from(ZONES),
)
CALENDAR: Sequence[tuple[str, Callable[[date], tuple[int, ...]]]] = [
    ("daily", lambda day: (day.year, day.month, day.day)),
    ("weekly", lambda day: tuple(day.isocalendar()[:2])),
    ("monthly", lambda day: (day.year, day.month)),
    ("yearly", lambda day: (day.year,)),
]


def tries(count: int) -> settings:
    """That many histories, however slow the machine is; together they are 10,000 and more."""
    return settings(max_examples=count, deadline=None)


def counting(
    backups: Sequence[Backup], now: datetime, database: str, *states: State
) -> list[Backup]:
    return [
        each
        for each in backups
        if each.name.database == database
        and each.state in states
        and each.taken_at <= now + FUTURE_TOLERANCE
    ]


def model(policy: RetentionPolicy, backups: Sequence[Backup], now: datetime) -> set[BackupName]:
    """Which backups stay."""
    return {each.name for each in backups if _stays(policy, each, backups, now)}


def _stays(policy: RetentionPolicy, one: Backup, backups: Sequence[Backup], now: datetime) -> bool:
    if one.pin is not None or one.taken_at > now + FUTURE_TOLERANCE:
        return True
    if now - one.taken_at < timedelta(days=policy.days):
        return True
    if one.state is State.FAILED:
        return False
    # Who is not verified has those before it that might be; who is, only those that are as well.
    rivals = {State.VERIFIED, one.state}
    counted = counting(backups, now, one.name.database, *rivals)
    newer = [each for each in counted if (each.taken_at, each.name) > (one.taken_at, one.name)]
    if len(newer) < policy.minimum:
        return True
    for rule, period in CALENDAR:
        mine, *of_newer = (
            period(each.taken_at.astimezone(policy.zone).date()) for each in (one, *newer)
        )
        if mine not in of_newer and len(set(of_newer)) < getattr(policy, rule):
            return True
    return False


@tries(4000)
@given(policies, histories, clocks)
def test_the_decisions_are_those_of_the_naive_model(
    policy: RetentionPolicy, backups: list[Backup], now: datetime
) -> None:
    decisions = decide(policy, backups, now)
    assert {d.backup.name for d in decisions if d.keep} == model(policy, backups, now)
    assert len(decisions) == len(backups)
    assert all(decision.reason for decision in decisions)


@tries(2000)
@given(policies, histories, clocks)
def test_the_minimum_the_young_and_the_pinned_stay_whatever_the_policy(
    policy: RetentionPolicy, backups: list[Backup], now: datetime
) -> None:
    stay = [decision.backup for decision in decide(policy, backups, now) if decision.keep]
    for each in backups:
        young = now - each.taken_at < timedelta(days=policy.days)
        assert each in stay or not (young or each.pin is not None)
    for database in DATABASES:
        counted = counting(backups, now, database, State.VERIFIED)
        verified = sorted(counted, key=lambda b: b.taken_at, reverse=True)
        assert len([b for b in verified if b in stay]) >= min(policy.minimum, len(verified))
        if verified and policy.minimum:
            assert verified[0].taken_at in {b.taken_at for b in verified if b in stay}


@tries(1500)
@given(policies, histories, clocks)
def test_an_unverified_backup_changes_nothing_for_the_others(
    policy: RetentionPolicy, backups: list[Backup], now: datetime
) -> None:
    """What stays of the verified ones is what would stay if the unverified were not there."""
    seen = [each for each in backups if each.state is not State.UNVERIFIED]
    decisions = decide(policy, backups, now)
    assert tuple(d for d in decisions if d.backup in seen) == decide(policy, seen, now)


@tries(1500)
@given(policies, histories, clocks)
def test_an_unverified_backup_stays_only_where_it_would_if_it_were_verified(
    policy: RetentionPolicy, backups: list[Backup], now: datetime
) -> None:
    """So the rules, which bound the number of verified ones, bound that of the others as well."""
    good = [replace(b, state=State.VERIFIED) if b.state is not State.FAILED else b for b in backups]
    unseen = {each.name for each in backups if each.state is State.UNVERIFIED}
    stay, would = (
        {d.backup.name for d in decide(policy, each, now) if d.keep} for each in (backups, good)
    )
    assert stay & unseen == would & unseen


@tries(1500)
@given(
    policies,
    histories,
    clocks,
    st.sampled_from(["days", "minimum", "daily", "weekly", "monthly", "yearly"]),
    st.integers(1, 3),
)
def test_a_more_generous_policy_keeps_all_that_the_other_keeps(
    policy: RetentionPolicy, backups: list[Backup], now: datetime, rule: str, more: int
) -> None:
    generous = replace(policy, **{rule: getattr(policy, rule) + more})
    stay, still = (
        {d.backup.name for d in decide(each, backups, now) if d.keep} for each in (policy, generous)
    )
    assert stay <= still


@tries(1500)
@given(policies, histories, clocks, clocks)
def test_pruning_more_often_leaves_the_same(
    policy: RetentionPolicy, backups: list[Backup], one: datetime, other: datetime
) -> None:
    """Also right after another, where nothing more may go."""
    before, now = sorted((one, other))
    left = [decision.backup for decision in decide(policy, backups, before) if decision.keep]
    again = [decision for decision in decide(policy, left, now) if decision.keep]
    assert again == [decision for decision in decide(policy, backups, now) if decision.keep]
    assert one != other or len(again) == len(left)


@tries(1000)
@given(policies, histories, clocks, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(
    policy: RetentionPolicy, backups: list[Backup], now: datetime, shuffler: random.Random
) -> None:
    shuffled = list(backups)
    shuffler.shuffle(shuffled)
    assert decide(policy, shuffled, now) == decide(policy, backups, now)


@tries(1000)
@given(histories, clocks)
def test_deleting_is_allowed_only_while_the_newest_backup_is_verified(
    backups: list[Backup], now: datetime
) -> None:
    mine = [each for each in backups if each.name.database == "a"]
    past = [each for each in mine if each.taken_at <= now + FUTURE_TOLERANCE]
    latest = max(past, key=lambda each: (each.taken_at, each.name), default=None)
    assert (refusal(mine, now) is None) == (latest is None or latest.state is State.VERIFIED)
