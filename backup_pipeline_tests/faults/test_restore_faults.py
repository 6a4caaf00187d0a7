"""A restore that the server can't carry out leaves the target as it was, and nothing beside it."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Progress
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.errors import PostgresFailed, TargetExists, TargetInUse, TargetUnsuitable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    new_database,
)

KEYS = Keys("backups/postgres/")
TABLE = """
    CREATE TABLE public.one AS SELECT i AS id, md5(i::text) AS text
    FROM generate_series(1, {rows}) AS i
"""
EVENT_TRIGGER = """
    CREATE FUNCTION public.nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER noticed ON ddl_command_end EXECUTE FUNCTION public.nothing();
"""


def now() -> datetime:
    return datetime.now(UTC)


def make(server: Server, store: MemoryStore, postgres: EmbeddedPostgres) -> BackupName:
    name = BackupName.of(server.database, now())
    back_up(PostgresDumpSource(server, [postgres.bin_dir]), store, KEYS, name, clock=now)
    return name


# Disk full


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[None]:
    """Put what a directory holds on a file system of its own; skips where that takes more rights.

    A tmpfs is gone with its last mount, so nothing of it is left.
    """
    aside = directory.with_name(directory.name + ".aside")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    directory.rename(aside)
    directory.mkdir()
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("this system has no mount")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", str(directory)], check=True)
        shutil.copystat(aside, directory)
        subprocess.run(["chown", "--reference", str(aside), str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_fills_up_while_it_loads(scratch: Path) -> None:
    data, store = scratch / "postgres", MemoryStore()
    with EmbeddedPostgres(data, durable=False):
        pass  # the cluster is made
    # Only the databases lie on the small disk: a full disk under the WAL ends the server itself.
    with (
        small_disk(data / "base", 60),
        EmbeddedPostgres(data, durable=False) as postgres,
        new_database(postgres) as live,
    ):
        with live.connect() as connection:
            connection.execute(TABLE.format(rows=300_000).encode())
            # A new database's files have holes until then, which need room to be filled.
            connection.execute("CHECKPOINT")
        name = make(live, store, postgres)
        with live.connect() as connection:
            connection.execute("DELETE FROM public.one WHERE id % 2 = 0")
        before, names = contents(live), databases(postgres)

        with pytest.raises(PostgresFailed, match="No space left on device"):
            restore(store, KEYS, name, live, live.database, replace=True, clock=now)

        assert (contents(live), databases(postgres)) == (before, names)
        with live.connect() as connection:
            connection.execute("INSERT INTO public.one VALUES (0, 'there is room again')")


# Rights


@pytest.fixture
def humble(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """The server as a role that may create databases and no more sees it."""
    role = "humble_owner"
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        admin.execute(SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD 'p'").format(Identifier(role)))
        yield Server.of(postgres18.dsn(), user=role, password="p")  # noqa: S106
        owned = "SELECT datname FROM pg_database WHERE datdba = to_regrole(%s)"
        for (database,) in admin.execute(owned, (role,)).fetchall():
            drop_database(postgres18, database)
        admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """Somebody else's live database."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(TABLE.format(rows=1000).encode())
        yield server


def test_an_ordinary_role_restores_and_replaces_what_is_its_own(
    live: Server, humble: Server, postgres18: EmbeddedPostgres
) -> None:
    store, target = MemoryStore(), f"{live.database}_own"
    name = make(live, store, postgres18)
    restore(store, KEYS, name, humble, target, clock=now)
    result = restore(store, KEYS, name, humble, target, replace=True, clock=now)
    assert contents(humble.using(target)) == contents(live)
    assert result.previous in databases(postgres18)


def test_somebody_elses_database_is_not_replaced_and_that_is_known_before_it_loads(
    live: Server, humble: Server, postgres18: EmbeddedPostgres
) -> None:
    store = MemoryStore()
    name, names = make(live, store, postgres18), databases(postgres18)
    with pytest.raises(TargetUnsuitable, match="does not own the database"):
        restore(store, KEYS, name, humble, live.database, replace=True, clock=now)
    assert databases(postgres18) == names


def test_a_name_that_is_taken_is_refused_before_a_byte_is_read(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    store, told = MemoryStore(), list[Progress]()
    name, names = make(live, store, postgres18), databases(postgres18)
    with pytest.raises(TargetExists):
        restore(store, KEYS, name, live, live.database, clock=now, report=told.append)
    assert told == []
    assert databases(postgres18) == names


def test_what_only_a_superuser_may_load_is_refused_by_the_server_and_nothing_is_left(
    live: Server, humble: Server, postgres18: EmbeddedPostgres
) -> None:
    store = MemoryStore()
    with live.connect() as connection:
        connection.execute(EVENT_TRIGGER)
    name, names = make(live, store, postgres18), databases(postgres18)
    with pytest.raises(PostgresFailed, match="permission denied to create event trigger"):
        restore(store, KEYS, name, humble, f"{live.database}_own", clock=now)
    assert databases(postgres18) == names


def test_sessions_that_the_role_may_not_end_keep_their_database(
    live: Server, humble: Server, postgres18: EmbeddedPostgres
) -> None:
    store, target = MemoryStore(), f"{live.database}_own"
    name = make(live, store, postgres18)
    restore(store, KEYS, name, humble, target, clock=now)
    names = databases(postgres18)
    with psycopg.connect(postgres18.dsn(target), autocommit=True) as superuser:
        with pytest.raises(TargetInUse, match=r"may not end all sessions on .*: postgres \(pid"):
            restore(store, KEYS, name, humble, target, replace=True, disconnect=True, clock=now)
        assert superuser.execute("SELECT count(*) FROM public.one").fetchone() == (1000,)
    assert databases(postgres18) == names
