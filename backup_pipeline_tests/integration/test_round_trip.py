"""Whatever a database holds, it comes back equal: through this software, and through psql alone."""

import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.engine import load, members, plan
from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Codec, Manifest
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.selection import Selection, restore_selection
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.integration.databases import (
    EVERY_KIND,
    assert_equal,
    contents,
    drop_database,
    new_database,
    psql,
)

KEYS = Keys("backups/postgres/")


def now() -> datetime:
    return datetime.now(UTC)


def make(
    store: ObjectStore, postgres: EmbeddedPostgres, server: Server, codec: Codec = Codec.GZIP
) -> Manifest:
    name = BackupName.of(server.database, now())
    source = PostgresDumpSource(server, [postgres.bin_dir], jobs=3)
    return back_up(source, store, KEYS, name, codec=codec, clock=now)


@contextmanager
def every_kind(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Server]:
    with new_database(postgres, EVERY_KIND) as server:
        yield server


@contextmanager
def chinook(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Server]:
    with new_database(postgres) as server:
        script = (samples_dir(request) / "chinook.sql").read_text()
        # The script makes and enters a database of its own.
        script = re.sub(r"(?m)^(DROP DATABASE|CREATE DATABASE|\\c ).*$", "", script)
        psql(postgres, server.database, script.encode())
        yield server


@contextmanager
def pagila(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Server]:
    samples = samples_dir(request)
    scripts = (samples / "pagila-schema.sql", samples / "pagila-data.sql")
    with new_database(postgres, *scripts) as server:
        yield server


@contextmanager
def options_market(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Server]:
    with new_database(postgres) as server:
        load_sample(postgres.dsn(server.database), megabytes=4, replace=True)
        yield server


@contextmanager
def nothing(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Server]:
    with new_database(postgres) as server:
        yield server


def samples_dir(request: pytest.FixtureRequest) -> Path:
    """Only those databases that come from elsewhere are skipped where that is missing."""
    found: Path = request.getfixturevalue("samples_dir")
    return found


Database = Callable[[EmbeddedPostgres, pytest.FixtureRequest], AbstractContextManager[Server]]


@pytest.mark.parametrize(
    "database",
    [every_kind, chinook, pagila, options_market, nothing],
    ids=lambda each: each.__name__,
)
def test_a_database_comes_back_equal_through_restore_and_through_psql_alone(
    any_postgres: EmbeddedPostgres,
    request: pytest.FixtureRequest,
    store: ObjectStore,
    database: Database,
    small: None,
) -> None:
    with database(any_postgres, request) as source:
        assert_it_comes_back(any_postgres, store, source, Codec.GZIP)


def test_zstd_comes_back_equal_as_a_whole_and_in_part_and_through_psql_alone(
    postgres18: EmbeddedPostgres, store: ObjectStore, small: None
) -> None:
    if not shutil.which("zstd"):
        pytest.skip("there is no program zstd")
    with new_database(postgres18, EVERY_KIND) as source:
        name = assert_it_comes_back(postgres18, store, source, Codec.ZSTD)
        assert drill(store, KEYS, name, source, [postgres18.bin_dir], clock=now).entry.passed
        manifest = read_manifest(store, KEYS, name)
        table = max(manifest.tables, key=lambda each: each.rows)
        with restored_name(postgres18, source) as part:
            result = restore_selection(
                store,
                KEYS,
                name,
                source,
                part,
                Selection(tables=(table.table,)),
                [postgres18.bin_dir],
                clock=now,
            )
            assert result.rows >= table.rows > 0


def test_an_encrypted_one_comes_back_equal_as_a_whole_and_in_part_and_through_age_and_psql_alone(
    postgres18: EmbeddedPostgres, store: ObjectStore, small: None, tmp_path: Path
) -> None:
    identity, tools = Identity.made(), [postgres18.bin_dir]
    key, file = tmp_path / "key.txt", tmp_path / "stored.age"
    key.write_text(identity.secret)

    def decrypted(kind: Kind) -> bytes:
        file.write_bytes(b"".join(store.read(KEYS.of(name, kind))))
        if shutil.which("age"):
            command = ["age", "--decrypt", "--identity", str(key), str(file)]
            return subprocess.run(command, capture_output=True, check=True).stdout
        opened: bytes = pyrage.decrypt(
            file.read_bytes(), [pyrage.x25519.Identity.from_str(identity.secret)]
        )
        return opened

    with (
        new_database(postgres18, EVERY_KIND) as source,
        new_database(postgres18) as by_psql,
        restored_name(postgres18, source) as target,
    ):
        name = BackupName.of(source.database, now())
        dumped = PostgresDumpSource(source, tools, jobs=3)
        back_up(dumped, store, KEYS, name, recipients=[identity.recipient], clock=now)
        how = {"identities": [identity], "clock": now}
        assert verify(store, KEYS, name, **how).findings == ()  # type: ignore[arg-type]
        result = drill(store, KEYS, name, source, tools, jobs=3, **how)  # type: ignore[arg-type]
        assert (result.entry.findings, result.not_compared) == ((), ())
        restore(store, KEYS, name, source, target, bin_dirs=tools, jobs=3, **how)  # type: ignore[arg-type]
        assert_equal(postgres18, source, source.using(target))
        plain = gzip.decompress(decrypted(Kind.DUMP_AGE))
        psql(postgres18, by_psql.database, plain)
        assert_equal(postgres18, source, by_psql)
        (tmp_path / "schema.dump").write_bytes(decrypted(Kind.SCHEMA_AGE))
        command = [str(postgres18.bin_dir / "pg_restore"), "--list", str(tmp_path / "schema.dump")]
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        assert "TABLE public everything" in listed
        drop_database(postgres18, target)
        table = max(read_manifest(store, KEYS, name).tables, key=lambda each: each.rows)
        chosen = Selection(tables=(table.table,))
        part = restore_selection(store, KEYS, name, source, target, chosen, tools, **how)  # type: ignore[arg-type]
        assert part.rows >= table.rows > 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many members and several streams even of a small database."""
    # Members so small that tables go on in the next one.
    monkeypatch.setattr(members, "_ENOUGH", 100)
    monkeypatch.setattr(members, "_TOO_MUCH", 10_000)
    # Tables that are dumped by themselves already when they hold anything, and loaded likewise.
    monkeypatch.setattr(plan, "LARGE", 8192)
    monkeypatch.setattr(load, "_ENOUGH", 20_000)
    monkeypatch.setattr(load, "_WORTH_FREEZING", 1000)


def assert_it_comes_back(
    postgres: EmbeddedPostgres, store: ObjectStore, source: Server, codec: Codec
) -> BackupName:
    """Back a database up, and restore it in both ways."""
    with restored_name(postgres, source) as target, new_database(postgres) as by_psql:
        name = BackupName.parse(make(store, postgres, source, codec).name)
        assert verify(store, KEYS, name, clock=now).passed
        tools = [postgres.bin_dir]
        restore(store, KEYS, name, source, target, bin_dirs=tools, jobs=3, clock=now)
        assert_equal(postgres, source, source.using(target))
        stored = b"".join(store.read(KEYS.of(name, codec.kind)))
        # Both programs, gzip and zstd, are called like their codec.
        plain = subprocess.run([codec, "-d"], input=stored, capture_output=True, check=True)
        psql(postgres, by_psql.database, plain.stdout)
        assert_equal(postgres, source, by_psql)
    return name


@pytest.mark.parametrize(
    "tool", [["gzip", "-t"], ["pigz", "-t"], [sys.executable, "-m", "gzip", "-d"]], ids=str
)
def test_what_was_dumped_in_parallel_is_a_file_for_every_tool(
    postgres18: EmbeddedPostgres,
    request: pytest.FixtureRequest,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tool: list[str],
) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    monkeypatch.setattr(plan, "LARGE", 8192)
    file = tmp_path / "dump.sql.gz"
    with options_market(postgres18, request) as source:
        name = BackupName.parse(make(store, postgres18, source).name)
        file.write_bytes(b"".join(store.read(KEYS.of(name, Kind.DUMP))))
    subprocess.run([*tool, file], check=True)
    file.write_bytes(file.read_bytes()[:-1])
    assert subprocess.run([*tool, file], check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_streams_lie_side_by_side_in_the_object(
    postgres18: EmbeddedPostgres,
    request: pytest.FixtureRequest,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each table that is dumped by itself is in one stream, and sequences are set once."""
    monkeypatch.setattr(plan, "LARGE", 8192)
    with pagila(postgres18, request) as source:
        manifest = make(store, postgres18, source)
        with PostgresDumpSource(source, [postgres18.bin_dir], jobs=3).open_dump() as dump:
            assert len(dump.data()) == 3
    name = BackupName.parse(manifest.name)
    sql = gzip.decompress(b"".join(store.read(KEYS.of(name, Kind.DUMP))))
    # The drops, pre-data, a stream for each job, and post-data.
    assert sql.count(b"\n-- PostgreSQL database dump complete\n") == 6
    set_values = re.findall(rb"SELECT pg_catalog\.setval\('(.+?)'", sql)
    assert len(set_values) == len(set(set_values)) == len(manifest.contents.sequences)
    assert len(manifest.tables) == sum(len(member.tables) for member in manifest.members)


@contextmanager
def restored_name(postgres: EmbeddedPostgres, source: Server) -> Iterator[str]:
    """A name for a restored database, which is dropped afterwards if it was made."""
    name = f"{source.database}_restored"
    try:
        yield name
    finally:
        drop_database(postgres, name)


def test_psql_replaces_a_copy_that_has_changed(
    postgres18: EmbeddedPostgres, request: pytest.FixtureRequest, store: ObjectStore
) -> None:
    """What `--clean --if-exists` is for.

    PostgreSQL itself can't do it for every schema: keys of partitioned tables stand in the way.
    """
    with chinook(postgres18, request) as source, new_database(postgres18) as copy:
        name = BackupName.parse(make(store, postgres18, source).name)
        sql = gzip.decompress(b"".join(store.read(KEYS.of(name, Kind.DUMP))))
        psql(postgres18, copy.database, sql)
        psql(postgres18, copy.database, b"DELETE FROM invoice_line; DROP TABLE playlist_track;")
        psql(postgres18, copy.database, sql)
        assert_equal(postgres18, source, copy)


def test_the_schema_archive_is_one_that_pg_restore_reads(
    any_postgres: EmbeddedPostgres, store: ObjectStore, tmp_path: Path
) -> None:
    with new_database(any_postgres, EVERY_KIND) as source:
        name = BackupName.parse(make(store, any_postgres, source).name)
        archive = tmp_path / "schema.dump"
        archive.write_bytes(b"".join(store.read(KEYS.of(name, Kind.SCHEMA))))
        listed = subprocess.run(
            [any_postgres.bin_dir / "pg_restore", "--list", archive],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert "TABLE public everything" in listed
        assert "TABLE DATA" not in listed


def test_a_snapshot_is_one_instant_however_long_the_dump_takes(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18, EVERY_KIND) as source:
        before = contents(source)

        class Changing(PostgresDumpSource):
            @contextmanager
            def open_dump(self):  # type: ignore[no-untyped-def]
                with super().open_dump() as dump:
                    with source.connect() as connection:
                        connection.execute("DELETE FROM public.ancestor WHERE id = 2")
                        connection.execute("SELECT nextval('public.free_standing')")
                        connection.execute("INSERT INTO public.chicken VALUES (3, NULL)")
                    yield dump

        name = BackupName.of(source.database, now())
        back_up(Changing(source, [postgres18.bin_dir]), store, KEYS, name, clock=now)
        with restored_name(postgres18, source) as target:
            restore(store, KEYS, name, source, target, clock=now)
            assert contents(source.using(target)).tables == before.tables
