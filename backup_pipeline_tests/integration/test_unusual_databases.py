"""Databases that PostgreSQL allows and few people have: each comes back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic, sleep

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine import target
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.source import read_source
from backup_pipeline.engine.target import leftovers
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    assert_equal,
    databases,
    drop_database,
    new_database,
    psql,
)

KEYS = Keys("backups/postgres/")
NAME = BackupName.parse("unusual_2026-11-29_230000")

UNUSUAL = {
    "arguments and columns that are called begin": b"""
        CREATE TABLE begin (begin int, "end" int);
        INSERT INTO begin VALUES (1, 2);
        CREATE FUNCTION spans(begin date, fin date) RETURNS TABLE (begin date, days int)
            LANGUAGE sql AS 'SELECT $1, $2 - $1';
        CREATE FUNCTION first() RETURNS int
            BEGIN ATOMIC
                SELECT CASE WHEN b.begin > 0 THEN b.begin END FROM begin AS b;
                SELECT begin.begin FROM begin;
            END;
        CREATE FUNCTION last(begin int) RETURNS int LANGUAGE sql RETURN begin + 1;
        CREATE TABLE behind AS SELECT 1 AS id;
    """,
    "no schema called public": b"""
        DROP SCHEMA public;
        CREATE SCHEMA app;
        CREATE TABLE app.orders AS SELECT 1 AS id;
    """,
    "a parent without columns": b"""
        CREATE TABLE parent ();
        CREATE TABLE child (id int) INHERITS (parent);
        INSERT INTO child VALUES (1);
    """,
    "a subscription": b"""
        CREATE TABLE orders AS SELECT 1 AS id;
        CREATE SUBSCRIPTION news CONNECTION 'host=127.0.0.1 port=9' PUBLICATION p
            WITH (connect = false, slot_name = 'of_somebody');
    """,
    "row-level security that holds for the owner, too": b"""
        CREATE TABLE secrets (id int, owner text);
        INSERT INTO secrets SELECT i, 'nobody' FROM generate_series(1, 10) AS i;
        ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
        ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON secrets USING (owner = current_user);
    """,
    "partitions on another server, which does not answer": b"""
        CREATE FOREIGN DATA WRAPPER nowhere;
        CREATE SERVER remote FOREIGN DATA WRAPPER nowhere;
        CREATE TABLE measures (id int) PARTITION BY RANGE (id);
        CREATE TABLE here PARTITION OF measures FOR VALUES FROM (0) TO (10);
        CREATE FOREIGN TABLE there PARTITION OF measures FOR VALUES FROM (10) TO (20)
            SERVER remote;
        INSERT INTO measures VALUES (1);
    """,
}


def now() -> datetime:
    return datetime.now(UTC)


def make(server: Server, postgres: EmbeddedPostgres) -> MemoryStore:
    """A store with a backup of the database."""
    store = MemoryStore()
    source = PostgresDumpSource(server, [postgres.bin_dir], jobs=2)
    back_up(source, store, KEYS, NAME, clock=now)
    return store


def differences_in_a_drill(
    store: MemoryStore, server: Server, postgres: EmbeddedPostgres
) -> tuple[str, ...]:
    bin_dirs = [postgres.bin_dir]
    return drill(store, KEYS, NAME, server, bin_dirs, jobs=2, clock=now).entry.findings


@contextmanager
def restored(store: MemoryStore, server: Server, postgres: EmbeddedPostgres) -> Iterator[Server]:
    again = f"{server.database}_again"
    restore(store, KEYS, NAME, server, again, bin_dirs=[postgres.bin_dir], jobs=2, clock=now)
    try:
        yield server.using(again)
    finally:
        without_subscriptions(server.using(again))
        drop_database(postgres, again)


def without_subscriptions(server: Server) -> None:
    """PostgreSQL drops no database that has some."""
    with server.connect() as connection:
        found = connection.execute(
            "SELECT subname FROM pg_subscription JOIN pg_database ON subdbid = pg_database.oid"
            " WHERE datname = current_database()"
        ).fetchall()
        for (name,) in found:
            connection.execute(
                SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(Identifier(name))
            )
            connection.execute(SQL("DROP SUBSCRIPTION {}").format(Identifier(name)))


@pytest.mark.parametrize("kind", UNUSUAL)
def test_it_comes_back_equal_and_a_drill_says_so_and_leaves_nothing(
    any_postgres: EmbeddedPostgres, kind: str
) -> None:
    with new_database(any_postgres) as server:
        psql(any_postgres, server.database, UNUSUAL[kind])
        try:
            before = databases(any_postgres)
            store = make(server, any_postgres)
            assert differences_in_a_drill(store, server, any_postgres) == ()
            assert databases(any_postgres) == before
            with restored(store, server, any_postgres) as again:
                assert_equal(any_postgres, server, again)
        finally:
            without_subscriptions(server)


def test_a_trigger_that_writes_at_each_login_writes_none_of_ours(
    postgres18: EmbeddedPostgres,
) -> None:
    with new_database(postgres18) as server:
        psql(
            postgres18,
            server.database,
            b"""
            CREATE TABLE logins (who text);
            CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.logins VALUES (session_user); END $$;
            CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION note();
            ALTER EVENT TRIGGER at_login ENABLE ALWAYS;
            """,
        )
        quiet = server.with_option("event_triggers", "off")
        store = make(quiet, postgres18)
        assert differences_in_a_drill(store, server, postgres18) == ()
        with restored(store, server, postgres18) as again:
            assert_equal(postgres18, quiet, again.with_option("event_triggers", "off"))


def test_rows_are_compared_whatever_the_time_zone_and_the_style_of_either_database(
    postgres18: EmbeddedPostgres,
) -> None:
    with new_database(postgres18) as server:
        psql(
            postgres18,
            server.database,
            b"CREATE TABLE t AS SELECT now() AS at, 'abc'::bytea AS bytes, '1 day'::interval AS i",
        )
        with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
            for setting in ("timezone = 'Asia/Kathmandu'", "bytea_output = 'escape'"):
                alter = SQL("ALTER DATABASE {} SET " + setting)
                admin.execute(alter.format(Identifier(server.database)))
        store = make(server, postgres18)
        assert differences_in_a_drill(store, server, postgres18) == ()


def test_a_database_without_an_encoding_comes_back_byte_by_byte(
    any_postgres: EmbeddedPostgres,
) -> None:
    name = "without_encoding"
    with psycopg.connect(any_postgres.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        psql(
            any_postgres,
            name,
            b"SET client_encoding = 'SQL_ASCII'; CREATE TABLE \"caf\xe9\" (drink text);"
            b"INSERT INTO \"caf\xe9\" VALUES ('cr\xe8me'), ('\xff\xfe'), ('gr\xc3\xbcn');"
            b"COMMENT ON TABLE \"caf\xe9\" IS '\xe9t\xe9'",
        )
        server = Server.of(any_postgres.dsn(name))
        store = make(server, any_postgres)
        assert differences_in_a_drill(store, server, any_postgres) == ()
        with restored(store, server, any_postgres) as again, again.connect() as connection:
            rows = connection.execute(
                b'SELECT drink::bytea FROM public."caf\xe9" ORDER BY drink COLLATE "C"'
            ).fetchall()
        assert [row[0] for row in rows] == [b"cr\xe8me", b"gr\xc3\xbcn", b"\xff\xfe"]
    finally:
        drop_database(any_postgres, name)


def test_timeouts_that_an_owner_has_set_end_nothing(postgres18: EmbeddedPostgres) -> None:
    timeouts = ("statement_timeout", "transaction_timeout", "idle_session_timeout")
    with new_database(postgres18) as server:
        psql(
            postgres18,
            server.database,
            b"CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i;"
            b"CREATE INDEX ON t (md5)",
        )
        store = make(server, postgres18)
        with role_with(postgres18, dict.fromkeys(timeouts, "200ms")) as hasty:
            hurried = Server.of(postgres18.dsn(server.database), user=hasty, password="p")  # noqa: S106
            make(hurried, postgres18)
            assert differences_in_a_drill(store, hurried, postgres18) == ()
            with hurried.using("postgres").connect() as admin:
                assert leftovers(admin) == ()


@contextmanager
def role_with(postgres: EmbeddedPostgres, settings: dict[str, str]) -> Iterator[str]:
    """A superuser whose sessions have these settings."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE hasty SUPERUSER LOGIN PASSWORD 'p'")
        try:
            for name, value in settings.items():
                admin.execute(f"ALTER ROLE hasty SET {name} = '{value}'".encode())
            yield "hasty"
        finally:
            admin.execute("DROP ROLE hasty")


@contextmanager
def vacuumed(postgres: EmbeddedPostgres, owner: Server) -> Iterator[None]:
    """A table of the owner's database, in which an autovacuum worker is busy for long."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            with owner.connect() as connection:
                connection.execute(
                    "CREATE TABLE public.busy (id int) WITH (autovacuum_vacuum_cost_delay = 100,"
                    " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1,"
                    " autovacuum_vacuum_scale_factor = 0)"
                )
                connection.execute("INSERT INTO public.busy SELECT generate_series(1, 200000)")
                connection.execute("DELETE FROM public.busy WHERE id % 2 = 0")
            deadline = monotonic() + 30
            while not admin.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = %s AND backend_type = 'autovacuum worker'",
                [owner.database],
            ).fetchone():
                assert monotonic() < deadline
                sleep(0.05)
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET autovacuum_naptime")
            admin.execute("SELECT pg_reload_conf()")


@contextmanager
def plain_role(postgres: EmbeddedPostgres) -> Iterator[Server]:
    """A role that may create databases, and is no superuser; what it makes is dropped."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE plain LOGIN CREATEDB PASSWORD 'p'")
        try:
            yield Server.of(postgres.dsn(), user="plain", password="p")  # noqa: S106
        finally:
            for (name,) in admin.execute(
                "SELECT datname FROM pg_database WHERE datdba = 'plain'::regrole"
            ).fetchall():
                drop_database(postgres, name)
            admin.execute("DROP ROLE plain")


def test_an_autovacuum_worker_keeps_no_plain_role_from_dropping_what_it_made(
    postgres18: EmbeddedPostgres,
) -> None:
    with plain_role(postgres18) as plain, plain.connect() as admin:
        made = target.new_database(plain, admin, read_source(admin), "half_made")
        with made as name, vacuumed(postgres18, plain.using(name)):
            pass
        assert name not in databases(postgres18)


def test_an_autovacuum_worker_keeps_no_plain_role_from_switching(
    postgres18: EmbeddedPostgres,
) -> None:
    with plain_role(postgres18) as plain:
        with plain.connect() as admin:
            admin.execute("CREATE DATABASE live TEMPLATE template0")
        live = plain.using("live")
        store = make(live, postgres18)
        with vacuumed(postgres18, live):
            result = restore(
                store, KEYS, NAME, live, "live", replace=True, disconnect=True, clock=now
            )
        assert result.previous in databases(postgres18)


def test_what_another_role_has_left_is_no_reason_to_do_without_a_restore(
    postgres18: EmbeddedPostgres,
) -> None:
    left = "somebodys_restoring_0123abcd"
    with plain_role(postgres18) as plain, new_database(postgres18, name=left):
        with psycopg.connect(postgres18.dsn(), autocommit=True) as boss:
            boss.execute(f"ALTER DATABASE {left} ALLOW_CONNECTIONS false")
        with plain.connect() as admin:
            admin.execute("CREATE DATABASE live TEMPLATE template0")
        live = plain.using("live")
        store = make(live, postgres18)
        restore(store, KEYS, NAME, live, "again", clock=now)
        assert {left, "again"} <= databases(postgres18)
