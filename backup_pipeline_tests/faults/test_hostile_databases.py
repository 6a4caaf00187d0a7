"""Fault 30: what an owner has laid out in a database is not run by whoever dumps it.

Each function of the database writes a line into the server's log, so that none can run unnoticed
whatever becomes of its transaction.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.diagnosis import diagnose
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import contents, drop_database, new_database

KEYS = Keys("backups/postgres/")
CANARY = "canary: a function of the database runs"

# Better matches for our calls than pg_catalog's own, and names that stand for its tables.
SHADOWS = (
    ("hashtextextended(text, integer)", "bigint", "1"),
    ("set_config(text, text, boolean)", "text", "'x'"),
    ("convert_to(text, name)", "bytea", "'x'"),
    ("getdatabaseencoding()", "name", "'LATIN1'"),
    ("pg_export_snapshot()", "text", "'x'"),
    ("pg_advisory_lock(integer, integer)", "void", "NULL"),
    ("pg_database_size(oid)", "bigint", "1"),
    ("pg_is_in_recovery()", "boolean", "true"),
    ("current_setting(text)", "text", "'x'"),
    ("has_table_privilege(oid, text)", "boolean", "false"),
    ("shobj_description(oid, name)", "text", "'x'"),
    ("lo_get(oid, bigint, integer)", "bytea", "'x'"),
)
OPERATORS = (("=", "name", "unknown"), ("=", "text", "unknown"), ("<>", "char", "unknown"),
             ("||", "text", "bigint"), ("!~", "name", "unknown"))  # fmt: skip
LAID_OUT = """
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.seen() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE LOG 'CANARY'; RETURN true; END $$;
    CREATE TABLE evil.pg_class (oid oid, relname name);
    CREATE TABLE evil.pg_database (datname name);
    CREATE VIEW evil.pg_namespace AS SELECT evil.seen();

    CREATE DOMAIN public.checked AS integer CHECK (evil.seen());
    CREATE TABLE public.t (
        id integer PRIMARY KEY CHECK (evil.seen()),
        domain public.checked,
        given boolean DEFAULT evil.seen(),
        made boolean GENERATED ALWAYS AS (evil.seen() AND id > 0) STORED
    );
    INSERT INTO public.t (id, domain) SELECT i, i FROM generate_series(1, 50) AS i;
    CREATE INDEX ON public.t ((evil.seen() AND id > 3));
    CREATE STATISTICS public.s ON (evil.seen() AND id > 2), id FROM public.t;
    CREATE FUNCTION evil.as_text(public.t) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'CANARY'; RETURN 'x'; END $$;
    CREATE CAST (public.t AS text) WITH FUNCTION evil.as_text(public.t) AS IMPLICIT;
    CREATE FUNCTION evil.noticed() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'CANARY'; RETURN NEW; END $$;
    CREATE TRIGGER noticed BEFORE INSERT OR UPDATE OR DELETE ON public.t
        FOR EACH ROW EXECUTE FUNCTION evil.noticed();
    CREATE FUNCTION evil.truncated() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'CANARY'; RETURN NULL; END $$;
    CREATE TRIGGER truncated BEFORE TRUNCATE ON public.t EXECUTE FUNCTION evil.truncated();
    CREATE FUNCTION evil.on_event() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'CANARY'; END $$;
    ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;
    ALTER TABLE public.t FORCE ROW LEVEL SECURITY;
    CREATE POLICY seen ON public.t USING (evil.seen());
    CREATE RULE noted AS ON INSERT TO public.t DO ALSO SELECT evil.seen();
    CREATE VIEW public.v AS SELECT evil.seen() AS seen, * FROM public.t;
    CREATE MATERIALIZED VIEW public.m AS SELECT evil.seen() AS seen, id FROM public.t;
    CREATE TABLE public.parted (id integer) PARTITION BY RANGE ((id + (evil.seen()::integer)));
    CREATE TABLE public.part PARTITION OF public.parted FOR VALUES FROM (0) TO (100);
    INSERT INTO public.parted SELECT generate_series(1, 20);
    CREATE TABLE public.heir (CHECK (evil.seen())) INHERITS (public.t);
    COMMENT ON TABLE public.t IS $$'; SELECT evil.seen(); --$$;
    CREATE TABLE public."ünïcödé-数据" ("数" text);
    INSERT INTO public."ünïcödé-数据" VALUES ('数据');
    CREATE EVENT TRIGGER began ON ddl_command_start EXECUTE FUNCTION evil.on_event();
"""
SETTINGS = (
    "search_path = evil, public, pg_catalog",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = '-15'",
    "bytea_output = escape",
    "default_transaction_isolation = 'read committed'",
    "row_security = on",
    "client_min_messages = error",
    "xmloption = document",
    "client_encoding = LATIN1",
    "standard_conforming_strings = off",
    "quote_all_identifiers = on",
)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def hostile(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A database whose owner waits for a superuser to come by."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(LAID_OUT.replace("CANARY", CANARY).encode())
            for signature, result, value in SHADOWS:
                connection.execute(_shadow(signature, result, value).encode())
            for number, (operator, left, right) in enumerate(OPERATORS):
                connection.execute(_operator(number, operator, left, right).encode())
            for setting in SETTINGS:
                connection.execute(f'ALTER DATABASE "{server.database}" SET {setting}'.encode())
        yield server


def _shadow(signature: str, result: str, value: str) -> str:
    if result == "void":
        body = f"BEGIN RAISE LOG '{CANARY}'; END"
    else:
        body = f"BEGIN RAISE LOG '{CANARY}'; RETURN {value}; END"
    return f"CREATE FUNCTION evil.{signature} RETURNS {result} LANGUAGE plpgsql AS $${body}$$"


def _operator(number: int, operator: str, left: str, right: str) -> str:
    right = "text" if right == "unknown" else right
    result = "text" if operator == "||" else "boolean"
    value = "'x'" if operator == "||" else "true"
    function = f"evil.operator_{number}"
    return (
        f'CREATE FUNCTION {function}("{left}", {right}) RETURNS {result} LANGUAGE plpgsql AS'
        f" $$ BEGIN RAISE LOG '{CANARY}'; RETURN {value}; END $$;"
        f' CREATE OPERATOR evil.{operator} (FUNCTION = {function}, LEFTARG = "{left}",'
        f" RIGHTARG = {right})"
    )


class Log:
    """What the server has written since somebody began to watch."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._path = postgres.log
        self._begun = self._path.stat().st_size

    def canaries(self) -> list[str]:
        """The lines round each canary, for whoever has to find out why."""
        with self._path.open("rb") as file:
            file.seek(self._begun)
            lines = file.read().decode(errors="replace").splitlines()
        found = [number for number, line in enumerate(lines) if CANARY in line]
        return ["\n".join(lines[number : number + 9]) for number in found]


def test_the_canary_sings_when_a_function_runs(
    hostile: Server, postgres18: EmbeddedPostgres
) -> None:
    log = Log(postgres18)
    with hostile.connect() as connection:
        connection.execute("SELECT row_::text FROM public.t AS row_ LIMIT 1")
        connection.execute("SET search_path = evil, pg_catalog")
        connection.execute("SELECT hashtextextended('x', 0)")
    sung = "".join(log.canaries())
    assert "as_text" in sung
    assert "hashtextextended" in sung


def test_no_function_of_the_database_runs_while_it_is_dumped_verified_or_diagnosed(
    hostile: Server, postgres18: EmbeddedPostgres
) -> None:
    log, store = Log(postgres18), MemoryStore()
    name = BackupName.of(hostile.database, now())
    back_up(PostgresDumpSource(hostile, [postgres18.bin_dir]), store, KEYS, name, clock=now)
    assert verify(store, KEYS, name, clock=now).passed
    findings = list(diagnose(hostile, [postgres18.bin_dir], store, KEYS, clock=now))
    assert {finding.subject: finding.level for finding in findings}["rights"] == "ok"
    assert log.canaries() == []


def test_what_is_dumped_of_it_is_all_of_it(hostile: Server, postgres18: EmbeddedPostgres) -> None:
    store, target = MemoryStore(), f"{hostile.database}_restored"
    name = BackupName.of(hostile.database, now())
    back_up(PostgresDumpSource(hostile, [postgres18.bin_dir]), store, KEYS, name, clock=now)
    try:
        restore(store, KEYS, name, hostile, target, clock=now)
        assert contents(hostile.using(target)) == contents(hostile)
        proof = drill(store, KEYS, name, hostile, [postgres18.bin_dir], clock=now)
        assert proof.entry.findings == ()
    finally:
        drop_database(postgres18, target)
