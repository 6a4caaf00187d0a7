"""A restore is whole or it never happened, and a live database is swapped in one instant."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Progress, Report
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import RestoreResult, restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import (
    BackupPipelineError,
    NotFound,
    PostgresFailed,
    TargetExists,
    TargetInUse,
    TargetUnsuitable,
    VerificationFailed,
)
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    live_database,
    new_database,
)

KEYS = Keys("backups/postgres/")
TABLES = """
    CREATE TABLE public.one (id integer PRIMARY KEY, text text);
    INSERT INTO public.one SELECT i, md5(i::text) FROM generate_series(1, 20000) AS i;
    CREATE TABLE public.two (id integer REFERENCES public.one);
    INSERT INTO public.two SELECT i FROM generate_series(1, 20000, 7) AS i;
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def source(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A live database; whatever a test makes beside it is dropped afterwards."""
    with live_database(postgres18, TABLES) as server:
        yield server


@pytest.fixture
def backup(source: Server, store: ObjectStore, postgres18: EmbeddedPostgres) -> BackupName:
    return make(source, store, postgres18)


def make(server: Server, store: ObjectStore, postgres: EmbeddedPostgres) -> BackupName:
    name = BackupName.of(server.database, now())
    back_up(PostgresDumpSource(server, [postgres.bin_dir]), store, KEYS, name, clock=now)
    return name


def bring_back(
    store: ObjectStore, name: BackupName, server: Server, target: str, **how: object
) -> RestoreResult:
    return restore(store, KEYS, name, server, target, clock=now, **how)  # type: ignore[arg-type]


def test_a_taken_name_is_refused(source: Server, backup: BackupName, store: ObjectStore) -> None:
    before = contents(source)
    with pytest.raises(TargetExists):
        bring_back(store, backup, source, source.database)
    assert contents(source) == before


def test_a_live_database_is_replaced_and_kept(
    source: Server, backup: BackupName, store: ObjectStore
) -> None:
    original = contents(source)
    with source.connect() as connection:
        connection.execute("DROP TABLE public.two; DELETE FROM public.one")
    spoiled = contents(source)
    result = bring_back(store, backup, source, source.database, replace=True)
    assert contents(source) == original
    assert result.previous is not None
    assert result.previous.startswith(f"{source.database}_before_")
    assert contents(source.using(result.previous)) == spoiled


def test_replacing_what_is_not_there_makes_it(
    source: Server, backup: BackupName, store: ObjectStore
) -> None:
    target = f"{source.database}_new"
    result = bring_back(store, backup, source, target, replace=True)
    assert (result.database, result.previous) == (target, None)


def test_sessions_on_the_live_database_refuse_the_switch_before_anything_is_loaded(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    with psycopg.connect(postgres18.dsn(source.database), application_name="a client"):
        before = databases(postgres18)
        with pytest.raises(TargetInUse, match=r"1 sessions .* a client"):
            bring_back(store, backup, source, source.database, replace=True)
        assert databases(postgres18) == before


def test_a_session_that_comes_while_it_loads_refuses_the_switch_and_leaves_all_as_it_was(
    source: Server,
    backup: BackupName,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
) -> None:
    clients: list[psycopg.Connection[tuple[object, ...]]] = []
    before = databases(postgres18)

    def connect(progress: Progress) -> None:
        if progress.stage == "restore" and not clients:
            clients.append(psycopg.connect(postgres18.dsn(source.database)))

    try:
        with pytest.raises(TargetInUse):
            bring_back(store, backup, source, source.database, replace=True, report=connect)
    finally:
        clients[0].close()
    assert databases(postgres18) == before


def test_disconnect_ends_the_sessions_and_switches(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    with psycopg.connect(postgres18.dsn(source.database)) as client:
        result = bring_back(store, backup, source, source.database, replace=True, disconnect=True)
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    assert result.previous in databases(postgres18)


def test_readers_see_a_whole_database_before_and_after_the_switch(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    """Clients come and go all the while; what they read is the old rows or the restored ones."""
    with source.connect() as connection:
        connection.execute("DELETE FROM public.two; DELETE FROM public.one WHERE id > 5000")
    seen: set[int] = set()
    wrong: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(postgres18.dsn(source.database)) as client:
                    row = client.execute("SELECT count(*) FROM public.one").fetchone()
                    assert row is not None
                    seen.add(row[0])
            except psycopg.OperationalError:
                time.sleep(0.01)  # ended by the switch, or refused in that instant
            except psycopg.Error as error:
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        bring_back(store, backup, source, source.database, replace=True, disconnect=True)
        time.sleep(0.3)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert seen == {5000, 20000}


def once_loading(act: Callable[[], object]) -> Report:
    """Do something in the middle of loading, once."""
    done: list[bool] = []

    def report(progress: Progress) -> None:
        if progress.stage == "restore" and progress.done > 300_000 and not done:
            done.append(True)
            act()

    return report


def test_an_interruption_leaves_the_target_as_it_was(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    names, before = databases(postgres18), contents(source)
    with pytest.raises(KeyboardInterrupt):
        bring_back(
            store, backup, source, source.database, replace=True, report=once_loading(interrupt)
        )
    assert (databases(postgres18), contents(source)) == (names, before)


def test_a_lost_connection_leaves_the_target_as_it_was(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def cut() -> None:
        with psycopg.connect(postgres18.dsn()) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname ~ '_restoring_'"
            )

    names, before = databases(postgres18), contents(source)
    with pytest.raises(BackupPipelineError):
        bring_back(store, backup, source, source.database, replace=True, report=once_loading(cut))
    assert (databases(postgres18), contents(source)) == (names, before)


def test_a_statement_that_the_server_refuses_leaves_the_target_as_it_was(
    source: Server, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    with source.connect() as connection:
        # A key that does not hold: such a database dumps well, and its post-data is refused.
        connection.execute(
            "SET session_replication_role = replica; INSERT INTO public.two VALUES (-1)"
        )
    name = make(source, store, postgres18)
    names, before = databases(postgres18), contents(source)
    with pytest.raises(PostgresFailed, match="violates foreign key constraint"):
        bring_back(store, name, source, source.database, replace=True)
    assert (databases(postgres18), contents(source)) == (names, before)


def test_rows_that_are_not_those_of_the_manifest_are_never_switched_in(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def meddle() -> None:
        (loading,) = [name for name in databases(postgres18) if "_restoring_" in name]
        with psycopg.connect(postgres18.dsn(loading), autocommit=True) as meddler:
            meddler.execute("INSERT INTO public.two VALUES (NULL)")

    names = databases(postgres18)
    with pytest.raises(VerificationFailed, match=r"public\.two has 2859 rows where 2858"):
        bring_back(
            store, backup, source, source.database, replace=True, report=once_loading(meddle)
        )
    assert databases(postgres18) == names


def test_an_older_server_is_refused(
    source: Server,
    backup: BackupName,
    store: ObjectStore,
    postgres16: EmbeddedPostgres,
) -> None:
    older = Server.of(postgres16.dsn())
    before = databases(postgres16)
    with pytest.raises(TargetUnsuitable, match="PostgreSQL 16"):
        bring_back(store, backup, older, "anything")
    assert databases(postgres16) == before


def test_a_backup_of_an_older_server_goes_into_a_newer_one(
    store: ObjectStore, postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres
) -> None:
    with new_database(postgres16) as old:
        with old.connect() as connection:
            connection.execute(TABLES)
        name = make(old, store, postgres16)
        new = Server.of(postgres18.dsn())
        try:
            bring_back(store, name, new, old.database)
            assert contents(new.using(old.database)) == contents(old)
        finally:
            drop_database(postgres18, old.database)


def test_a_newer_pg_dump_does_not_keep_a_backup_from_its_own_server(
    store: ObjectStore, postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres
) -> None:
    """pg_dump 17 and later set `transaction_timeout`, which PostgreSQL 16 does not know."""
    with new_database(postgres16) as old:
        with old.connect() as connection:
            connection.execute(TABLES)
        name = make(old, store, postgres18)
        target = f"{old.database}_restored"
        try:
            bring_back(store, name, old, target)
            assert contents(old.using(target)) == contents(old)
        finally:
            drop_database(postgres16, target)


def test_a_missing_extension_is_named_before_the_restore_starts(
    source: Server, store: ObjectStore, postgres18: EmbeddedPostgres, postgres15: EmbeddedPostgres
) -> None:
    with new_database(postgres15) as other:
        with other.connect() as connection:
            connection.execute("CREATE EXTENSION hstore")
        name = make(other, store, postgres15)
        names = databases(postgres18)
        with pytest.raises(TargetUnsuitable, match="hstore"):
            bring_back(store, name, source, "anything")
        assert databases(postgres18) == names


def test_a_role_that_may_not_create_databases_is_told_so(
    source: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    role = f"{source.database}_role"
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        admin.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'p'").format(Identifier(role)))
        try:
            humble = Server.of(postgres18.dsn(), user=role, password="p")  # noqa: S106
            with pytest.raises(TargetUnsuitable, match="may not create databases"):
                bring_back(store, backup, humble, f"{source.database}_new")
        finally:
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


def test_a_backup_that_is_not_there(source: Server, store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        bring_back(store, BackupName.of(source.database, now()), source, "anything")


@pytest.mark.parametrize(
    "target",
    [
        "--version",
        "a=b",
        "postgresql://x",
        'quo"te',
        "new\nline",
        "../up",
        "$(id)",
        "é" * 31,
        "x" * 63,
    ],
)
def test_a_target_of_any_name(
    source: Server,
    backup: BackupName,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
    target: str,
) -> None:
    try:
        tools = [postgres18.bin_dir]
        bring_back(store, backup, source, target, bin_dirs=tools)
        assert contents(source.using(target)) == contents(source)
        result = bring_back(store, backup, source, target, replace=True, bin_dirs=tools)
        assert result.previous is not None
        drop_database(postgres18, result.previous)
    finally:
        drop_database(postgres18, target)
