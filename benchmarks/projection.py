"""By calculation, not measured: what databases would take that are too large for a benchmark."""

from collections.abc import Iterator, Sequence

from backup_pipeline.engine.upload import IN_FLIGHT, part_size
from benchmarks.measure import Comparison, median

TERABYTES = (1, 10)
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
    parts = list(_parts(stored))
    # One that is being filled, and those on their way: at least one, whatever its size.
    in_memory = parts[-2] + max(IN_FLIGHT, parts[-2])
    hours = [median(largest.runs[verb], "seconds") * times / 3600 for verb in _VERBS]
    return [
        str(terabytes),
        f"{stored / 10**9:,.0f}",
        f"{len(parts):,}",
        f"{max(parts) / 2**20:,.0f}",
        f"{in_memory / 2**20:,.0f}",
        *(f"{each:.1f}" for each in hours),
    ]


def _parts(stored: int) -> Iterator[int]:
    offset = 0
    while offset < stored:
        size = min(part_size(offset), stored - offset)
        yield size
        offset += size
