"""Numbers and times in the words of people."""

from datetime import UTC, datetime, timedelta, tzinfo

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_SPANS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def size(count: int) -> str:
    """Bytes with three digits: `12.3 MB`; units are decimal."""
    if count < 1000:
        return f"{count} B"
    amount, units = float(count), iter(_UNITS)
    unit = "B"
    while amount >= 999.5:
        amount, unit = amount / 1000, next(units)
    return f"{amount:.{0 if amount >= 99.95 else 1}f} {unit}"


def age(span: timedelta) -> str:
    """How long ago: `3 hours`; `in 2 days` for what is still to come."""
    if span < timedelta(0):
        return f"in {age(-span)}"
    seconds = int(span.total_seconds())
    for length, unit in _SPANS:
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def seconds(count: float) -> str:
    """A duration: `0.4 s`, `2 min 05 s`."""
    if count < 59.95:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    return f"{minutes} min {rest:02} s"


def local(moment: datetime, zone: tzinfo) -> str:
    """A time with the zone's name: `2025-12-16 23:00:00 CET`."""
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def local_and_utc(moment: datetime, zone: tzinfo) -> str:
    """A time here and in UTC."""
    return f"{local(moment, zone)} ({moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"


def iso(moment: datetime) -> str:
    """A time for programs: `2025-12-16T22:00:00Z`."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
