"""Backups into the bucket: other tools' and ours."""

from collections.abc import Iterator, Sequence

from benchmarks.commands import BARE, DUMP_ALONE, NO_DIGESTS, OURS, RIVALS, ours, with_jobs
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.servers import Servers

OLD_SCRIPT = "pg_dump | gzip, upload"
PG_DUMP = "pg_dump > /dev/null"


def run(
    servers: Servers, repetitions: int, sizes: Sequence[int], jobs: Sequence[int]
) -> Iterator[Comparison]:
    """One comparison for each size of sample, in MB of SQL."""
    for size in sizes:
        database = servers.sample(size)
        runs = compare(servers, database, contenders(servers, jobs), repetitions)
        yield Comparison("backups", size, runs, (OLD_SCRIPT, PG_DUMP))


def contenders(servers: Servers, jobs: Sequence[int]) -> Sequence[Contender]:
    """Every way to make a backup; each finds an empty bucket.

    Ours is compared without the verification and the prune that its command goes on with, since
    the others do neither; the whole command stands beside it.
    """
    empty = servers.empty_bucket
    rivals = {
        OLD_SCRIPT: "dump_gzip",
        "pg_dump -Fc, upload": "dump_custom",
        "pg_dump -Fd -j2, upload": "dump_directory",
    }
    alone = {ours(number): with_jobs(number) for number in jobs}
    alone |= {f"{name}, no digests": {**env, **NO_DIGESTS} for name, env in alone.items()}
    return [
        *(
            Contender(name, (*RIVALS, rival, servers.scratch), clean_up=empty)
            for name, rival in rivals.items()
        ),
        Contender(PG_DUMP, BARE),
        *(Contender(name, DUMP_ALONE, env, empty) for name, env in alone.items()),
        Contender("ours, with verify and prune", (OURS, "backup"), clean_up=empty),
    ]
