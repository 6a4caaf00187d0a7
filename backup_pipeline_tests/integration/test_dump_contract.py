"""What every source of dumps promises: the fake in memory and a real PostgreSQL alike."""

from datetime import UTC, datetime

import pytest

from backup_pipeline.defs.resources import Databases, PostgresResource
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import DumpSource, read_stream
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import Section
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.script import CLOSING_LINE_OF_GLOBALS, Tail
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakePostgres

KEYS = Keys("backups/postgres/")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=["fake", "real"])
def databases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Databases:
    """A server as the assets know one."""
    if request.param == "fake":
        return FakePostgres()
    postgres = request.getfixturevalue("postgres")
    assert isinstance(postgres, EmbeddedPostgres)
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(postgres.bin_dir))
    return PostgresResource(dsn=postgres.dsn())


@pytest.fixture
def name(sample_database: str) -> str:
    """A database that the real server has; the fake has every one."""
    return sample_database


@pytest.fixture
def source(databases: Databases, name: str) -> DumpSource:
    """One of its databases."""
    return databases.dump_source(name)


def test_it_says_what_it_is_that_it_dumps(source: DumpSource, name: str) -> None:
    with source.open_dump() as dump:
        assert dump.source.database == name
        assert dump.source.snapshot_at.utcoffset() is not None
        assert dump.source.server_version_num // 10000 == int(dump.pg_dump_version.split(".")[0])


def test_its_data_is_whole_and_holds_rows(source: DumpSource) -> None:
    with source.open_dump() as dump:
        rows = Inventory(dump.source.encoding)
        for stream in dump.data():
            for chunk in read_stream(stream, Section.DATA):
                rows.feed(chunk)
        rows.close()
        assert sum(table.rows for table in rows.take_tables()) > 0


def test_its_schema_is_three_whole_scripts_and_an_archive(source: DumpSource) -> None:
    with source.open_dump() as dump:
        schema = dump.schema()
        for text in (schema.drops, schema.pre_data, schema.post_data):
            tail = Tail()
            tail.feed(text)
            assert tail.closed
        assert schema.archive.startswith(b"PGDMP")


@pytest.mark.parametrize("passwords", [True, False])
def test_its_globals_are_a_whole_script_with_passwords_or_without(
    source: DumpSource, passwords: bool
) -> None:
    with source.open_dump() as dump:
        script, tail = dump.globals(passwords=passwords), Tail(CLOSING_LINE_OF_GLOBALS)
        tail.feed(script)
        assert tail.closed
        assert b"CREATE ROLE " in script
        assert (b"PASSWORD 'SCRAM-SHA-256$" in script) == passwords


def test_it_can_be_dumped_again_and_each_backup_is_whole(source: DumpSource, name: str) -> None:
    store = MemoryStore()
    for minute in (1, 2):
        backup = BackupName.of(name, datetime(2025, 12, 16, 23, minute, tzinfo=UTC))
        back_up(source, store, KEYS, backup, clock=now)
        assert verify(store, KEYS, backup, clock=now).passed


def test_its_server_is_connected_to_the_database_that_is_asked_for(databases: Databases) -> None:
    assert databases.server("orders").database == "orders"
