"""By calculation, not measured: what databases would take that are too large for a benchmark."""

from collections.abc import Iterator, Sequence

from backup_pipeline.engine.upload import MOST_PARTS, SMALLEST_PART, part_size
from benchmarks.measure import Comparison, median

TERABYTES = (1, 10)
_LANES = 2
_VERBS = ("backup", "verify", "restore")


def rows(sizes: Sequence[Comparison]) -> list[list[str]]:
    """From the largest database that was measured, at its speed and with its compression."""
    largest = sizes[-1]
    hours = [f"{verb}, hours" for verb in _VERBS]
    heading = ["SQL, TB", "stored, GB", "parts", "largest part, MiB", "parts in memory, MiB"]
    return [[*heading, *hours], *(_row(largest, each) for each in TERABYTES)]


def _row(largest: Comparison, terabytes: int) -> list[str]:
    times = terabytes * 10**6 / largest.size
    stored = round(largest.facts["stored_bytes"] * times)
    parts = list(_parts(stored // _LANES))
    # Each lane fills one, and one for each lane and one more are on their way.
    in_memory = (2 * _LANES + 1) * max(parts)
    hours = [median(largest.runs[verb], "seconds") * times / 3600 for verb in _VERBS]
    return [
        str(terabytes),
        f"{stored / 10**9:,.0f}",
        f"{_LANES * len(parts):,}",
        f"{max(parts) / 2**20:,.0f}",
        f"{in_memory / 2**20:,.0f}",
        *(f"{each:.1f}" for each in hours),
    ]


def _parts(lane: int) -> Iterator[int]:
    """The parts of one of the lanes, where the size of the database told how much to expect."""
    offset, smallest = 0, max(SMALLEST_PART, 2 * _LANES * lane // MOST_PARTS)
    while offset < lane:
        size = min(part_size(offset, smallest, MOST_PARTS // _LANES), lane - offset)
        yield size
        offset += size
