"""Fault 32: no password, key, connection string or address of a service shows anywhere.

Every verb and every job of Dagster runs, well and badly, with canaries for secrets, while a thread
reads the arguments of every process of the machine.
"""

import base64
import gzip
import logging
import os
import secrets
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import psycopg
import pytest
from dagster_shared.serdes import serialize_value
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from backup_pipeline.cli import run
from backup_pipeline.defs.database import Database
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.jobs import DRILL, JOB, PRUNE, RESTORE, VERIFY
from backup_pipeline.defs.resources import ConfiguredServices, resources
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.errors import PostgresFailed
from backup_pipeline.settings import load_settings
from backup_pipeline_tests.defs.test_real_servers import outcome_of_run
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    databases,
    drop_database,
    live_database,
    new_database,
)

KEYS = Keys("backups/postgres/")


def now() -> datetime:
    return datetime.now(UTC)


class Watch:
    """The arguments of every process, read again and again while the block lasts."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            for process in os.listdir("/proc"):  # noqa: PTH208  # quick, because it is many times
                if process.isdigit():
                    # Whoever ends meanwhile has no arguments any more.
                    with suppress(OSError), open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123
                        self.seen.add(file.read().decode(errors="replace"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


@dataclass
class Found:
    """All that could be read by somebody, and what must not be in it."""

    canaries: Mapping[str, str]
    read: dict[str, bytes] = field(default_factory=dict)

    def keep(self, where: str, text: str | bytes) -> None:
        self.read[where] = text.encode() if isinstance(text, str) else text

    def hits(self) -> list[str]:
        """Which secret is where, also percent-encoded or in Base64."""
        return [
            f"{name} in {where}"
            for name, canary in self.canaries.items()
            for form in (canary, quote(canary, safe=""), base64.b64encode(canary.encode()).decode())
            for where, text in self.read.items()
            if form.encode() in text
        ]


@dataclass(frozen=True)
class Secrets:
    """Servers and services that are reached by secrets."""

    environment: Mapping[str, str]
    canaries: Mapping[str, str]
    database: str
    s3: S3Access
    bucket: str


@pytest.fixture
def secret(
    postgres: EmbeddedPostgres,
    s3_server: S3Access,
    bucket: str,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Secrets]:
    """Roles with passwords made for the occasion, and services that nobody runs."""
    before = databases(postgres)
    made = {name: f"canary-{name}-{secrets.token_hex(6)}" for name in
            ("dsn", "drill", "other", "notify", "token", "heartbeat", "wrong", "file")}  # fmt: skip
    with (
        new_database(postgres) as server,
        psycopg.connect(postgres.dsn(), autocommit=True) as admin,
    ):
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.t AS SELECT generate_series(1, 100) AS id")
        dsns = {}
        for name in ("dsn", "drill", "other"):
            role = f"role_{made[name][-12:]}"
            admin.execute(
                SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                    Identifier(role), Literal(made[name])
                )
            )
            dsns[name] = make_conninfo(
                host=postgres.host, port=postgres.port, user=role, password=made[name]
            )
        environment = {
            **s3_environment,
            "BACKUP_DSN": dsns["dsn"],
            "BACKUP_DRILL_DSN": dsns["drill"],
            "BACKUP_DATABASE": server.database,
            "OTHER_DSN": dsns["other"],
            "BACKUP_NOTIFY_URLS": f"json://user:{made['notify']}@127.0.0.1:9/{made['token']}",
            "BACKUP_HEARTBEAT_URL": f"http://127.0.0.1:9/{made['heartbeat']}",
            "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
            "BACKUP_S3_MAX_ATTEMPTS": "1",
            "BACKUP_GLOBALS": "without-passwords",
        }
        verifiers = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
        (verifier,) = admin.execute(verifiers, (f"role_{made['dsn'][-12:]}",)).fetchall()[0]
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.chdir(tmp_path)
        yield Secrets(
            environment,
            {
                **made,
                "store": s3_server.secret_key,
                "postgres": postgres.password,
                "verifier": verifier,
            },
            server.database,
            s3_server,
            bucket,
        )
        for database in databases(postgres) - before:
            drop_database(postgres, database)
        for name in ("dsn", "drill", "other"):
            admin.execute(SQL("DROP ROLE {}").format(Identifier(f"role_{made[name][-12:]}")))


def keep_bucket(found: Found, secret: Secrets) -> int:
    """Every object with its key and metadata, as it is stored and as gunzip gives it."""
    client = secret.s3.client()
    count = 0
    for item in client.list_objects_v2(Bucket=secret.bucket).get("Contents", []):
        got = client.get_object(Bucket=secret.bucket, Key=item["Key"])
        body = got["Body"].read()
        found.keep(f"object {item['Key']}", body + repr(got).encode() + item["Key"].encode())
        if item["Key"].endswith(".gz"):
            found.keep(f"dump {item['Key']}", gzip.decompress(body))
        count += 1
    client.close()
    return count


VERBS = (
    ["check"],
    # Another date, since the first may have been made in this very second.
    ["backup", "--date", "2025-12-16"],
    ["list"],
    ["show", "NAME"],
    ["verify", "--all"],
    ["drill", "--latest"],
    ["keep", "NAME"],
    ["unkeep", "NAME"],
    ["prune", "--retention-days", "0"],
    ["restore", "--latest", "--into", "DATABASE_restored", "--no-confirm"],
    ["sync", "--to", "env:OTHER_DSN", "--into", "DATABASE_synced", "--no-confirm"],
    ["globals", "--latest"],
    ["adopt", "--all", "--dry-run"],
)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_no_verb_shows_a_secret_whether_it_succeeds_or_fails(
    secret: Secrets,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO)
    found, watch, name = Found(secret.canaries), Watch(), ""

    def type_(label: str, *arguments: str) -> int:
        code = run([each.replace("DATABASE", secret.database).replace("NAME", name)
                    for each in arguments])  # fmt: skip
        captured = capfd.readouterr()
        found.keep(f"output of {label} {' '.join(arguments)}", captured.out + captured.err)
        return code

    monkeypatch.setenv("BACKUP_DEBUG", "1")
    wrong = secret.canaries["wrong"]
    with watch.watching():
        assert type_("the first", "backup") == 0
        name = found.read["output of the first backup"].decode().split("\n")[0]
        for arguments in VERBS:
            assert type_("good", *arguments) == 0, found.read
        failures = {
            "BACKUP_DSN": f"host=127.0.0.1 port=1 user=x password={wrong}",
            "AWS_SECRET_ACCESS_KEY": wrong,
            "AWS_ENDPOINT_URL_S3": f"http://user:{wrong}@127.0.0.1:1",
            "BACKUP_NOTIFY_URLS": f"nonsense://{wrong}",
            "BACKUP_HEARTBEAT_URL": f"ftp://{wrong}",
            "BACKUP_PG_BIN_DIRS": str(tmp_path / "none"),
        }
        for variable, value in failures.items():
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                codes = [type_(variable, each) for each in ("backup", "check")]
            assert any(codes) or variable == "BACKUP_NOTIFY_URLS", variable
        with monkeypatch.context() as patch:
            patch.setenv("BACKUP_DSN", secret.environment["BACKUP_DSN"].replace(
                secret.canaries["dsn"], wrong))  # fmt: skip
            assert type_("refused", "backup") == 5
            patch.setenv("BACKUP_DSN", f"postgresql://u:{wrong}@[/x")
            assert type_("unreadable", "backup") == 2
        (tmp_path / "backup.yaml").write_text(f"dsn: [{secret.canaries['file']}\n  : {{")
        assert type_("bad file", "backup") == 2
    found.keep("arguments of processes", "\n".join(watch.seen))
    found.keep("logs", caplog.text)
    assert keep_bucket(found, secret) >= 4
    assert any("pg_dump\0" in each and "--snapshot=" in each for each in watch.seen)
    assert found.hits() == []


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_no_job_of_dagster_shows_a_secret_whether_it_succeeds_or_fails(
    secret: Secrets,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    found, watch, wrong = Found(secret.canaries), Watch(), secret.canaries["wrong"]
    failing = secret.environment["BACKUP_DSN"].replace(secret.canaries["dsn"], wrong)

    def launch(instance: dg.DagsterInstance, job: str, ops: Mapping[str, object]) -> bool:
        database = Database(load_settings())
        defs = database_definitions(database, resources(database))
        config = {"ops": {op: {"config": config} for op, config in ops.items()}}
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, raise_on_error=False, run_config=config if ops else None
        )
        recorded = [instance.get_run_by_id(result.run_id), *instance.all_logs(result.run_id)]
        outcome = outcome_of_run(instance, result.run_id)
        assert ConfiguredServices().send(outcome) == ("notification service 1, JSON",)
        found.keep(
            f"run of {job} number {len(found.read)}",
            "\n".join(serialize_value(each) for each in recorded if each)
            + repr((result, outcome, defs, config)),
        )
        return result.success

    target = {"restored_database": {"target": f"{secret.database}_by_dagster"}}
    jobs: Mapping[str, Mapping[str, object]] = {
        JOB: {},
        VERIFY: {},
        DRILL: {},
        PRUNE: {"pruned_backups": {"dry_run": False}},
        RESTORE: target,
    }
    with dg.DagsterInstance.ephemeral() as instance, watch.watching():
        for job, ops in jobs.items():
            assert launch(instance, job, ops), job
        for variable, value in (("BACKUP_DSN", failing), ("AWS_SECRET_ACCESS_KEY", wrong)):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                # Drills go to a server of their own.
                patch.setenv("BACKUP_DRILL_DSN", failing)
                for job in {JOB, RESTORE, DRILL} if value == failing else {JOB, VERIFY, PRUNE}:
                    assert not launch(instance, job, jobs[job]), job
    found.keep("arguments of processes", "\n".join(watch.seen))
    found.keep("logs", caplog.text)
    found.keep("output", "".join(capfd.readouterr()))
    keep_bucket(found, secret)
    assert found.hits() == []


@pytest.mark.parametrize("by_pg_restore", [True, False])
def test_a_restore_that_is_refused_shows_no_password_of_the_database_s_own(
    postgres: EmbeddedPostgres, by_pg_restore: bool
) -> None:
    """Such as that of the server to which it subscribes, which pg_restore repeats."""
    store, canary = MemoryStore(), f"canary-{secrets.token_hex(6)}"
    bin_dirs, role = [postgres.bin_dir] if by_pg_restore else [], f"role_{secrets.token_hex(6)}"
    with (
        live_database(postgres, "CREATE TABLE public.t AS SELECT 1 AS id") as live,
        psycopg.connect(postgres.dsn(live.database), autocommit=True) as admin,
    ):
        admin.execute(
            SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p WITH (connect = false)").format(
                Literal(f"host=127.0.0.1 port=1 password={canary}")
            )
        )
        admin.execute(SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD 'x'").format(Identifier(role)))
        try:
            name = BackupName.of(live.database, now())
            back_up(PostgresDumpSource(live, [postgres.bin_dir]), store, KEYS, name, clock=now)
            server = Server.of(postgres.dsn(live.database), user=role, password="x")  # noqa: S106
            target = f"{live.database}_new"
            with pytest.raises(PostgresFailed, match="to create subscription") as raised:
                restore(store, KEYS, name, server, target, bin_dirs=bin_dirs, jobs=2, clock=now)
        finally:
            admin.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            admin.execute("DROP SUBSCRIPTION s")
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))
    assert canary in gzip.decompress(store.objects[KEYS.of(name, Kind.DUMP)].body).decode()
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value.hint)
    assert ("pg_restore" in shown) == by_pg_restore
    assert canary not in shown


def test_the_search_finds_what_is_there() -> None:
    """In arguments, in Base64, and in the address of a service."""
    canary = f"canary {secrets.token_hex(6)}"
    watch, found = Watch(), Found({"planted": canary})
    with watch.watching():
        command = [sys.executable, "-c", "import time; time.sleep(1)", canary]
        subprocess.run(command, check=True)
    found.keep("arguments", "\n".join(watch.seen))
    found.keep("header", "Basic " + base64.b64encode(canary.encode()).decode())
    found.keep("url", f"https://{quote(canary)}@example.com")
    found.keep("nothing", "canary")
    assert found.hits() == ["planted in arguments", "planted in url", "planted in header"]
