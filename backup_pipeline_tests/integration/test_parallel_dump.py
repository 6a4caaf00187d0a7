"""Several pg_dumps of one snapshot: what they may count on, and what they leave to others."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine import plan
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import new_database

KEYS = Keys("backups/postgres/")
TABLES = """
    CREATE TABLE public.large (id serial, filler text);
    INSERT INTO public.large (filler) SELECT repeat('x', 500) FROM generate_series(1, 2000);
    CREATE TABLE public."fat in TOAST" (body text);
    ALTER TABLE public."fat in TOAST" ALTER body SET STORAGE EXTERNAL;
    INSERT INTO public."fat in TOAST" SELECT repeat('y', 1000000) FROM generate_series(1, 3);
    CREATE TABLE public.small AS SELECT 1 AS id;
    CREATE TABLE public.parted (id int) PARTITION BY RANGE (id);
    CREATE TABLE public.part_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (100000);
    INSERT INTO public.parted SELECT generate_series(0, 99999);
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def server(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(TABLES)
        yield server


def source(server: Server, postgres: EmbeddedPostgres, jobs: int = 2) -> PostgresDumpSource:
    return PostgresDumpSource(server, [postgres.bin_dir], jobs=jobs)


def test_no_table_can_be_dropped_while_its_dump_has_not_begun(
    server: Server, postgres18: EmbeddedPostgres
) -> None:
    with (
        source(server, postgres18).open_dump(),
        psycopg.connect(server.dsn, autocommit=True) as other,
    ):
        other.execute("SET lock_timeout = '100ms'")
        for table in ("large", '"fat in TOAST"', "small", "part_1", "parted"):
            with pytest.raises(LockNotAvailable):
                other.execute(f"DROP TABLE public.{table}")
        other.execute("INSERT INTO public.small VALUES (1)")


@pytest.mark.parametrize("jobs", [1, 2])
def test_owners_and_rights_are_those_of_the_snapshot_whenever_they_are_read(
    server: Server, postgres18: EmbeddedPostgres, jobs: int
) -> None:
    with (
        source(server, postgres18, jobs).open_dump() as dump,
        psycopg.connect(server.dsn, autocommit=True) as other,
    ):
        other.execute("GRANT SELECT ON public.small TO PUBLIC")
        before = dump.access()
    with source(server, postgres18, jobs).open_dump() as dump:
        (granted,) = {*dump.access()} - {*before}
    assert granted.objects == ("table public.small",)
    store, name = MemoryStore(), BackupName.of("x", now())
    manifest = back_up(source(server, postgres18, jobs), store, KEYS, name, clock=now)
    assert granted in manifest.source.access


def test_tables_are_large_by_what_they_take_on_disk_toast_and_partitions_included(
    server: Server, postgres18: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LARGE", 1_000_000)
    for jobs in (1, 2, 3, 4):
        with source(server, postgres18, jobs).open_dump() as dump:
            assert len(dump.data()) == jobs
    with source(server, postgres18, jobs=5).open_dump() as dump:
        # One for each large table, and one for all the rest.
        assert len(dump.data()) == 4


def test_jobs_are_as_many_as_the_role_has_connections_left(
    server: Server, postgres18: EmbeddedPostgres
) -> None:
    role = f"limited_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        admin.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 4 IN ROLE pg_read_all_data"
        )
        try:
            limited = Server.of(postgres18.dsn(server.database), user=role, password="p")  # noqa: S106  # for a moment, on loopback
            with source(limited, postgres18, jobs=8).open_dump() as dump:
                assert dump.jobs == 2  # the snapshot and the schema have one each
            store, name = MemoryStore(), BackupName.of("x", now())
            back_up(source(limited, postgres18, jobs=8), store, KEYS, name, clock=now)
            assert verify(store, KEYS, name, clock=now).passed
        finally:
            admin.execute(f"DROP ROLE {role}")


def test_the_coordinator_outlives_the_patience_of_the_server(
    server: Server, postgres18: EmbeddedPostgres
) -> None:
    """It idles in a transaction while pg_dump works, which many servers allow for a minute."""
    with psycopg.connect(server.dsn, autocommit=True) as other:
        other.execute(
            f'ALTER DATABASE "{server.database}" SET idle_in_transaction_session_timeout = 50'
        )
        other.execute(f'ALTER DATABASE "{server.database}" SET statement_timeout = 5000')
    store, name = MemoryStore(), BackupName.of("x", now())
    back_up(source(server, postgres18, jobs=1), store, KEYS, name, clock=now)
    assert verify(store, KEYS, name, clock=now).passed
