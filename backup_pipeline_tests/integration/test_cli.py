"""The command line as its own process, against a real PostgreSQL and a real S3 server."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline_tests.integration.databases import (
    assert_equal,
    databases,
    drop_database,
    new_database,
)
from backup_pipeline_tests.store_contract import S3Server, connection_to

KEYS = Keys("backups/postgres/")
SCRIPT = """
CREATE TABLE quotes (id bigint PRIMARY KEY, symbol text NOT NULL, price numeric(10, 2));
INSERT INTO quotes SELECT i, 'AD.AS ' || i % 7, i / 4.0 FROM generate_series(1, 5000) AS i;
CREATE INDEX ON quotes (symbol);
"""
COMMAND = (sys.executable, "-c", "from backup_pipeline.cli import main; main()")


class Machine:
    """A machine on which one database, one bucket and this software are set up."""

    def __init__(self, environment: dict[str, str], directory: Path, server: Server) -> None:
        self.environment, self.directory, self.server = environment, directory, server

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> S3Store:
    return S3Store(connection_to(s3_server, bucket))


@pytest.fixture
def machine(
    postgres: EmbeddedPostgres, s3_server: S3Server, bucket: str, tmp_path: Path
) -> Iterator[Machine]:
    script = tmp_path / "quotes.sql"
    script.write_text(SCRIPT)
    before = databases(postgres)
    with new_database(postgres, script) as server:
        environment = {
            "PATH": os.defpath,
            # Where a guard is taken out, that is done in a copy.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **postgres.environment(server.database),
            "AWS_ENDPOINT_URL_S3": s3_server.endpoint_url,
            "AWS_ACCESS_KEY_ID": s3_server.access_key,
            "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "BACKUP_BUCKET": bucket,
            "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
        }
        try:
            yield Machine(environment, tmp_path, server)
        finally:
            for database in databases(postgres) - before:
                if database.startswith(server.database):
                    drop_database(postgres, database)


def test_a_backup_is_made_listed_shown_verified_and_pruned(machine: Machine) -> None:
    made = machine.json("backup")
    assert (made["rows"], made["tables"], made["verification"]["passed"]) == (5000, 1, True)
    name = made["name"]
    assert BackupName.parse(name).database == machine.server.database
    (line,) = machine.run("list").stdout.splitlines()
    assert line.split("\t")[0::4] == [name, "verified"]
    assert machine.json("show", name)["manifest"]["name"] == name
    assert "verified: " in machine.run("verify", "--all").stdout
    (decision,) = machine.json("prune", "--dry-run")["decisions"]
    assert (decision["keep"], decision["reason"]) == (True, "younger than 7 days")


def test_a_backup_that_somebody_keeps_outlives_retention(machine: Machine) -> None:
    machine.environment["BACKUP_RETENTION_MINIMUM"] = "1"
    first, _ = (machine.json("backup", "--date", f"2025-12-1{day}")["name"] for day in (6, 7))
    machine.run("keep", first, "--reason", "before the migration")
    decisions = machine.json("prune", "--retention-days", "0")["decisions"]
    assert [decision["reason"] for decision in decisions if decision["name"] == first] == [
        "pinned: before the migration"
    ]
    machine.run("unkeep", first)
    assert machine.json("prune", "--retention-days", "0")["deleted"] == [first]
    machine.run("keep", first, code=4)


def test_a_backup_is_restored_into_a_new_database_of_its_own_name(
    machine: Machine, postgres: EmbeddedPostgres
) -> None:
    name = machine.json("backup")["name"]
    done = machine.run("restore", "--latest", "--no-confirm")
    target = name.replace("-", "_")
    for said in (name, "5,000 rows", f"port {postgres.port}", f"{target} (will be created)"):
        assert said in done.stdout
    assert_equal(postgres, machine.server, machine.server.using(target))
    refused = machine.run("restore", "--latest", "--no-confirm", code=3)
    assert f"there is a database '{target}' already" in refused.stderr


def test_a_live_database_is_replaced_and_kept(machine: Machine, postgres: EmbeddedPostgres) -> None:
    database = machine.server.database
    machine.environment["BACKUP_COMPRESSION_LEVEL"] = "19"
    assert "BACKUP_CODEC=gzip" in machine.run("backup", code=2).stderr
    name = machine.json("backup", "--codec", "zstd")["name"]
    del machine.environment["BACKUP_COMPRESSION_LEVEL"]
    assert " of zstd, " in machine.run("show", name).stdout
    with psycopg.connect(postgres.dsn(database), autocommit=True) as live:
        live.execute("DELETE FROM quotes")
    document = machine.json("restore", "--latest", "--replace", "--no-confirm")
    assert document["database"] == database
    assert re.fullmatch(rf"{database}_before_\d{{8}}_\d{{6}}", document["previous"])
    counts: list[int] = []
    for each in (database, document["previous"]):
        with psycopg.connect(postgres.dsn(each)) as connection:
            counts += connection.execute("SELECT count(*) FROM quotes").fetchone() or ()
    assert counts == [5000, 0]


def test_a_backup_is_chosen_by_name_and_by_time(machine: Machine) -> None:
    made = machine.json("backup")
    document = machine.json(
        "restore", "--at", made["taken_at"].replace("Z", ".999999+00:00"),
        "--into", f"{machine.server.database}_at", "--no-confirm",
    )  # fmt: skip
    assert document["backup"]["name"] == made["name"]
    missing = machine.run("restore", "--at", "2001-02-03T04:05", "--no-confirm", code=4)
    assert "no backup was taken at or before 2001-02-03 03:05:00 UTC" in missing.stderr
    into = f"{machine.server.database}_named"
    machine.run("restore", "--backup", made["name"], "--into", into, "--no-confirm")


def test_without_a_person_a_restore_is_refused_and_never_hangs(
    machine: Machine, postgres: EmbeddedPostgres
) -> None:
    machine.run("backup")
    before = databases(postgres)
    done = machine.run("restore", "--latest", code=3)
    assert "nobody is here to confirm" in done.stderr
    assert "--no-confirm" in done.stderr
    assert machine.json("restore", "--latest", code=3)["error"] == "NotConfirmed"
    assert databases(postgres) == before


ON_A_TERMINAL = (
    sys.executable,
    "-c",
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
)


def answered(machine: Machine, answer: bytes, arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command on a terminal, and type an answer when it asks."""
    with subprocess.Popen(
        [*ON_A_TERMINAL, *COMMAND, *arguments],
        env={**machine.environment, "TERM": "xterm", "COLUMNS": "200"},
        cwd=machine.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        said, typed = b"", False
        while True:
            heard, _, _ = select.select([process.stdout], [], [], 0.5)
            piece = os.read(process.stdout.fileno(), 4096) if heard else b""
            said += piece
            if heard and not piece:
                break
            # Typed again while nothing happens: Python loses a Ctrl-C that comes in the moment
            # between its prompt and its reading.
            if answer and b"[y/N]: " in said and not (typed and heard):
                typed = True
                with suppress(BrokenPipeError):
                    process.stdin.write(answer)
                    process.stdin.flush()
    return process.returncode, said.decode()


def test_a_person_is_asked_and_the_answer_counts(
    machine: Machine, postgres: EmbeddedPostgres
) -> None:
    machine.run("backup")
    before = databases(postgres)
    for answer, code in ((b"n\n", 3), (b"\n", 3), (b"\x04", 3), (b"\x03", 130)):
        ended, said = answered(machine, answer, ["restore", "--latest"])
        assert (ended, "Create the database" in said) == (code, True), said
        assert databases(postgres) == before
    ended, said = answered(machine, b"y\n", ["restore", "--latest"])
    assert (ended, len(databases(postgres) - before)) == (0, 1), said


def test_a_terminal_gets_a_table(machine: Machine) -> None:
    name = machine.json("backup")["name"]
    ended, said = answered(machine, b"", ["list"])
    assert ended == 0
    assert "taken at" in said
    assert name in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_backup_leaves_nothing_and_ends_with_130(
    machine: Machine, store: S3Store, postgres: EmbeddedPostgres, number: signal.Signals
) -> None:
    """A locked table holds pg_dump up until the signal comes."""
    with psycopg.connect(postgres.dsn(machine.server.database)) as holder:
        holder.execute("LOCK TABLE quotes IN ACCESS EXCLUSIVE MODE")
        with machine.start("backup") as process:
            wait_until_waiting(postgres, machine.server.database)
            process.send_signal(number)
            begun = time.monotonic()
            try:
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()
    assert time.monotonic() - begun < 10
    assert (process.returncode, b"Traceback" in said) == (130, False)
    assert list(store.list("")) == []
    assert list(store.list_uploads(KEYS.prefix)) == []


def wait_until_waiting(postgres: EmbeddedPostgres, database: str) -> None:
    """Return when a session of the database waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        while not admin.execute(waiting, [database]).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_damaged_backup_is_found_kept_and_never_restored(
    machine: Machine, store: S3Store, postgres: EmbeddedPostgres
) -> None:
    name = BackupName.parse(machine.json("backup")["name"])
    key = KEYS.of(name, Kind.DUMP)
    body = bytearray(b"".join(store.read(key)))
    body[len(body) // 2] ^= 1
    store.put(key, bytes(body), overwrite=True)
    before = databases(postgres)
    assert machine.json("list")["backups"][0]["state"] == "unverified"
    assert machine.run("prune", code=3).stderr.startswith("error: nothing of ")
    machine.run("restore", "--latest", "--no-confirm", code=7)
    assert machine.json("verify", "--latest", code=7)["error"] == "VerificationFailed"
    assert machine.json("list")["backups"][0]["state"] == "failed"
    assert databases(postgres) == before


def test_owners_and_rights_that_are_not_in_a_backup_are_shown_and_told(machine: Machine) -> None:
    with machine.server.connect() as connection:
        connection.execute("GRANT SELECT ON public.quotes TO pg_monitor")
    name = machine.json("backup")["name"]
    shown = machine.run("show", name).stdout
    assert "left out    pg_monitor, SELECT: table public.quotes" in shown
    into = f"{machine.server.database}_again"
    said = machine.run("restore", "--latest", "--into", into, "--no-confirm").stderr
    assert "everything belongs to postgres, without rights for others: 1 rights of" in said
    assert f"`backup-pipeline show {name}` lists them" in said
    restored = machine.json("restore", "--latest", "--into", f"{into}_2", "--no-confirm")
    assert restored["missing"] == [
        {"role": "pg_monitor", "right": "SELECT", "objects": ["table public.quotes"]}
    ]


def test_check_finds_everything_in_order(machine: Machine, store: S3Store) -> None:
    document = machine.json("check")
    assert {f["level"] for f in document["findings"]} <= {"ok", "warn"}
    assert list(store.list("")) == []


def test_check_looks_at_the_server_on_which_drills_restore(machine: Machine) -> None:
    machine.environment |= {"BACKUP_DRILL_DSN": "host=127.0.0.1 port=1 password=canary-4711"}
    done = machine.run("check", code=5)
    assert "BACKUP_DRILL_DSN" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("PGPORT", "1", 5),
        ("PGPASSWORD", "canary-4711", 5),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1", 6),
        ("AWS_SECRET_ACCESS_KEY", "canary-4711", 6),
        ("BACKUP_BUCKET", "no-such-bucket", 6),
    ],
)
def test_what_can_not_be_reached_has_its_exit_code(
    machine: Machine, variable: str, value: str, code: int
) -> None:
    machine.environment |= {variable: value, "BACKUP_S3_MAX_ATTEMPTS": "1"}
    for arguments in (["check"], ["backup"]):
        done = machine.run(*arguments, code=code)
        assert "canary" not in done.stdout + done.stderr
