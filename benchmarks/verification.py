"""Is a stored backup whole? What `gunzip --test` takes to say so, and what ours takes."""

from collections.abc import Iterator, Sequence

from benchmarks.commands import RIVALS, VERIFY, ours, with_jobs
from benchmarks.dumps import Dumps, made
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.servers import Servers

GUNZIP = "gunzip -t"
DOWNLOAD = "download, gunzip -t"


def run(
    servers: Servers, repetitions: int, sizes: Sequence[int], jobs: Sequence[int]
) -> Iterator[Comparison]:
    """One comparison for each size of sample, in MB of SQL."""
    for size in sizes:
        database = servers.sample(size)
        with made(servers, database, archives=False) as dumps:
            runs = compare(servers, database, contenders(servers, dumps, jobs), repetitions)
        yield Comparison("verification", size, runs, (GUNZIP, DOWNLOAD))


def contenders(servers: Servers, dumps: Dumps, jobs: Sequence[int]) -> Sequence[Contender]:
    """gunzip, from the bucket and from the disk, and ours, which reads from the bucket."""
    return [
        Contender(DOWNLOAD, (*RIVALS, "test_gzip", servers.scratch)),
        Contender(GUNZIP, ("gunzip", "--test", dumps.sql)),
        *(Contender(ours(number), VERIFY, with_jobs(number)) for number in jobs),
    ]
