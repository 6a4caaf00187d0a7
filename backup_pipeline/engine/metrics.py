"""Metrics: what the catalog says, as Prometheus takes it.

Times are moments and no ages, so that whoever reads an old file knows how old it is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge

from backup_pipeline.engine.model import Backup, Catalog, State
from backup_pipeline.engine.retention import newest

_PREFIX = "backup_pipeline"


class _Metric(NamedTuple):
    """One number of a database."""

    name: str
    means: str
    value: float


def metrics_of(catalog: Catalog, databases: Iterable[str], now: datetime) -> CollectorRegistry:
    """The metrics of every database that has backups, and of these `databases` in any case.

    What never was is 0: a moment so long ago that each alarm goes off.
    A backup dated in the future counts among the backups, and is never the newest.
    """
    registry = CollectorRegistry()
    counts = Gauge(
        f"{_PREFIX}_backups",
        "Backups in the bucket, by what is known of them.",
        ["database", "state"],
        registry=registry,
    )
    strays = Gauge(
        f"{_PREFIX}_strays", "Objects under the prefix that belong to no backup.", registry=registry
    )
    strays.set(len(catalog.strays))
    gauges: dict[str, Gauge] = {}
    for database in sorted({*databases, *(each.name.database for each in catalog.backups)}):
        backups = [each for each in catalog.backups if each.name.database == database]
        by_state = Counter(each.state for each in backups)
        for state in State:
            counts.labels(database, state).set(by_state[state])
        for name, means, value in _of_database(backups, now):
            if name not in gauges:
                gauges[name] = Gauge(f"{_PREFIX}_{name}", means, ["database"], registry=registry)
            gauges[name].labels(database).set(value)
    return registry


def _of_database(backups: list[Backup], now: datetime) -> Iterator[_Metric]:
    last = newest(backups, now)
    verified = newest((each for each in backups if each.state is State.VERIFIED), now)
    proved = max(
        (each for each in backups if each.restored_at),
        key=lambda each: each.restored_at or now,
        default=None,
    )
    yield _Metric(
        "newest_timestamp_seconds",
        "When the newest backup was taken.",
        last.taken_at.timestamp() if last else 0,
    )
    yield _Metric(
        "newest_verified_timestamp_seconds",
        "When the newest verified backup was taken.",
        verified.taken_at.timestamp() if verified else 0,
    )
    yield _Metric(
        "newest_drill_timestamp_seconds",
        "When a backup that is still there was last restored and found equal.",
        proved.restored_at.timestamp() if proved and proved.restored_at else 0,
    )
    yield _Metric(
        "recovery_seconds", "How long that took.", (proved and proved.recovery_seconds) or 0
    )
    yield _Metric(
        "newest_size_bytes", "What the newest backup takes in the bucket.", last.size if last else 0
    )
    yield _Metric("newest_sql_bytes", "Its SQL.", last.raw_length if last else 0)
    yield _Metric("newest_rows", "Its rows.", last.rows if last else 0)
    yield _Metric("newest_duration_seconds", "How long it took.", last.duration if last else 0)
