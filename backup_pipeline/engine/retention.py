"""Pure: which backups are kept, which expire, and why; and when nothing may be deleted at all."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice

from backup_pipeline.engine.model import Backup, KeepDecision, RetentionPolicy, State, Stray
from backup_pipeline.engine.names import BackupName

FUTURE_TOLERANCE = timedelta(minutes=5)
"""How far the clocks of server and pruning machine may differ before a date counts as future."""


def decide(
    policy: RetentionPolicy, backups: Iterable[Backup], now: datetime
) -> tuple[KeepDecision, ...]:
    """A decision with its reason for every backup: by database, and newest first.

    A pinned backup stays, and so does one younger than `policy.days`.
    Of the verified ones of each database the newest `policy.minimum` stay, and the newest of each
    day, week, month and year that the policy asks for.
    One that is not verified takes nobody's place, and stays where it would if it were: a bucket
    that was copied has objects that nobody has looked at.
    One dated in the future stays as well, and counts for nothing.
    The reason is the strongest of those that hold.
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
    for stray in may_be_newer(latest, doubtful):
        return f"{stray.key} is newer than every backup: {stray.reason}"
    return None


def may_be_newer(backup: Backup | None, doubtful: Iterable[Stray]) -> list[Stray]:
    """Those of the `doubtful` that may be a backup taken after this one."""
    # Many a store tells the time of an object in whole seconds, those that have passed.
    since = backup.taken_at.replace(microsecond=0) if backup else None
    return [stray for stray in doubtful if since is None or stray.modified_at >= since]


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
    whole = [b for b in ordered if b.state is not State.FAILED and not dated_in_future(b, now)]
    would_be = _reasons(policy, whole)
    reasons = {
        backup.name: f"not verified; if it were, {would_be[backup.name]}"
        for backup in whole
        if backup.name in would_be
    }
    reasons |= _reasons(policy, [b for b in whole if b.state is State.VERIFIED])
    for backup in ordered:
        keep, reason = _judge(policy, backup, now, reasons.get(backup.name))
        yield KeepDecision(backup, keep, reason)


def _reasons(policy: RetentionPolicy, counted: Sequence[Backup]) -> dict[BackupName, str]:
    """Why backups, which come newest first, stay however old they are if they are verified."""
    reasons = {
        backup.name: f"one of the {policy.minimum} newest verified backups"
        for backup in counted[: policy.minimum]
    }
    for rule, count, form in _calendar(policy):
        newest_of: dict[str, Backup] = {}
        for backup in counted:
            newest_of.setdefault(backup.taken_at.astimezone(policy.zone).strftime(form), backup)
        for number, (period, backup) in enumerate(islice(newest_of.items(), count), start=1):
            reason = f"the newest verified backup of {period} ({rule}, {number} of {count})"
            reasons.setdefault(backup.name, reason)
    return reasons


def _calendar(policy: RetentionPolicy) -> Iterator[tuple[str, int, str]]:
    """The rules in use and how each writes its periods; the one that keeps longest goes first."""
    rules = (
        ("yearly", policy.yearly, "%Y"),
        ("monthly", policy.monthly, "%Y-%m"),
        ("weekly", policy.weekly, "%G-W%V"),
        ("daily", policy.daily, "%Y-%m-%d"),
    )
    return (rule for rule in rules if rule[1])


def _judge(
    policy: RetentionPolicy, backup: Backup, now: datetime, ruled: str | None
) -> tuple[bool, str]:
    age = _age(backup, now)
    if backup.pin is not None:
        return True, f"pinned: {backup.pin}" if backup.pin else "pinned"
    if dated_in_future(backup, now):
        return True, "dated in the future, so some clock is wrong: kept, and counted for nothing"
    if age < timedelta(days=policy.days):
        return True, f"younger than {_days(policy.days)}"
    if ruled:
        return True, ruled
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
