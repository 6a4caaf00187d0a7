"""A dump that somebody forged runs no command: not here, and none that psql would run.

The canary is a file that each of the forged commands would make.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import Contents, Manifest, Member, Section
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.source import read_source
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import PostgresFailed, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    new_database,
)
from backup_pipeline_tests.made_backups import manifest_of

KEYS = Keys("backups/postgres/")
OPENING = "--\n-- PostgreSQL database dump\n--\n\n"
CLOSING = "--\n-- PostgreSQL database dump complete\n--\n\n"
TABLE = "CREATE TABLE public.t (id integer, stdin integer);\n"

META_COMMANDS = {
    "shell": "\\! touch CANARY\n",
    "shell behind pg_dump's own guards": "\\restrict abc\n\\unrestrict abc\n\\! touch CANARY\n",
    "output to a pipe": "\\o |touch CANARY\n",
    "a backtick": "\\set x `touch CANARY`\n",
    "copy to a program": TABLE + "\\copy public.t to program 'touch CANARY'\n",
    "behind a statement": "SELECT 1 \\! touch CANARY\n;\n",
    "in place of a table's rows": TABLE + "COPY public.t (id) FROM stdin;\n\\.\n\\! touch CANARY\n",
}
COPIES = {
    "from a program": TABLE + "COPY public.t FROM PROGRAM 'touch CANARY';\n",
    "to a program": TABLE + "COPY public.t TO PROGRAM 'touch CANARY';\n",
    "in lower case": TABLE + "copy/**/public.t from program 'touch CANARY';\n",
    "of a query": "COPY (SELECT 1) TO PROGRAM 'touch CANARY';\n",
    "that ends like pg_dump's": TABLE
    + "COPY public.t FROM PROGRAM 'touch CANARY' WHERE id IS DISTINCT FROM stdin;\n",
    "with a comment like pg_dump's": TABLE
    + "COPY public.t FROM PROGRAM 'touch CANARY' -- FROM stdin;\n;\n",
}
FORGED = META_COMMANDS | COPIES
BLOCK = "DO $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch CANARY'''; END $$;\n"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def canary(scratch: Path) -> Path:
    """A file that is not there, in a directory where the server's user could make it."""
    scratch.chmod(0o777)
    return scratch / "canary"


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A live database; whatever a test makes beside it is dropped afterwards."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.mine AS SELECT 42 AS id")
        yield server
        for database in databases(postgres18):
            if database.startswith(server.database):
                drop_database(postgres18, database)


def forge(
    store: ObjectStore, server: Server, section: Section, sql: str, canary: Path
) -> BackupName:
    """Store a backup whose manifest fits, and that has this SQL in one of its sections."""
    name = BackupName.of(server.database, now())
    texts = dict.fromkeys(Section, OPENING + CLOSING)
    texts[section] = OPENING + sql.replace("CANARY", str(canary)) + CLOSING
    dump, members = b"", []
    for each, text in texts.items():
        body, member = member_of(each, text.encode(), len(dump))
        dump += body
        members.append(member)
    with server.connect() as connection:
        source = read_source(connection)
    manifest = replace(
        manifest_of(name, now(), dump, b"PGDMP"),
        source=source,
        members=tuple(members),
        contents=Contents((), (), None),
    )
    assert isinstance(manifest, Manifest)
    store.put(KEYS.of(name, Kind.SCHEMA), b"PGDMP")
    store.put(KEYS.of(name, Kind.DUMP), dump)
    store.put(KEYS.of(name, Kind.MANIFEST), to_json(manifest))
    return name


def member_of(section: Section, text: bytes, offset: int) -> tuple[bytes, Member]:
    writer = MemberWriter()
    body = writer.compress(text) + writer.finish()
    inventory = Inventory("UTF8")
    try:
        inventory.feed(text)
        tables = inventory.take_tables() if section is Section.DATA else ()
    except VerificationFailed:
        tables = ()
    sha256 = hashlib.sha256(body).hexdigest()
    return body, Member(section, offset, len(body), len(text), sha256, tables)


@pytest.mark.parametrize("sql", FORGED.values(), ids=FORGED)
def test_psql_would_run_it(
    live: Server, postgres18: EmbeddedPostgres, canary: Path, sql: str
) -> None:
    """What the other tests prove is proved of commands that work."""
    psql = [str(postgres18.bin_dir / "psql"), "-X", "--quiet"]
    script = sql.replace("CANARY", str(canary))
    environment = {"PATH": "/usr/bin:/bin", **postgres18.environment(live.database)}
    subprocess.run(psql, input=script.encode(), env=environment, capture_output=True, check=False)
    assert canary.exists()


@pytest.mark.parametrize("section", [Section.PRE_DATA, Section.DATA, Section.POST_DATA])
@pytest.mark.parametrize("sql", FORGED.values(), ids=FORGED)
def test_no_command_of_a_forged_dump_runs_and_the_target_is_as_it_was(
    live: Server, postgres18: EmbeddedPostgres, canary: Path, sql: str, section: Section
) -> None:
    store = MemoryStore()
    name = forge(store, live, section, sql, canary)
    before, names = contents(live), databases(postgres18)
    with pytest.raises(VerificationFailed, match=r"meta-command|COPY statement is not of the form"):
        restore(store, KEYS, name, live, live.database, replace=True, clock=now)
    assert not canary.exists()
    assert (contents(live), databases(postgres18)) == (before, names)


def test_what_sql_itself_may_do_is_up_to_the_role_that_restores(
    live: Server, postgres18: EmbeddedPostgres, canary: Path
) -> None:
    """A block of SQL can't be told from the owner's own; only a superuser's runs programs."""
    store = MemoryStore()
    name = forge(store, live, Section.PRE_DATA, BLOCK, canary)
    role = f"{live.database}_role"
    names = databases(postgres18)
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        admin.execute(SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD 'p'").format(Identifier(role)))
        try:
            humble = Server.of(postgres18.dsn(), user=role, password="p")  # noqa: S106
            with pytest.raises(PostgresFailed, match="permission denied to COPY"):
                restore(store, KEYS, name, humble, f"{live.database}_new", clock=now)
        finally:
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))
    assert not canary.exists()
    assert databases(postgres18) == names


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE public.t OWNER TO nobody_there;\n",
        "SET search_path = nowhere; DROP COLLATION nobody_has_this;\n",
    ],
)
def test_a_name_that_the_server_does_not_know_ends_the_restore_wherever_it_is_no_parameter(
    live: Server, postgres18: EmbeddedPostgres, canary: Path, sql: str
) -> None:
    """What is passed over is `SET` of a parameter that only newer servers have, and no more."""
    store, names = MemoryStore(), databases(postgres18)
    known = forge(store, live, Section.PRE_DATA, "SET of_a_newer_server = on;\n" + TABLE, canary)
    target = f"{live.database}_new"
    restore(store, KEYS, known, live, target, clock=now)
    drop_database(postgres18, target)
    store = MemoryStore()
    name = forge(store, live, Section.PRE_DATA, TABLE + sql, canary)
    with pytest.raises(PostgresFailed, match="nobody"):
        restore(store, KEYS, name, live, target, clock=now)
    assert databases(postgres18) == names


@pytest.mark.parametrize("command", ["`touch {}`", "$(touch {})", "\n\\! touch {}\n", "|touch {}"])
def test_a_database_named_like_a_command(
    postgres18: EmbeddedPostgres, store: ObjectStore, canary: Path, command: str
) -> None:
    hostile = command.format(canary)
    with new_database(postgres18, name=hostile) as server:
        with server.connect() as connection:
            table = Identifier(hostile)
            connection.execute(SQL("CREATE TABLE public.{} AS SELECT 1 AS id").format(table))
            connection.execute(SQL("COMMENT ON TABLE public.{} IS 'x'").format(table))
        name = BackupName.of(hostile, now())
        back_up(PostgresDumpSource(server, [postgres18.bin_dir]), store, KEYS, name, clock=now)
        beside = f"{hostile}2"
        kept = None
        try:
            restore(store, KEYS, name, server, beside, clock=now)
            kept = restore(store, KEYS, name, server, hostile, replace=True, clock=now).previous
            assert kept is not None
            held = [contents(server.using(each)) for each in (hostile, beside, kept)]
            assert held[0] == held[1] == held[2]
        finally:
            for each in filter(None, (beside, kept)):
                drop_database(postgres18, each)
    assert not canary.exists()
