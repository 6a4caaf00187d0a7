"""Pure: which backups are kept, which expire, and why; and when nothing may be deleted at all."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice

from backup_pipeline.engine.model import Backup, KeepDecision, RetentionPolicy, State, Stray

FUTURE_TOLERANCE = timedelta(minutes=5)
"""How far the clocks of server and pruning machine may differ before a date counts as future."""


def decide(
    policy: RetentionPolicy, backups: Iterable[Backup], now: datetime
) -> tuple[KeepDecision, ...]:
    """A decision with its reason for every backup: by database, and newest first.

    A backup younger than `policy.days` stays, and so do the newest `policy.minimum` verified
    backups of each database, whatever their age.
    One dated in the future stays as well, and counts for nothing.
    """
    by_database = groupby(sorted(backups, key=_database), key=_database)
    return tuple(
        decision for _, group in by_database for decision in _decide_one(policy, tuple(group), now)
    )


def refusal(backups: Iterable[Backup], now: datetime, doubtful: Iterable[Stray] = ()) -> str | None:
    """Why nothing of one database may be deleted, or `None`.

    `doubtful` are dumps and manifests of this database that belong to no readable backup.
    One that was written after the newest backup was taken may be a newer backup that somebody
    damaged, so it stands in the way until a newer backup is verified.
    """
    latest = newest(backups, now)
    if latest and latest.state is not State.VERIFIED:
        return f"the newest backup, {latest.name}, {_standing(latest)}"
    for stray in doubtful:
        if latest is None or stray.modified_at > latest.taken_at:
            return f"{stray.key} is newer than every backup: {stray.reason}"
    return None


def newest(backups: Iterable[Backup], now: datetime) -> Backup | None:
    """The backup taken last; one dated in the future is never the newest."""
    return next(iter(newest_first(b for b in backups if not dated_in_future(b, now))), None)


def newest_first(backups: Iterable[Backup]) -> list[Backup]:
    """By the snapshot's time, and by name where two times are equal."""
    return sorted(backups, key=lambda backup: (backup.taken_at, backup.name), reverse=True)


def dated_in_future(backup: Backup, now: datetime) -> bool:
    """Whether a clock must have been wrong when the backup was taken, or is wrong now."""
    return _age(backup, now) < -FUTURE_TOLERANCE


def _decide_one(
    policy: RetentionPolicy, backups: Sequence[Backup], now: datetime
) -> Iterable[KeepDecision]:
    ordered = newest_first(backups)
    counted = (b for b in ordered if b.state is State.VERIFIED and not dated_in_future(b, now))
    protected = {backup.name for backup in islice(counted, policy.minimum)}
    for backup in ordered:
        keep, reason = _judge(policy, backup, now, backup.name in protected)
        yield KeepDecision(backup, keep, reason)


def _judge(
    policy: RetentionPolicy, backup: Backup, now: datetime, protected: bool
) -> tuple[bool, str]:
    age = _age(backup, now)
    if dated_in_future(backup, now):
        return True, "dated in the future, so some clock is wrong: kept, and counted for nothing"
    if age < timedelta(days=policy.days):
        return True, f"younger than {_days(policy.days)}"
    if protected:
        return True, f"one of the {policy.minimum} newest verified backups"
    if backup.state is State.VERIFIED:
        return False, f"{_days(age.days)} old, and {policy.minimum} newer verified ones stay"
    return False, f"{_days(age.days)} old, and {_standing(backup)}"


def _standing(backup: Backup) -> str:
    if backup.state is State.FAILED:
        return f"failed verification: {'; '.join(backup.findings) or 'no finding was recorded'}"
    return "is not verified" + (f": {'; '.join(backup.findings)}" if backup.findings else "")


def _age(backup: Backup, now: datetime) -> timedelta:
    # Subtracting within one zone would compare wall clocks, an hour off across summer time.
    return now.astimezone(UTC) - backup.taken_at.astimezone(UTC)


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _database(backup: Backup) -> str:
    return backup.name.database
