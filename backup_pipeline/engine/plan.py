"""Pure: which tables are dumped by which of several pg_dumps at once."""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush

MIB = 1 << 20
Table = tuple[str, str]
"""Schema and name."""

LARGE = 16 * MIB
"""A smaller table is not worth a pg_dump, which reads the whole catalog of the database first."""
_MOST_TABLES = 1000
"""Each table is an argument, and pg_dump looks each one up by a query of its own."""


def plan(sizes: Mapping[Table, int], jobs: int) -> tuple[tuple[Table, ...], ...]:
    """Groups of large tables, one for each job but one; that one dumps all the rest.

    `sizes` are bytes on disk, TOAST included.
    The jobs are as even as whole tables allow: each next table goes where least is so far.
    There are no more groups than that, because all begin at once (see `PostgresDump`).
    """
    large = sorted((t for t in sizes if sizes[t] >= LARGE), key=lambda t: (-sizes[t], t))
    large = large[:_MOST_TABLES]
    rest = sum(sizes.values()) - sum(sizes[table] for table in large)
    heap = [(rest, 0), *((0, number) for number in range(1, jobs))]
    heapify(heap)
    groups: list[list[Table]] = [[] for _ in heap]
    for table in large:
        size, number = heappop(heap)
        groups[number].append(table)
        heappush(heap, (size + sizes[table], number))
    # What has come to the first stays with the rest.
    return tuple(tuple(group) for group in groups[1:] if group)
