"""Restores into a new database: other tools' and ours."""

from collections.abc import Iterator, Sequence

from benchmarks.commands import RESTORE, RESTORED, RIVALS, ours, with_jobs
from benchmarks.dumps import Dumps, made
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.rivals import PSQL
from benchmarks.servers import Servers

GUNZIP_PSQL = "gunzip | psql"
PG_RESTORE = "pg_restore -j2, -Fc"


def run(
    servers: Servers, repetitions: int, sizes: Sequence[int], jobs: Sequence[int]
) -> Iterator[Comparison]:
    """One comparison for each size of sample, in MB of SQL."""
    for size in sizes:
        database = servers.sample(size)
        with made(servers, database) as dumps:
            runs = compare(servers, database, contenders(servers, dumps, jobs), repetitions)
        yield Comparison("restores", size, runs, (GUNZIP_PSQL, PG_RESTORE))


def contenders(servers: Servers, dumps: Dumps, jobs: Sequence[int]) -> Sequence[Contender]:
    """Every way to restore; each finds the server with nothing left to write.

    Ours reads from the bucket, verifies, compares rows and analyses; the others do none of it,
    but for one that downloads.
    """
    create = f"createdb {RESTORED}"
    gunzip = f"{create} && gunzip --stdout {dumps.sql} | {' '.join(PSQL)}"
    restore = f"{create} && pg_restore --jobs=2 --dbname={RESTORED}"
    commands = {
        "download, gunzip | psql": (*RIVALS, "restore_gzip", servers.scratch),
        GUNZIP_PSQL: ("sh", "-c", gunzip),
        PG_RESTORE: ("sh", "-c", f"{restore} {dumps.archive}"),
        "pg_restore -j2, -Fd": ("sh", "-c", f"{restore} {dumps.directory}"),
    }

    def drop() -> None:
        servers.drop(RESTORED)

    return [
        *(Contender(name, argv, clean_up=drop) for name, argv in commands.items()),
        *(Contender(ours(number), RESTORE, with_jobs(number), drop) for number in jobs),
    ]
