"""Pure: which tables get a pg_dump of their own, so that several can be dumped at once."""

from collections.abc import Mapping
from heapq import heappop, heappush

MIB = 1 << 20
Table = tuple[str, str]
"""Schema and name."""

LARGE = 16 * MIB
"""A smaller table is not worth a pg_dump, which reads the whole catalog of the database first."""
_EACH = 4
"""So many groups for each job even out what sizes on disk don't tell."""
_MOST_TABLES = 1000
"""Each table is an argument, and pg_dump looks each one up by a query of its own."""


def plan(sizes: Mapping[Table, int], jobs: int) -> tuple[tuple[Table, ...], ...]:
    """Groups of large tables, the largest first, to be dumped one group at a time by each job.

    `sizes` are bytes on disk, TOAST included.
    What is in no group is dumped together; with one job that is everything.
    The groups are as even as whole tables allow: each next table goes where least is so far.
    """
    if jobs < 2:
        return ()
    large = sorted((t for t in sizes if sizes[t] >= LARGE), key=lambda t: (-sizes[t], t))
    large = large[:_MOST_TABLES]
    heap = [(0, number) for number in range(min(len(large), _EACH * jobs))]
    groups: list[list[Table]] = [[] for _ in heap]
    for table in large:
        size, number = heappop(heap)
        groups[number].append(table)
        heappush(heap, (size + sizes[table], number))
    groups.sort(key=lambda group: -sum(sizes[table] for table in group))
    return tuple(map(tuple, groups))
