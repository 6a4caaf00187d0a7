"""Roles and other globals of one server come back on another, from the backup and by psql alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.diagnosis import diagnose
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.findings import Level
from backup_pipeline.engine.model import Globals
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import ChildFailed, PostgresFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.test_hostile_names import KNOWN
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database

pytestmark = pytest.mark.xdist_group("globals")
KEYS = Keys("backups/postgres/")
COMMAND = (sys.executable, "-c", "from backup_pipeline.cli import main; main()")
CANARY = "canary-4711"
SCRIPT = f"""
    CREATE ROLE "Ordinary ""one"" " LOGIN PASSWORD '{CANARY}' CONNECTION LIMIT 7
        VALID UNTIL '2099-01-01 00:00:00+00';
    CREATE ROLE readers NOINHERIT;
    CREATE ROLE boss CREATEROLE CREATEDB BYPASSRLS;
    GRANT readers TO boss WITH ADMIN OPTION;
    GRANT readers TO "Ordinary ""one"" " WITH INHERIT TRUE, SET FALSE;
    GRANT pg_monitor TO readers;
    GRANT SET ON PARAMETER log_min_messages TO readers;
    ALTER ROLE readers SET work_mem = '5MB';
    ALTER ROLE boss SET search_path = "a b", 'c''d';
    COMMENT ON ROLE boss IS E'two\\nlines; \\\\! touch canary';
"""
STATE = """
    SELECT 'role', rolname, to_jsonb(pg_roles) - 'oid' - 'rolpassword' || jsonb_build_object(
        'comment', shobj_description(oid, 'pg_authid')) FROM pg_roles
    UNION ALL
    SELECT 'member', member::regrole::text, jsonb_build_array(
        roleid::regrole, admin_option, inherit_option, set_option, grantor::regrole)
    FROM pg_auth_members
    UNION ALL
    SELECT 'parameter', parname, to_jsonb(paracl::text) FROM pg_parameter_acl
    ORDER BY 1, 2, 3
"""
VERIFIERS = "SELECT rolname, rolpassword FROM pg_authid ORDER BY 1"


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def a_server(version: int) -> Iterator[EmbeddedPostgres]:
    with (
        TemporaryDirectory(prefix="backup-pipeline-") as directory,
        EmbeddedPostgres(Path(directory, "data"), version, durable=False) as postgres,
    ):
        yield postgres


@pytest.fixture(scope="module", params=[18, 16])
def old(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A server of its own, with roles of every kind, some with names that look like anything."""
    with a_server(request.param) as postgres:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute(SCRIPT)
            for name in KNOWN:
                role = Identifier(name)
                admin.execute(SQL("CREATE ROLE {}").format(role))
                admin.execute(SQL("GRANT readers TO {}").format(role))
                admin.execute(SQL("ALTER ROLE {} SET work_mem = '6MB'").format(role))
        yield postgres


@pytest.fixture
def live(old: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(old) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.t AS SELECT generate_series(1, 100) AS id")
        yield server
        for database in databases(old):
            if database.startswith(server.database):
                drop_database(old, database)


def source(postgres: EmbeddedPostgres, server: Server) -> PostgresDumpSource:
    return PostgresDumpSource(server, [postgres.bin_dir])


def make(postgres: EmbeddedPostgres, server: Server, store: MemoryStore) -> BackupName:
    name = BackupName.of(server.database, now())
    asked = Globals.WITHOUT_PASSWORDS
    back_up(source(postgres, server), store, KEYS, name, globals_=asked, clock=now)
    return name


def rows(postgres: EmbeddedPostgres, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.dsn()) as admin:
        return admin.execute(query.encode()).fetchall()


def by_psql(postgres: EmbeddedPostgres, sql: bytes) -> list[str]:
    """What psql says that runs a script as a superuser of a server, and goes on where it fails."""
    done = subprocess.run(
        [postgres.bin_dir / "psql", "-X", "--quiet", "--dbname=postgres"],
        input=sql,
        env=postgres.environment("postgres"),
        capture_output=True,
        check=True,
    )
    return [line for line in done.stderr.decode().splitlines() if "ERROR" in line]


Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def cli(
    old: EmbeddedPostgres, live: Server, s3_environment: Mapping[str, str], tmp_path: Path
) -> Cli:
    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        environment = {
            "PATH": os.defpath,
            # Where a guard is taken out, that is done in a copy.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **s3_environment,
            **old.environment(live.database),
            "BACKUP_PG_BIN_DIRS": str(old.bin_dir),
            **variables,
        }
        return subprocess.run(
            [*COMMAND, *arguments], env=environment, cwd=tmp_path, capture_output=True, check=False
        )

    return call


@pytest.mark.parametrize(
    ("globals_", "keyed"), [("without-passwords", False), ("with-passwords", True)]
)
def test_they_come_back_on_a_new_server(
    old: EmbeddedPostgres, cli: Cli, tmp_path: Path, globals_: str, keyed: bool
) -> None:
    identity, variables, key = Identity.made(), {}, []
    if keyed:
        (tmp_path / "mine.key").write_text(identity.secret)
        variables = {"BACKUP_RECIPIENTS": str(identity.recipient)}
        key = ["--identity", str(tmp_path / "mine.key")]
    made = cli("backup", "--json", BACKUP_GLOBALS=globals_, **variables)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["globals"], told["verification"]["passed"]) == (globals_, True)
    shown = cli("show", told["name"])
    assert f"globals     {globals_.replace('-', ' ')}".encode() in shown.stdout
    for each in (made, shown):
        assert b"SCRAM" not in each.stdout + each.stderr
    if keyed:
        refused = cli("globals", "--latest")
        assert (refused.returncode, refused.stdout) == (3, b"")

    script = cli("globals", "--latest", *key)
    assert script.returncode == 0, script.stderr
    with_passwords = globals_ == "with-passwords"
    assert (b"SCRAM-SHA-256$" in script.stdout) == with_passwords
    assert CANARY.encode() not in script.stdout

    version = rows(old, "SELECT current_setting('server_version_num')::int / 10000")[0][0]
    for newer in {18, version}:
        assert isinstance(newer, int)
        with a_server(newer) as new:
            verifiers = rows(new, VERIFIERS)
            new_dsn = new.dsn()
            (said,) = by_psql(new, script.stdout)
            assert 'role "postgres" already exists' in said
            if with_passwords:
                new_dsn = psycopg.conninfo.make_conninfo(new_dsn, password=old.password)
            with psycopg.connect(new_dsn) as admin:
                state, found = (
                    admin.execute(query.encode()).fetchall() for query in (STATE, VERIFIERS)
                )
            assert of_ours(state) == of_ours(rows(old, STATE))
            if with_passwords:
                assert found == rows(old, VERIFIERS) or newer != version
                assert {row for row in rows(old, VERIFIERS) if row[1]} <= {*found}
            else:
                assert {row for row in found if row[1]} == {row for row in verifiers if row[1]}


def of_ours(state: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Without PostgreSQL's own roles, of which later versions have more."""
    return [row for row in state if not str(row[1]).startswith("pg_")]


def test_a_database_with_a_name_like_a_connection_string_has_them_too(
    old: EmbeddedPostgres,
) -> None:
    for name in ("host=127.0.0.1 port=1 dbname=x", "postgresql://127.0.0.1:1/x?user=y", "-g 'a\\"):
        with new_database(old, name=name) as server, source(old, server).open_dump() as dump:
            assert b"CREATE ROLE boss;" in dump.globals(passwords=False)


def test_names_are_the_same_from_a_database_of_another_encoding(old: EmbeddedPostgres) -> None:
    """Bytes that a session of a UTF-8 database has written are no text to one of LATIN1."""
    with psycopg.connect(old.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with source(old, Server.of(old.dsn("latin1"))).open_dump() as dump:
                script = dump.globals(passwords=False)
        finally:
            drop_database(old, "latin1")
    with a_server(18) as new:
        (said,) = by_psql(new, script)
        assert 'role "postgres" already exists' in said
        assert of_ours(rows(new, STATE)) == of_ours(rows(old, STATE))


@pytest.fixture
def plain(old: EmbeddedPostgres, live: Server) -> Iterator[Server]:
    """The database as its owner sees it, who is nobody in particular."""
    with psycopg.connect(old.dsn(), autocommit=True) as admin:
        database = Identifier(live.database)
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'p'")
        admin.execute(SQL("ALTER DATABASE {} OWNER TO plain").format(database))
        with live.connect() as connection:
            connection.execute("ALTER TABLE public.t OWNER TO plain")
        yield Server.of(old.dsn(live.database), user="plain", password="p")  # noqa: S106
        with live.connect() as connection:
            connection.execute("REASSIGN OWNED BY plain TO postgres")
            connection.execute("DROP OWNED BY plain")
        admin.execute("DROP ROLE plain")


def finding(server: Server, bin_dir: Path, globals_: Globals) -> tuple[Level, str, str] | None:
    found = diagnose(server, [bin_dir], MemoryStore(), KEYS, clock=now, globals_=globals_)
    return next((f.level, f.message, f.advice) for f in found if f.subject == "globals")


def test_a_role_that_is_no_superuser_has_them_without_passwords_or_is_told_so(
    old: EmbeddedPostgres, plain: Server
) -> None:
    store = MemoryStore()
    name = BackupName.of(plain.database, now())
    with pytest.raises(ChildFailed, match="permission denied for table pg_authid") as failed:
        back_up(source(old, plain), store, KEYS, name, globals_=Globals.WITH_PASSWORDS, clock=now)
    assert "BACKUP_GLOBALS=without-passwords" in failed.value.hint
    assert (store.objects, store.uploads) == ({}, {})
    told = finding(plain, old.bin_dir, Globals.WITH_PASSWORDS)
    assert told == (
        Level.FAIL,
        "role 'plain' may not read the passwords of roles",
        failed.value.hint,
    )

    assert verify(store, KEYS, make(old, plain, store), clock=now).passed
    assert finding(plain, old.bin_dir, Globals.WITHOUT_PASSWORDS) == (
        Level.OK,
        "backups have roles and other globals, without passwords",
        "",
    )


def test_a_right_on_the_catalog_is_enough_for_passwords(
    old: EmbeddedPostgres, plain: Server, live: Server
) -> None:
    with live.connect() as connection:
        connection.execute("GRANT SELECT ON pg_authid TO plain")
    found = finding(plain, old.bin_dir, Globals.WITH_PASSWORDS)
    assert found
    assert found[0] is Level.OK
    with source(old, plain).open_dump() as dump:
        assert b"SCRAM" in dump.globals(passwords=True)


@pytest.fixture
def tools(old: EmbeddedPostgres, tmp_path: Path) -> Path:
    """The client tools of the server, without pg_dumpall."""
    for tool in old.bin_dir.iterdir():
        if tool.name != "pg_dumpall":
            (tmp_path / tool.name).symlink_to(tool)
    return tmp_path


def test_no_timeout_of_an_owner_ends_them(live: Server, tools: Path, plain: Server) -> None:
    with live.connect() as connection:
        connection.execute("ALTER ROLE plain SET statement_timeout = '7s'")
        connection.execute("ALTER ROLE plain SET lock_timeout = '8s'")
    (tools / "pg_dumpall").write_text(
        f"""#!/bin/sh
        {tools}/psql -X --quiet --command "SHOW statement_timeout" --command "SHOW lock_timeout"
        printf '\n-- PostgreSQL database cluster dump complete\n'
        """
    )
    (tools / "pg_dumpall").chmod(0o755)
    with PostgresDumpSource(plain, [tools]).open_dump() as dump:
        told = dump.globals(passwords=False).split()
        assert told.count(b"0") == 2


@pytest.mark.parametrize(
    ("pg_dumpall", "said"),
    [
        (None, "pg_dumpall could not be started"),
        ("exit 0", "lacks the closing line"),
        ("echo '-- PostgreSQL database cluster dump complete'; exit 3", "ended with code 3"),
    ],
)
def test_a_pg_dumpall_that_fails_makes_the_backup_fail_and_leaves_nothing(
    live: Server, tools: Path, pg_dumpall: str | None, said: str
) -> None:
    if pg_dumpall:
        (tools / "pg_dumpall").write_text(f"#!/bin/sh\n{pg_dumpall}\n")
        (tools / "pg_dumpall").chmod(0o755)
    else:
        found = finding(live, tools, Globals.WITHOUT_PASSWORDS)
        assert found
        assert found[:2] == (Level.FAIL, f"there is no pg_dumpall in {tools}")
    store, name = MemoryStore(), BackupName.of(live.database, now())
    dumps = PostgresDumpSource(live, [tools])
    with pytest.raises(PostgresFailed, match=said):
        back_up(dumps, store, KEYS, name, globals_=Globals.WITHOUT_PASSWORDS, clock=now)
    assert (store.objects, store.uploads) == ({}, {})


@pytest.mark.parametrize("missing", [False, True], ids=["flipped", "missing"])
def test_damaged_globals_fail_a_verification_and_a_drill_and_stop_no_restore(
    old: EmbeddedPostgres, live: Server, missing: bool
) -> None:
    store = MemoryStore()
    name = make(old, live, store)
    key = KEYS.of(name, Kind.GLOBALS)
    if missing:
        store.delete(key)
    else:
        stored = store.objects[key]
        body = stored.body[:-9] + bytes([stored.body[-9] ^ 1]) + stored.body[-8:]
        store.objects[key] = replace(stored, body=body)
    said = key if missing else "the script of the globals is not the one that was stored"
    (found,) = verify(store, KEYS, name, clock=now).findings
    assert said in found
    result = drill(store, KEYS, name, live, [old.bin_dir], clock=now)
    assert any(said in each for each in result.entry.findings)
    target = f"{live.database}_restored"
    assert restore(store, KEYS, name, live, target, clock=now).rows == 100
