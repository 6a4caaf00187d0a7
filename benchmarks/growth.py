"""How the cost grows with the size of a database, and with the number of its tables."""

from collections.abc import Iterator, Sequence

import psycopg

from benchmarks.backups import PG_DUMP
from benchmarks.commands import BARE, DUMP_ALONE, NO_DIGESTS, RESTORE, RESTORED, VERIFY
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.servers import Servers

_AT_ONCE = 500
"""Tables in one transaction, which holds a lock for each of them and for what they own."""


def run_sizes(servers: Servers, repetitions: int, sizes: Sequence[int]) -> Iterator[Comparison]:
    """Back up, verify and restore samples of so many MB of SQL, with the default jobs."""

    def drop() -> None:
        servers.drop(RESTORED)

    contenders = [
        Contender(PG_DUMP, BARE),
        Contender("backup", DUMP_ALONE),
        Contender("verify", VERIFY),
        Contender("restore", RESTORE, clean_up=drop),
    ]
    for size in sizes:
        runs = compare(servers, servers.sample(size), contenders, repetitions)
        yield Comparison("sizes", size, runs, facts={"stored_bytes": servers.largest_object()})
        servers.empty_bucket()


def run_tables(servers: Servers, repetitions: int, counts: Sequence[int]) -> Iterator[Comparison]:
    """Back up databases with so many small tables, with the default jobs."""
    empty = servers.empty_bucket
    contenders = [
        Contender(PG_DUMP, BARE),
        Contender("backup", DUMP_ALONE, clean_up=empty),
        Contender("backup, no digests", DUMP_ALONE, NO_DIGESTS, empty),
    ]
    for count in counts:
        database = f"tables_{count}"
        _make_tables(servers, database, count)
        runs = compare(servers, database, contenders, repetitions)
        yield Comparison("tables", count, runs, (PG_DUMP,))
        servers.drop(database)


def _make_tables(servers: Servers, database: str, count: int) -> None:
    with psycopg.connect(servers.postgres.dsn(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{database}"')
    with psycopg.connect(servers.postgres.dsn(database)) as connection:
        for first in range(0, count, _AT_ONCE):
            connection.execute(_TABLES.format(first, min(first + _AT_ONCE, count) - 1))
            connection.commit()
    with psycopg.connect(servers.postgres.dsn(database), autocommit=True) as connection:
        connection.execute("ANALYZE")


_TABLES = """
    DO $$ BEGIN
        FOR n IN {}..{} LOOP
            EXECUTE format('CREATE TABLE table_%s (id integer PRIMARY KEY, name text NOT NULL,
                                made_at timestamptz DEFAULT now())', n);
            EXECUTE format('INSERT INTO table_%s SELECT i, ''row '' || i
                            FROM generate_series(1, 20) AS i', n);
        END LOOP;
    END $$
"""
