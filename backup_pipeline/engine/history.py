"""Is a backup like the ones before it? The bucket's own manifests are the history.

So a new Dagster instance, or a command line that never saw the others, judges the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.model import Backup, Manifest, State, TableRows
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import NotFound, VerificationFailed

# A table that goes from 2 rows to 5 is no news, and neither is a backup that took 3 seconds once.
_FEW_ROWS = 100
_FEW_SECONDS = 10.0
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a backup may be from the median of those before it."""

    runs: int = 7
    """How many earlier backups count."""
    change: float = 0.5
    """The fraction of the median by which size and rows may differ from it."""
    slowdown: float = 3.0
    """How many times the median a backup may take."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was expected, what was found, and a sentence about it."""

    passed: bool
    expected: float
    """The median of the earlier backups; what was found itself, where there is none."""
    actual: float
    sentence: str


def earlier_manifests(
    store: ObjectStore, keys: Keys, backups: Sequence[Backup], latest: Manifest, runs: int
) -> tuple[Manifest, ...]:
    """The manifests of up to `runs` backups taken before `latest`, newest first.

    A backup that failed verification is no example; one that vanishes meanwhile is left out.
    """
    before = [
        backup
        for backup in backups
        if backup.taken_at < latest.source.snapshot_at and backup.state is not State.FAILED
    ]
    found = (_manifest(store, keys, backup) for backup in before[:runs])
    # What others have made took nobody knows how long, and may hold something else.
    return tuple(manifest for manifest in found if manifest and not manifest.adopted)


def compare_size(latest: Manifest, earlier: Sequence[Manifest], limits: Limits) -> Comparison:
    """Is the dump about as large as it used to be?"""
    usual, size = _median([manifest.length for manifest in earlier], latest.length), latest.length
    passed = _near(size, usual, limits.change)
    return Comparison(
        passed, usual, size, _sentence("bytes", f"{size:,}", f"{usual:,.0f}", earlier, passed)
    )


def compare_duration(latest: Manifest, earlier: Sequence[Manifest], limits: Limits) -> Comparison:
    """Did the dump take about as long as it used to?"""
    took = latest.duration
    usual = _median([manifest.duration for manifest in earlier], took)
    passed = took <= max(usual * limits.slowdown, _FEW_SECONDS)
    return Comparison(
        passed, usual, took, _sentence("seconds", f"{took:,.1f}", f"{usual:,.1f}", earlier, passed)
    )


def compare_rows(latest: Manifest, earlier: Sequence[Manifest], limits: Limits) -> Comparison:
    """Does each table hold about as many rows as it used to, and are all of them there?

    `expected` and `actual` are the rows of all tables that used to be there.
    """
    now = {_table(each): each.rows for each in latest.tables}
    before = [{_table(each): each.rows for each in manifest.tables} for manifest in earlier]
    # Only what the backup before still had is missed; a table dropped last week was told then.
    usual = {
        table: median([rows[table] for rows in before if table in rows])
        for table in (before[0] if before else {})
    }
    unusual = [
        f"{table} {now.get(table, 0):,} instead of about {rows:,.0f}"
        if table in now
        else f"{table} is gone"
        for table, rows in sorted(usual.items())
        if table not in now or not _near(now[table], rows, limits.change, _FEW_ROWS)
    ]
    expected = sum(usual.values()) if usual else float(latest.rows)
    actual = sum(now.get(table, 0) for table in usual) if usual else latest.rows
    return Comparison(not unusual, expected, actual, _rows_sentence(unusual, latest, earlier))


def _rows_sentence(unusual: Sequence[str], latest: Manifest, earlier: Sequence[Manifest]) -> str:
    if unusual:
        more = len(unusual) - _MOST_NAMED
        rest = f" and {more} more" if more > 0 else ""
        return f"Unusual rows: {', '.join(unusual[:_MOST_NAMED])}{rest}."
    if not earlier:
        return f"{latest.rows:,} rows; there is no earlier backup to compare with."
    return f"The rows of each table are near the median of {_backups(earlier)}."


def _sentence(unit: str, actual: str, usual: str, earlier: Sequence[Manifest], passed: bool) -> str:
    if not earlier:
        return f"{actual} {unit}; there is no earlier backup to compare with."
    verdict = "near" if passed else "far from"
    return f"{actual} {unit}, {verdict} the median of {_backups(earlier)}, {usual}."


def _backups(earlier: Sequence[Manifest]) -> str:
    return f"{len(earlier)} earlier backups" if len(earlier) > 1 else "the backup before"


def _median(values: Sequence[float], otherwise: float) -> float:
    return float(median(values)) if values else float(otherwise)


def _near(actual: float, usual: float, change: float, ignored: float = 0) -> bool:
    return abs(actual - usual) <= max(usual * change, ignored)


def _table(table: TableRows) -> str:
    return f"{table.schema}.{table.table}"


def _manifest(store: ObjectStore, keys: Keys, backup: Backup) -> Manifest | None:
    try:
        return read_manifest(store, keys, backup.name)
    except (NotFound, VerificationFailed):
        return None
