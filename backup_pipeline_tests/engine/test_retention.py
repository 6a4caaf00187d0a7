"""Retention: what stays, what goes, and the sentence that says why."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    )


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


def test_unverified_and_failed_backups_do_not_count_among_the_minimum() -> None:
    failed = backup(8, State.FAILED, findings=("one bit is flipped",))
    backups = [failed, backup(9, State.UNVERIFIED), backup(20), backup(21), backup(22)]
    decisions = decide(WEEK, backups, NOW)
    assert [decision.keep for decision in decisions] == [False, False, True, True, True]
    assert decisions[0].reason == "8 days old, and failed verification: one bit is flipped"
    assert decisions[1].reason == "9 days old, and is not verified"


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


ages = st.sampled_from([-3.0, -0.01, 0.0, 0.5, 1.0, 2.0, 3.0, 6.999, 7.0, 8.0, 30.0])
histories = st.lists(
    st.tuples(ages, st.sampled_from(State), st.sampled_from(["a", "b"])), max_size=25
).map(
    lambda rows: [
        backup(age, state, database=database, number=number)
        for number, (age, state, database) in enumerate(rows)
    ]
)
policies = st.builds(
    RetentionPolicy, days=st.integers(0, 10), minimum=st.integers(min_value=0, max_value=5)
)


def model(policy: RetentionPolicy, backups: Sequence[Backup]) -> set[BackupName]:
    """The rules once more, as naively as they can be said."""
    stay = set()
    for one in backups:
        future = one.taken_at > NOW + FUTURE_TOLERANCE
        young = NOW - one.taken_at < timedelta(days=policy.days)
        better = [
            other
            for other in backups
            if other.name.database == one.name.database
            and other.state is State.VERIFIED
            and other.taken_at <= NOW + FUTURE_TOLERANCE
            and (other.taken_at, other.name) > (one.taken_at, one.name)
        ]
        minimum = one.state is State.VERIFIED and len(better) < policy.minimum
        if future or young or minimum:
            stay.add(one.name)
    return stay


@given(policies, histories)
def test_the_decisions_are_those_of_the_naive_model(
    policy: RetentionPolicy, backups: list[Backup]
) -> None:
    decisions = decide(policy, backups, NOW)
    assert {d.backup.name for d in decisions if d.keep} == model(policy, backups)
    assert len(decisions) == len(backups)
    assert all(decision.reason for decision in decisions)


@given(policies, histories)
def test_never_fewer_verified_backups_stay_than_the_minimum(
    policy: RetentionPolicy, backups: list[Backup]
) -> None:
    stay = kept(policy, backups)
    for database in ("a", "b"):
        verified = [b for b in backups if b.name.database == database and not b.taken_at > NOW]
        verified = [b for b in verified if b.state is State.VERIFIED]
        assert len([b for b in stay if b in verified]) >= min(policy.minimum, len(verified))


@given(policies, histories)
def test_nothing_younger_than_the_days_goes(policy: RetentionPolicy, backups: list[Backup]) -> None:
    gone = [d.backup for d in decide(policy, backups, NOW) if not d.keep]
    assert all(NOW - b.taken_at >= timedelta(days=policy.days) for b in gone)


@given(policies, histories, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(
    policy: RetentionPolicy, backups: list[Backup], shuffler: random.Random
) -> None:
    shuffled = list(backups)
    shuffler.shuffle(shuffled)
    assert decide(policy, shuffled, NOW) == decide(policy, backups, NOW)
