"""Tables whose rows or columns stand elsewhere after a restore: all of them come back, as equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine import members, plan
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.drill import DrillResult, drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Manifest, Progress, Report, silent
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.selection import Selection, restore_selection
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.sync import sync
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database

KEYS = Keys("backups/postgres/")

# The hash of an enum's value is that of its OID, which no restore keeps: pg_dump writes such rows
# under the name of the root, and they may come back in another partition.
BY_HASH_OF_AN_ENUM = """
    CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l');
    CREATE TABLE moods (mood mood, n int, id serial) PARTITION BY HASH (mood);
    CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    -- Its columns stand in another order, and so do those of a row that comes back elsewhere.
    CREATE TABLE moods_2 (id int NOT NULL, n int, mood mood);
    ALTER TABLE moods ATTACH PARTITION moods_2 FOR VALUES WITH (MODULUS 3, REMAINDER 2);
    INSERT INTO moods (mood, n)
    SELECT (enum_range(NULL::mood))[1 + i % 12], i FROM generate_series(1, 6000) AS i;
    CREATE INDEX moods_n ON moods (n);

    CREATE TABLE mixed (mood mood, n int) PARTITION BY RANGE (n);
    CREATE TABLE mixed_plain PARTITION OF mixed FOR VALUES FROM (0) TO (1000);
    CREATE TABLE mixed_moods PARTITION OF mixed FOR VALUES FROM (1000) TO (9000)
    PARTITION BY HASH (mood);
    CREATE TABLE mixed_moods_0 PARTITION OF mixed_moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE mixed_moods_1 PARTITION OF mixed_moods FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO mixed
    SELECT (enum_range(NULL::mood))[1 + i % 12], i FROM generate_series(1, 6000) AS i;

    CREATE TABLE other (id int);
    INSERT INTO other SELECT generate_series(1, 3000);
"""
# Whoever gives a parent a column, or an heir to a parent, has it behind the heir's own columns;
# a restore puts those of the parent first.
HEIRS = """
    CREATE TABLE parent (id int, name text);
    CREATE TABLE heir (extra text, more numeric) INHERITS (parent);
    ALTER TABLE parent ADD later text DEFAULT E'tab\\there';
    INSERT INTO heir SELECT i, 'name ' || i, 'extra', i / 7.0 FROM generate_series(1, 500) AS i;
    CREATE TABLE adopted ("some, ""text" text, later text, double int GENERATED ALWAYS AS (id * 2)
    STORED, name text, gone int, id int);
    ALTER TABLE adopted DROP gone;
    ALTER TABLE adopted INHERIT parent;
    INSERT INTO adopted ("some, ""text", name, id) VALUES (E'back\\\\slash', NULL, 7), ('', 'x', 8);
    CREATE TABLE grandchild (own date) INHERITS (heir, adopted);
    ALTER TABLE heir ADD latest int;
    INSERT INTO grandchild (id, own, latest) VALUES (1, '2026-01-01', 2);
"""


def now() -> datetime:
    return datetime.now(UTC)


def run(server: Server, script: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(script)


def meddling(postgres: EmbeddedPostgres, script: str) -> Report:
    """Changes the restored copy once it is loaded."""

    def report(progress: Progress) -> None:
        if progress.stage == "compare":
            (scratch,) = [name for name in databases(postgres) if "_restoring_" in name]
            run(Server.of(postgres.dsn(scratch)), script)

    return report


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is large: it has a pg_dump of its own, and more than one member."""
    monkeypatch.setattr(plan, "LARGE", 1)
    monkeypatch.setattr(members, "_ENOUGH", 1 << 10)
    monkeypatch.setattr(members, "_TOO_MUCH", 1 << 13)


@contextmanager
def with_moods(postgres: EmbeddedPostgres) -> Iterator[Server]:
    """Partitions by the hash of an enum; whatever is restored beside them is dropped."""
    with new_database(postgres) as server:
        run(server, BY_HASH_OF_AN_ENUM)
        yield server
        for database in databases(postgres):
            if database.startswith(server.database):
                drop_database(postgres, database)


@pytest.fixture
def moods(postgres18: EmbeddedPostgres, small_pieces: None) -> Iterator[Server]:
    with with_moods(postgres18) as server:
        yield server


def make(server: Server, store: ObjectStore, postgres: EmbeddedPostgres) -> Manifest:
    name = BackupName.of(server.database, now())
    source = PostgresDumpSource(server, [postgres.bin_dir], jobs=2)
    return back_up(source, store, KEYS, name, clock=now)


def prove(
    manifest: Manifest,
    server: Server,
    store: ObjectStore,
    postgres: EmbeddedPostgres,
    report: Report = silent,
) -> DrillResult:
    name = BackupName.parse(manifest.name)
    bin_dirs = [postgres.bin_dir]
    return drill(store, KEYS, name, server, bin_dirs, jobs=2, clock=now, report=report)


def rows(server: Server, *tables: str) -> list[Any]:
    with psycopg.connect(server.dsn) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY n").fetchall() for table in tables
        ]


def partitions(server: Server) -> int:
    query = "SELECT count(*) FROM pg_inherits JOIN pg_class ON inhrelid = oid WHERE relkind = 'r'"
    with server.connect() as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def test_rows_that_are_written_under_the_roots_name_come_back(
    any_postgres: EmbeddedPostgres, small_pieces: None
) -> None:
    store = MemoryStore()
    with with_moods(any_postgres) as moods:
        _go_round(moods, store, any_postgres)


def _go_round(moods: Server, store: ObjectStore, any_postgres: EmbeddedPostgres) -> None:
    manifest = make(moods, store, any_postgres)
    found = {each.table: each.rows for each in manifest.contents.tables}
    assert found == {"moods": 6000, "mixed": 5001, "mixed_plain": 999, "other": 3000}
    name = BackupName.parse(manifest.name)
    assert verify(store, KEYS, name, clock=now).passed
    for jobs in (1, 2):
        target = f"{moods.database}_{jobs}"
        restore(
            store,
            KEYS,
            name,
            moods,
            target,
            bin_dirs=[any_postgres.bin_dir],
            jobs=jobs,
            clock=now,
        )
        restored = moods.using(target)
        assert rows(restored, "moods", "mixed") == rows(moods, "moods", "mixed")
    assert prove(manifest, moods, store, any_postgres).entry.findings == ()


@pytest.mark.parametrize("table", ["moods", "mixed_plain"])
def test_a_lost_row_is_found_wherever_it_was(
    moods: Server, postgres18: EmbeddedPostgres, table: str
) -> None:
    meddle = meddling(postgres18, f"UPDATE {table} SET n = 10 WHERE n = 9 OR n = 5999")
    store = MemoryStore()
    result = prove(make(moods, store, postgres18), moods, store, postgres18, meddle)
    assert f"table public.{table} has" in "; ".join(result.entry.findings)


@pytest.mark.parametrize("table", ["moods", "moods_1"])
def test_one_of_them_comes_with_the_others(
    moods: Server, postgres18: EmbeddedPostgres, table: str
) -> None:
    """Nothing tells whose the rows are that were written under the root's name."""
    store = MemoryStore()
    name = BackupName.parse(make(moods, store, postgres18).name)
    target = f"{moods.database}_part"
    wanted = Selection(tables=(table,))
    restore_selection(store, KEYS, name, moods, target, wanted, [postgres18.bin_dir], clock=now)
    part = moods.using(target)
    assert rows(part, "moods") == rows(moods, "moods")
    assert partitions(part) == 3


def test_a_sync_takes_them_too(moods: Server, postgres18: EmbeddedPostgres) -> None:
    target = f"{moods.database}_copy"
    source = PostgresDumpSource(moods, [postgres18.bin_dir], jobs=2)
    sync(source, moods, target, [postgres18.bin_dir], clock=now)
    assert rows(moods.using(target), "moods", "mixed") == rows(moods, "moods", "mixed")


def test_an_heir_whose_columns_a_restore_puts_in_another_order_is_equal(
    postgres18: EmbeddedPostgres, small_pieces: None
) -> None:
    store = MemoryStore()
    with new_database(postgres18) as server:
        run(server, HEIRS)
        manifest = make(server, store, postgres18)
        assert prove(manifest, server, store, postgres18).entry.findings == ()


def test_an_heir_that_differs_is_told_whatever_the_order_of_its_columns(
    postgres18: EmbeddedPostgres,
) -> None:
    # The values are the same, in other columns.
    script = "UPDATE heir SET extra = later, later = extra WHERE id = 7"
    store = MemoryStore()
    with new_database(postgres18) as server:
        run(server, HEIRS)
        report = meddling(postgres18, script)
        result = prove(make(server, store, postgres18), server, store, postgres18, report)
    assert result.entry.findings == (
        "table public.heir has 500 rows as it should, but not those that were dumped",
    )
