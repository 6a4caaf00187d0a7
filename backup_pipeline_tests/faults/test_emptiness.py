"""A database that holds nothing has a backup as good as any, and is told from one that failed."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import PostgresUnreachable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import assert_equal, drop_database, new_database

KEYS = Keys("backups/postgres/")
EMPTY_TABLES = "CREATE TABLE public.a (id integer PRIMARY KEY); CREATE TABLE public.b ()"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def empty(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(postgres18) as server:
        yield server


@pytest.mark.parametrize("tables", [0, 2], ids=["nothing", "empty tables"])
def test_nothing_is_backed_up_verified_and_restored(
    empty: Server, postgres18: EmbeddedPostgres, tables: int
) -> None:
    if tables:
        with empty.connect() as connection:
            connection.execute(EMPTY_TABLES)
    store, name = MemoryStore(), BackupName.of("shop", now())
    source = PostgresDumpSource(empty, [postgres18.bin_dir])
    back_up(source, store, KEYS, name, clock=now)
    assert verify(store, KEYS, name, clock=now).passed
    (backup,) = read_catalog(store, KEYS).backups
    assert (backup.state, backup.rows, backup.tables) == (State.VERIFIED, 0, tables)
    assert backup.size > 0
    target = f"{empty.database}_again"
    try:
        restore(store, KEYS, name, empty, target, clock=now)
        assert_equal(postgres18, empty, empty.using(target))
    finally:
        drop_database(postgres18, target)


def test_a_database_that_can_not_be_read_leaves_no_such_backup(
    empty: Server, postgres18: EmbeddedPostgres
) -> None:
    store, name = MemoryStore(), BackupName.of("shop", now())
    gone = PostgresDumpSource(empty.using("no_such_database"), [postgres18.bin_dir])
    with pytest.raises(PostgresUnreachable, match="no_such_database"):
        back_up(gone, store, KEYS, name, clock=now)
    assert store.objects == {}
