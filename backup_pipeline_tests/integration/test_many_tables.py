"""More tables than the server can lock for several pg_dumps: a backup is made nevertheless."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.contents import read_contents
from backup_pipeline.engine.diagnosis_server import of_server
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.findings import Level
from backup_pipeline.engine.locks import LockRoom
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import SECURITY_MINIMUMS, Server
from backup_pipeline.errors import PostgresFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import new_database

KEYS = Keys("backups/postgres/")
# Room for 2,000 locks, and for about as many in what a server of this size keeps in reserve.
LOCKS = 10
TOO_MANY = 2000
"""One pg_dump can lock them, three can't."""
SOME = 600
"""Two can lock them and leave something to others, three can't."""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def narrow() -> Iterator[EmbeddedPostgres]:
    """A server that keeps few locks in mind."""
    with (
        tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory,
        EmbeddedPostgres(Path(directory, "postgres"), durable=False) as postgres,
    ):
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET max_locks_per_transaction = {LOCKS}")
        postgres.stop()
        postgres.start()
        yield postgres


@contextmanager
def with_tables(postgres: EmbeddedPostgres, number: int) -> Iterator[Server]:
    with new_database(postgres) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            for start in range(0, number, 100):
                # In one transaction for all of them they would not fit either.
                connection.execute(
                    f"""DO $$ BEGIN FOR i IN {start}..{min(start + 99, number - 1)} LOOP
                    EXECUTE format('CREATE TABLE t%s AS SELECT %s AS id', i, i); END LOOP; END $$"""
                )
        yield server


@pytest.fixture(scope="module")
def too_many(narrow: EmbeddedPostgres) -> Iterator[Server]:
    with with_tables(narrow, TOO_MANY) as server:
        yield server


def source(server: Server, postgres: EmbeddedPostgres) -> PostgresDumpSource:
    return PostgresDumpSource(server, [postgres.bin_dir], jobs=2)


def test_one_pg_dump_after_the_other_reads_what_several_can_not_lock(
    too_many: Server, narrow: EmbeddedPostgres
) -> None:
    store, name = MemoryStore(), BackupName.of("x", now())
    manifest = back_up(source(too_many, narrow), store, KEYS, name, clock=now)
    assert len(manifest.contents.tables) == TOO_MANY
    assert manifest.source.access
    (remark,) = manifest.remarks
    assert remark.startswith("one pg_dump after the other has read it: ")
    assert "2,000 tables while max_locks_per_transaction is 10; 40 is enough" in remark
    proof = drill(store, KEYS, name, too_many, [narrow.bin_dir], jobs=2, clock=now)
    assert proof.entry.findings == ()


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE t7",
        "DROP TABLE t7",
        "ALTER TABLE t7 RENAME TO t; ALTER TABLE t8 RENAME TO t7; ALTER TABLE t RENAME TO t8",
        "ALTER TABLE t7 ALTER id TYPE bigint",
    ],
    ids=["emptied", "dropped", "renamed", "rewritten"],
)
def test_a_table_that_nobody_held_may_not_have_moved(
    narrow: EmbeddedPostgres, too_many: Server, change: str
) -> None:
    """A snapshot shows a table as empty that was emptied after it: that would be a lost table."""
    with (
        source(too_many, narrow).open_dump() as dump,
        psycopg.connect(too_many.dsn, autocommit=True) as meddler,
    ):
        meddler.execute("CREATE TABLE kept_7 AS TABLE t7; CREATE TABLE kept_8 AS TABLE t8")
        try:
            meddler.execute(change)
            moved = r'public\.t[78](" does not exist| was dropped)'
            with pytest.raises(PostgresFailed, match=moved):
                read_contents(dump)
        finally:
            meddler.execute("DROP TABLE IF EXISTS t7, t8")
            meddler.execute("ALTER TABLE kept_7 RENAME TO t7")
            meddler.execute("ALTER TABLE kept_8 RENAME TO t8")


def test_the_coordinator_locks_where_that_leaves_room(narrow: EmbeddedPostgres) -> None:
    with with_tables(narrow, SOME) as server, source(server, narrow).open_dump() as dump:
        assert dump.jobs == 1
        with psycopg.connect(server.dsn, autocommit=True) as other:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(LockNotAvailable):
                other.execute("DROP TABLE t7")
        assert len(read_contents(dump).tables) == SOME


def test_check_says_beforehand_that_several_can_not_lock_them(
    narrow: EmbeddedPostgres, too_many: Server
) -> None:
    for server, level in ((too_many, Level.WARN), (too_many.using("postgres"), None)):
        found = of_server(server, [narrow.bin_dir], SECURITY_MINIMUMS, now)
        levels = {finding.subject: finding.level for finding in found}
        assert levels.get("locks") == level


def test_the_setting_that_is_named_is_the_smallest_that_is_enough() -> None:
    assert LockRoom(tables=10_000, setting=200, sessions=100).shortage() is None
    shortage = LockRoom(tables=10_000, setting=199, sessions=100).shortage()
    assert shortage is not None
    assert shortage.endswith("is 199; 200 is enough")
