"""Fault 22: names that look like options, paths, patterns, SQL or shell are only names.

A hundred of them, for databases, schemas, tables, columns, roles and backups, through every verb.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Composed, Identifier

from backup_pipeline.cli import run
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.names import BackupName
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.settings import Settings
from backup_pipeline_tests.conftest import database_called
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.integration.databases import (
    assert_equal,
    databases,
    drop_database,
    new_database,
)

COUNT = 100
KNOWN = (
    "--version",
    "-f/x",
    "-",
    "--",
    "a=b",
    "host=127.0.0.1 port=1 dbname=x",
    "postgresql://127.0.0.1:1/x?user=y",
    "it's",
    'say "it"',
    '"',
    "two\nlines",
    "\n",
    "a return\r\n",
    "../up",
    "/etc/passwd",
    ".",
    "..",
    "$(touch canary)",
    "`touch canary`",
    "; touch canary;",
    "| touch canary",
    "\\! touch canary",
    "\\.",
    "\\connect postgres",
    "'; DROP TABLE t; --",
    "/* comment",
    "$$",
    "*",
    "?",
    "a.b",
    "(a|b)",
    "[a-z]+",
    "public.*",
    "%s",
    "%(name)s",
    "%41",
    "{0}",
    "{name!r}",
    "${HOME}",
    "~",
    " ",
    " spaces at both ends ",
    "tab\tbed",
    "UPPER",
    "select",
    "COPY x FROM stdin;",
    "-- PostgreSQL database dump complete",
    "ünïcödé-数据",
    "emoji-😀",
    "\u202eright to left",
    "\x1b[2Jescape",
    "\x7f",
    "x" * 63,
    "é" * 31,
    "manifest.json",
    "x.sql.gz",
    "ahold_options_2025-12-16_230000",
)
_PIECES = (*"-/\\'\"`);\n\t =%*éB数a0.{}|&<>#\x01", "--", "..", "$(")


def hostile_names(chance: Chance) -> list[str]:
    """The known ones, and others put together from pieces of such names."""
    names = dict.fromkeys(KNOWN)
    while len(names) < COUNT:
        made = "".join(chance.random.choices(_PIECES, k=chance.random.randint(1, 20)))
        names[made.encode()[:63].decode(errors="ignore")] = None
    return list(names)


@pytest.fixture
def names(chance: Chance) -> list[str]:
    return hostile_names(chance)


def typed(verb: str, *given: str, code: int = 0) -> Any:
    """What a command of this process says, as the document that it is for programs."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        ended = run([verb, "--json", *given])
    assert ended == code, (verb, given, out.getvalue())
    return json.loads(out.getvalue())


@pytest.fixture
def cli(
    s3_environment: dict[str, str],
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Callable[..., Any]]:
    """Commands in an empty directory, where a canary would be seen."""
    monkeypatch.chdir(tmp_path)
    settings = {
        **s3_environment,
        **postgres.environment(),
        "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
    }
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)

    yield typed
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # names as they are


# Databases


@pytest.fixture
def tidy(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Drop whatever databases the test has made."""
    before = databases(postgres)
    yield
    for database in databases(postgres) - before:
        drop_database(postgres, database)


@pytest.mark.usefixtures("tidy")
def test_a_database_of_any_name_goes_through_every_verb(
    cli: Callable[..., Any],
    chance: Chance,
    names: Sequence[str],
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in chance.some(names, 2):
        print(repr(name))  # noqa: T201  # whoever sees this fail needs it
        with database_called(postgres, name, "template0"):
            origin = Server.of(postgres.dsn(name))
            with origin.connect() as connection:
                connection.execute("CREATE TABLE public.t AS SELECT generate_series(1, 9) AS id")
            monkeypatch.setenv("BACKUP_DATABASE", name)
            assert {f["level"] for f in cli("check")["findings"]} <= {"ok", "warn"}
            made = cli("backup")
            backup = BackupName.parse(made["name"])
            assert (backup.database, made["rows"]) == (name, 9)
            (listed,) = cli("list", f"--database={name}")["backups"]
            assert cli("show", listed["name"])["manifest"]["source"]["database"] == name
            assert cli("verify", str(backup))["verified"][0]["passed"] is True
            cli("keep", str(backup), f"--reason={name if name.isprintable() else 'none'}")
            assert [d["keep"] for d in cli("prune", "--dry-run")["decisions"]] == [True]
            cli("unkeep", str(backup))
            assert cli("drill", str(backup))["passed"] is True
            copy = f"{name.encode()[:50].decode(errors='ignore')}_copy"
            cli("restore", "--latest", f"--into={copy}", "--no-confirm")
            assert_equal(postgres, origin, origin.using(copy))
            replaced = cli("restore", "--backup", str(backup), "--replace", "--no-confirm")
            assert replaced["database"] == name
            synced = f"{name.encode()[:50].decode(errors='ignore')}_sync"
            cli("sync", f"--to=host={postgres.host}", f"--into={synced}", "--no-confirm")
            assert_equal(postgres, origin, origin.using(synced))


# Schemas, tables, columns, roles


@pytest.fixture
def crowd(postgres: EmbeddedPostgres, names: Sequence[str]) -> Iterator[Server]:
    """A database in which every name is a schema, a table, a column, an index and a role's."""
    roles = [f"{name.encode()[:54].decode(errors='ignore')}{os.urandom(4).hex()}" for name in names]
    with ExitStack() as dropped, psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        server = dropped.enter_context(new_database(postgres))
        with server.connect() as connection:
            for schema, table, role in zip(names, reversed(names), roles, strict=True):
                connection.execute(SQL("CREATE ROLE {}").format(Identifier(role)))
                connection.execute(_laid_out(schema, table, role))
        yield server
        dropped.close()
        for database in databases(postgres):
            if database.startswith(server.database):
                drop_database(postgres, database)
        for role in roles:
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


def _laid_out(schema: str, table: str, role: str) -> Composed:
    statements = SQL("""
        CREATE SCHEMA {schema};
        CREATE TABLE {schema}.{table} ({column} serial PRIMARY KEY, value text);
        INSERT INTO {schema}.{table} (value) VALUES ('one'), ('two');
        CREATE INDEX {index} ON {schema}.{table} (value);
        COMMENT ON TABLE {schema}.{table} IS {comment};
        CREATE POLICY {schema} ON {schema}.{table} TO {role} USING (true);
    """)
    return statements.format(
        schema=Identifier(schema),
        table=Identifier(table),
        # Its sequence gets a name of 63 bytes out of both.
        column=Identifier(schema),
        index=Identifier(f"{table.encode()[:58].decode(errors='ignore')}_idx"),
        comment=table,
        role=Identifier(role),
    )


def test_schemas_tables_and_roles_of_any_name_are_backed_up_and_restored(
    cli: Callable[..., Any],
    crowd: Server,
    chance: Chance,
    names: Sequence[str],
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUP_DATABASE", crowd.database)
    assert {f["level"] for f in cli("check")["findings"]} <= {"ok", "warn"}
    made = cli("backup")
    assert (made["tables"], made["rows"]) == (COUNT, 2 * COUNT)
    assert cli("drill", "--latest")["passed"] is True
    whole = f"{crowd.database}_whole"
    cli("restore", "--latest", f"--into={whole}", "--no-confirm")
    assert_equal(postgres, crowd, crowd.using(whole))
    chosen = chance.some(range(COUNT), 2)
    for number in chosen:
        option, name = chance.random.choice(
            (("--schema", names[number]), ("--table", names[number]))
        )
        print(option, repr(name))  # noqa: T201
        into = f"{crowd.database}_{number}"
        restored = cli("restore", "--latest", f"{option}={name}", f"--into={into}", "--no-confirm")
        assert (restored["tables"], restored["rows"]) == (1, 2)


# Backups, and whatever else people type


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """An empty bucket for every command of this process."""
    store = MemoryStore()
    monkeypatch.setattr(Settings, "store", lambda _: store)
    return store


def test_what_is_no_name_of_a_backup_is_refused_by_every_verb(
    cli: Callable[..., Any], memory: ObjectStore, names: Sequence[str]
) -> None:
    for name in names:
        wellformed = name == "ahold_options_2025-12-16_230000"
        for verb in ("show", "verify", "keep", "unkeep", "drill", "adopt", "restore"):
            given = [f"--backup={name}"] if verb == "restore" else ["--", name]
            error = cli(verb, *given, code=4 if wellformed else 2)
            assert error["error"] == ("NotFound" if wellformed else "InvalidInput")
    assert list(memory.list("")) == []


def test_whatever_is_typed_for_a_database_or_a_time_is_never_more_than_that(
    cli: Callable[..., Any], memory: ObjectStore, names: Sequence[str]
) -> None:
    for name in names:
        assert cli("list", f"--database={name}")["backups"] == []
        for verb in ("verify", "drill", "restore"):
            missing = cli(verb, "--latest", f"--database={name}", code=4)
            assert missing["error"] == "NotFound"
        for verb, option in (("restore", "--at"), ("list", "--since"), ("backup", "--date")):
            assert cli(verb, f"{option}={name}", code=2)["error"] == "InvalidInput"
    assert list(memory.list("")) == []
