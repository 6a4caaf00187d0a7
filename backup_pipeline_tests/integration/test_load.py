"""Rows come by several connections, and indexes and keys by pg_restore; all of it or nothing."""

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine import load, members
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import Progress, SchemaArchive, Section
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import PostgresFailed
from backup_pipeline_tests.embedded.owners import descendants, kill_with_children, survivors
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    EVERY_KIND,
    assert_equal,
    contents,
    databases,
    drop_database,
    live_database,
    new_database,
    tablespace,
)

CLI = Path(sys.executable).with_name("backup-pipeline")
KEYS = Keys("backups/postgres/")
TABLES = """
    CREATE TABLE public.one AS SELECT i AS id, md5(i::text) AS text
        FROM generate_series(1, 30000) AS i;
    CREATE TABLE public.two AS SELECT * FROM public.one WHERE id <= 20000;
    CREATE TABLE public.three AS SELECT i AS id FROM generate_series(1, 20000) AS i;
    CREATE TABLE public.small AS SELECT 1 AS id;
    CREATE TABLE public.parent (id integer) PARTITION BY LIST (id);
    CREATE TABLE public.leaf PARTITION OF public.parent FOR VALUES IN (1);
    INSERT INTO public.parent SELECT 1 FROM generate_series(1, 20000);
    CREATE TABLE public.parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE MATERIALIZED VIEW public.totals AS SELECT count(*) FROM public.one;
    CREATE INDEX ON public.one (text);
    ALTER TABLE public.one ADD PRIMARY KEY (id);
    ALTER TABLE public.two ADD FOREIGN KEY (id) REFERENCES public.one;
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members and pieces so small that each table of `TABLES` is one."""
    monkeypatch.setattr(members, "_ENOUGH", 1000)
    monkeypatch.setattr(load, "_ENOUGH", 10_000)
    monkeypatch.setattr(load, "_WORTH_FREEZING", 10_000)


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A live database; whatever a test makes beside it is dropped afterwards."""
    with live_database(postgres18, TABLES) as server:
        yield server


def make(server: Server, store: ObjectStore, postgres: EmbeddedPostgres) -> BackupName:
    name = BackupName.of(server.database, now())
    back_up(PostgresDumpSource(server, [postgres.bin_dir]), store, KEYS, name, clock=now)
    return name


@contextmanager
def beside(live: Server, postgres: EmbeddedPostgres) -> Iterator[Server]:
    """The name of a database that is not there yet."""
    target = live.using(f"{live.database}_beside")
    yield target
    drop_database(postgres, target.database)


# --- rows


@pytest.mark.usefixtures("small_pieces")
def test_rows_are_written_as_those_that_everybody_sees(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    """Which spares the server to visit each page again: COPY's FREEZE."""
    store = MemoryStore()
    name = make(live, store, postgres18)
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, jobs=2, clock=now)
        with target.connect() as connection:
            pages = connection.execute(
                "SELECT relname, relallvisible > relpages / 2 FROM pg_class"
                " WHERE relname IN ('one', 'two', 'leaf') ORDER BY relname"
            ).fetchall()
    # Not all of them: the server makes a file longer by more pages than it needs.
    assert pages == [("leaf", True), ("one", True), ("two", True)]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_a_table_in_several_members_comes_back_by_one_connection_or_several(
    live: Server, postgres18: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(members, "_TOO_MUCH", 100_000)
    monkeypatch.setattr(load, "_ENOUGH", 10_000)
    monkeypatch.setattr(load, "_WORTH_FREEZING", 1)
    store = MemoryStore()
    name = make(live, store, postgres18)
    assert sum(each.unfinished for each in read_manifest(store, KEYS, name).members) > 2
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, jobs=jobs, clock=now)
        assert contents(target) == contents(live)


@pytest.mark.usefixtures("small_pieces")
def test_a_table_is_not_emptied_whose_rows_an_extension_brings(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    """A dump holds only what was added to such a table."""
    store = MemoryStore()
    name = make(live, store, postgres18)
    rewrite(
        store,
        name,
        Section.PRE_DATA,
        b"CREATE TABLE public.three (\n    id integer\n);\n",
        b"ALTER EXTENSION plpgsql ADD TABLE public.three; INSERT INTO public.three VALUES (0);\n",
        {"three": 20_001},
    )
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, clock=now)
        with target.connect() as connection:
            found = connection.execute("SELECT count(*), min(id) FROM public.three").fetchone()
    assert found == (20_001, 0)


@pytest.mark.usefixtures("small_pieces")
def test_a_statement_among_the_rows_comes_after_what_stands_before_it_and_once(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    """Such as those that make large objects: pg_dump writes them behind all rows."""
    store = MemoryStore()
    name = make(live, store, postgres18)
    rewrite(
        store,
        name,
        Section.DATA,
        b"COPY public.small (id) FROM stdin;\n1\n\\.\n",
        b"INSERT INTO public.small SELECT 100 + count(*) FROM public.one;\n"
        b"COPY public.small (id) FROM stdin;\n7\n\\.\n",
        {"small": 3},
    )
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, jobs=3, clock=now)
        with target.connect() as connection:
            found = connection.execute("SELECT id FROM public.small ORDER BY ctid").fetchall()
    assert found == [(1,), (30_100,), (7,)]


def rewrite(
    store: MemoryStore,
    name: BackupName,
    section: Section,
    before: bytes,
    added: bytes,
    rows: Mapping[str, int],
) -> None:
    """Add SQL behind some that a section has, and set right what the manifest says of it."""
    manifest = read_manifest(store, KEYS, name)
    stored = store.objects[KEYS.of(name, Kind.DUMP)].body
    body, made = b"", []
    for member in manifest.members:
        raw = gzip.decompress(stored[member.offset : member.offset + member.length])
        if member.section is section and before in raw:
            raw = raw.replace(before, before + added)
        writer = MemberWriter()
        packed = writer.compress(raw) + writer.finish()
        tables = member.tables
        if member.section is Section.DATA:
            inventory = Inventory(manifest.source.encoding, member.continues)
            inventory.feed(raw)
            tables = inventory.take_tables()
        made.append(
            replace(
                member,
                offset=len(body),
                length=len(packed),
                raw_length=len(raw),
                sha256=writer.sha256,
                tables=tables,
            )
        )
        body += packed
    assert any(
        one.raw_length != other.raw_length
        for one, other in zip(made, manifest.members, strict=True)
    )
    held = tuple(
        replace(table, rows=rows.get(table.table, table.rows)) for table in manifest.contents.tables
    )
    changed = replace(
        manifest, members=tuple(made), contents=replace(manifest.contents, tables=held)
    )
    store.put(KEYS.of(name, Kind.DUMP), body, overwrite=True)
    store.put(KEYS.of(name, Kind.MANIFEST), to_json(changed), overwrite=True)


@pytest.mark.usefixtures("small_pieces")
def test_one_that_fails_ends_the_others_and_the_target_is_as_it_was(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    store = MemoryStore()
    name = make(live, store, postgres18)
    before, names = contents(live), databases(postgres18)
    refused: list[bool] = []

    def refuse(_: Progress) -> None:
        """Once there are tables, one of them takes no row, and another one for ever."""
        loading = [each for each in databases(postgres18) if "_restoring_" in each]
        if not loading or refused:
            return
        with psycopg.connect(postgres18.dsn(loading[0]), autocommit=True) as connection:
            if connection.execute("SELECT to_regclass('public.two')").fetchone() == (None,):
                return
            connection.execute("""
                CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN PERFORM pg_sleep(0.5); RAISE 'no rows today'; END $$;
                CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql
                    AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
                CREATE TRIGGER refuse BEFORE INSERT ON public.two
                    FOR EACH ROW EXECUTE FUNCTION public.refuse();
                CREATE TRIGGER wait BEFORE INSERT ON public.one
                    FOR EACH ROW EXECUTE FUNCTION public.wait();
            """)
            refused.append(True)

    began = time.monotonic()
    with pytest.raises(PostgresFailed, match="no rows today"):
        restore(
            store,
            KEYS,
            name,
            live,
            live.database,
            replace=True,
            jobs=2,
            clock=now,
            report=refuse,
        )
    assert time.monotonic() - began < 300
    assert (contents(live), databases(postgres18)) == (before, names)
    assert not [thread for thread in threading.enumerate() if thread.name == "crew"]


def test_no_more_connections_are_made_than_the_role_may_have(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    store = MemoryStore()
    name = make(live, store, postgres18)
    role = f"{live.database}_role"
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        create = SQL("CREATE ROLE {} LOGIN CREATEDB CONNECTION LIMIT 3 PASSWORD 'p'")
        admin.execute(create.format(Identifier(role)))
        humble = Server.of(postgres18.dsn(), user=role, password="p")  # noqa: S106
        tools = [postgres18.bin_dir]
        with beside(live, postgres18) as target:
            restore(store, KEYS, name, humble, target.database, bin_dirs=tools, jobs=8, clock=now)
            assert contents(target) == contents(live)
        admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


# --- post-data


@pytest.fixture
def watched(scratch: Path, postgres18: EmbeddedPostgres) -> Path:
    """A directory of client tools that write down how pg_restore is called."""
    scratch.chmod(0o755)
    for tool in ("pg_dump", "pg_restore"):
        script = scratch / tool
        script.write_text(
            f'#!/bin/sh\necho "{tool} $*" >> {scratch}/calls\n'
            f'test -e {scratch}/stop && case "$*" in *--jobs*) echo $$ > {scratch}/pid;'
            f" sleep 600 & wait;; esac\n"
            f'exec {postgres18.bin_dir / tool} "$@"\n'
        )
        script.chmod(0o755)
    return scratch


def calls(watched: Path) -> list[str]:
    """How pg_restore was called to make something in a database."""
    said = (watched / "calls").read_text().splitlines()
    return [line for line in said if line.startswith("pg_restore") and "--dbname" in line]


def test_pg_restore_makes_indexes_and_keys_where_it_fits(
    live: Server, postgres18: EmbeddedPostgres, watched: Path
) -> None:
    store = MemoryStore()
    name = make(live, store, postgres18)
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, bin_dirs=[watched], jobs=2, clock=now)
        assert_equal(postgres18, live, target)
    (call,) = calls(watched)
    assert "--jobs=2" in call
    assert postgres18.password not in (watched / "calls").read_text()


@pytest.mark.parametrize("by_pg_restore", [True, False])
def test_what_lies_in_a_tablespace_that_the_server_lacks_comes_into_the_database_s_own(
    postgres18: EmbeddedPostgres, by_pg_restore: bool
) -> None:
    """A table in one that it has comes there."""
    store = MemoryStore()
    bin_dirs = [postgres18.bin_dir] if by_pg_restore else []
    with tablespace(postgres18, "slow"), live_database(postgres18, "") as live:
        with tablespace(postgres18, "fast; one"):
            with live.connect() as connection:
                connection.execute(
                    """
                    CREATE TABLE public.a AS SELECT 1 AS id;
                    ALTER TABLE public.a SET TABLESPACE slow;
                    CREATE TABLE public.b AS SELECT generate_series(1, 9) AS id;
                    ALTER TABLE public.b SET TABLESPACE "fast; one";
                    CREATE INDEX b_id ON public.b (id) TABLESPACE "fast; one";
                    """
                )
            name, before = make(live, store, postgres18), contents(live)
            with live.connect() as connection:
                connection.execute("ALTER TABLE public.b SET TABLESPACE pg_default")
                connection.execute("ALTER INDEX public.b_id SET TABLESPACE pg_default")
        with beside(live, postgres18) as target:
            restore(store, KEYS, name, live, target.database, bin_dirs=bin_dirs, clock=now)
            assert contents(target) == before
            with target.connect() as connection:
                lie = connection.execute(
                    "SELECT relname, spcname FROM pg_class"
                    " LEFT JOIN pg_tablespace ON pg_tablespace.oid = reltablespace"
                    " WHERE relname IN ('a', 'b', 'b_id') ORDER BY relname"
                ).fetchall()
            assert lie == [("a", "slow"), ("b", None), ("b_id", None)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("more", "workers"), [("", "2"), ("SELECT * FROM public.one", "0")])
def test_an_index_has_workers_of_its_own_only_where_one_table_outweighs_the_others(
    live: Server, postgres18: EmbeddedPostgres, watched: Path, more: str, workers: str
) -> None:
    """Elsewhere the cores are taken by the other tables' indexes."""
    with live.connect() as connection:
        setting = "current_setting('max_parallel_maintenance_workers')"
        connection.execute(f"CREATE MATERIALIZED VIEW public.made_with AS SELECT {setting}")
        if more:
            connection.execute(f"CREATE TABLE public.more AS {more}")
    store = MemoryStore()
    name = make(live, store, postgres18)
    with beside(live, postgres18) as target:
        restore(store, KEYS, name, live, target.database, bin_dirs=[watched], jobs=2, clock=now)
        with target.connect() as connection:
            found = connection.execute("SELECT * FROM public.made_with").fetchone()
    assert found == (workers,)


def test_an_archive_that_lacks_something_is_left_alone(
    postgres18: EmbeddedPostgres, watched: Path
) -> None:
    """Those of earlier versions did not refresh materialized views."""
    store = MemoryStore()
    with new_database(postgres18, EVERY_KIND) as server, beside(server, postgres18) as target:
        name = make(server, store, postgres18)
        archive = subprocess.run(
            [postgres18.bin_dir / "pg_dump", "--format=custom", "--schema-only"],
            env=postgres18.environment(server.database),
            capture_output=True,
            check=True,
        ).stdout
        manifest = read_manifest(store, KEYS, name)
        older = SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest())
        store.put(KEYS.of(name, Kind.SCHEMA), archive, overwrite=True)
        body = to_json(replace(manifest, schema_archive=older))
        store.put(KEYS.of(name, Kind.MANIFEST), body, overwrite=True)
        restore(store, KEYS, name, server, target.database, bin_dirs=[watched], jobs=2, clock=now)
        assert_equal(postgres18, server, target)
    assert calls(watched) == []


def test_tools_that_do_not_fit_the_server_are_left_alone(
    postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres, watched: Path
) -> None:
    """pg_restore 17 and later set a parameter that PostgreSQL 16 does not know."""
    store = MemoryStore()
    with new_database(postgres16) as server, beside(server, postgres16) as target:
        with server.connect() as connection:
            connection.execute(TABLES)
        name = make(server, store, postgres16)
        restore(store, KEYS, name, server, target.database, bin_dirs=[watched], jobs=2, clock=now)
        assert contents(target) == contents(server)
    assert calls(watched) == []


def waiting_children(process: "subprocess.Popen[str]", watched: Path) -> list[psutil.Process]:
    """The pg_restore that has stopped, and what it waits for."""
    until = time.monotonic() + 120
    while not (watched / "pid").exists() or len(children := descendants(process)) < 2:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    return children


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_pg_restore_leaves_neither_a_child_nor_a_database(
    live: Server,
    postgres18: EmbeddedPostgres,
    store: ObjectStore,
    s3_environment: Mapping[str, str],
    watched: Path,
    number: signal.Signals,
) -> None:
    make(live, store, postgres18)
    names = databases(postgres18)
    (watched / "stop").touch()
    environment = {
        **os.environ,
        **s3_environment,
        **postgres18.environment(live.database),
        "BACKUP_DATABASE": live.database,
        "BACKUP_PG_BIN_DIRS": str(watched),
    }
    command = [str(CLI), "restore", "--latest", "--no-confirm", "--jobs", "2"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            children = waiting_children(process, watched)
            process.send_signal(number)
            assert process.wait(60) == 130
        finally:
            kill_with_children(process)
    assert databases(postgres18) == names
    assert survivors(children) == []
