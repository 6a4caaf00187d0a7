"""A pooler between here and the server: nothing is attempted, and whoever asks hears why."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from backup_pipeline.embedded.ports import LOOPBACK, choose_ports
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.diagnosis_server import of_server
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.findings import Finding, Level
from backup_pipeline.engine.postgres import SECURITY_MINIMUMS, Server
from backup_pipeline.errors import PostgresDenied, PostgresUnreachable

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or ""

pytestmark = pytest.mark.skipif(not PGBOUNCER, reason="pgbouncer is not installed")


@contextmanager
def pooled(postgres: EmbeddedPostgres, settings: str = "") -> Iterator[Server]:
    """The server behind a PgBouncer with these settings beside its defaults."""
    behind = postgres.environment("postgres")
    with TemporaryDirectory(prefix="backup-pipeline-") as directory:
        (port,) = choose_ports(1, Path(directory, "port"))
        file = Path(directory, "pgbouncer.ini")
        file.write_text(
            f"[databases]\n* = host={LOOPBACK} port={behind['PGPORT']} user={behind['PGUSER']}"
            f" password={behind['PGPASSWORD']}\n[pgbouncer]\nlisten_addr = {LOOPBACK}\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n"
        )
        user = None
        if os.geteuid() == 0:  # it will not run as root
            user = 65534
            os.chown(file, user, -1)
            os.chown(directory, user, -1)
        process = subprocess.Popen(
            [PGBOUNCER, file], user=user, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            server = Server.of(f"host={LOOPBACK} port={port} user=postgres dbname=postgres")
            wait_for(server)
            yield server
        finally:
            process.kill()
            process.wait()


def wait_for(server: Server) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(server.dsn).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def findings_of(server: Server, postgres: EmbeddedPostgres) -> dict[str, Finding]:
    found = of_server(server, [postgres.bin_dir], SECURITY_MINIMUMS, lambda: datetime.now(UTC))
    return {finding.subject: finding for finding in found}


def test_a_pooler_is_told_from_a_server_before_anything_is_attempted(
    postgres18: EmbeddedPostgres,
) -> None:
    with pooled(postgres18) as server:
        with (
            pytest.raises(PostgresUnreachable, match="unsupported startup parameter") as caught,
            PostgresDumpSource(server, [postgres18.bin_dir]).open_dump(),
        ):
            pass
        assert not isinstance(caught.value, PostgresDenied)
        assert "PGHOST and PGPORT of PostgreSQL itself" in str(caught.value.hint)
        found = findings_of(server, postgres18)["PostgreSQL"]
        assert found.level is Level.FAIL
        assert found.advice == caught.value.hint


def test_check_warns_of_a_pooler_that_lets_everything_through(
    postgres18: EmbeddedPostgres,
) -> None:
    lenient = "ignore_startup_parameters = options"
    with pooled(postgres18, lenient) as server:
        found = findings_of(server, postgres18)["pooler"]
        assert found.level is Level.WARN
        assert "PGHOST and PGPORT of PostgreSQL itself" in found.advice
    assert "pooler" not in findings_of(Server.of(postgres18.dsn()), postgres18)
