"""What a diagnosis finds: one thing that was looked at, how bad it is, and what to do about it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from backup_pipeline.errors import BackupPipelineError, StoreError

SKEW_WRONG = timedelta(minutes=15)
"""Where S3 stops to accept signatures, and dates stop to mean anything."""
SKEW_ODD = timedelta(minutes=1)
_SHOWN = 5
_ITS_LOG = "The message is what it answered; its own log says more."


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    message: str
    advice: str = ""
    """What to do, where something is wrong."""
    exit_code: int = 0
    """What the command line ends with if this is the first failure."""


def failure(
    subject: str, error: BackupPipelineError, *, exit_code: int | None = None, advice: str = ""
) -> Finding:
    """An error as a finding, with its own exit code and hint where no others are given."""
    code = error.exit_code if exit_code is None else exit_code
    return Finding(subject, Level.FAIL, error.message, advice or hint_of(error), code)


def hint_of(error: BackupPipelineError) -> str:
    """The hint of an error, unless it leads to the very place where it is read."""
    elsewhere = (StoreError.default_hint, BackupPipelineError.default_hint)
    return _ITS_LOG if error.hint in elsewhere else error.hint


def skew(subject: str, there: datetime, here: datetime) -> Finding:
    """Two clocks compared."""
    difference = there.astimezone(UTC) - here.astimezone(UTC)
    seconds = abs(difference).total_seconds()
    way = "ahead of" if difference > timedelta(0) else "behind"
    message = f"{seconds:.0f} s {way} this machine's"
    advice = "Let every machine keep its time by NTP."
    if abs(difference) > SKEW_WRONG:
        return Finding(subject, Level.FAIL, message, advice, exit_code=1)
    if abs(difference) > SKEW_ODD:
        return Finding(subject, Level.WARN, message, advice)
    return Finding(subject, Level.OK, "agrees with this machine's")


def few(names: list[str]) -> str:
    """The first of many names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
