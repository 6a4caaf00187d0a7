"""Both servers under one directory, for the demo and for development."""

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from backup_pipeline.embedded.services import Services, running
from backup_pipeline.errors import Refused
from backup_pipeline.settings import load_settings
from backup_pipeline_tests.embedded.owners import descendants, line_of, name_of, owner, survivors

OWNER = """
import sys, time
from pathlib import Path
from backup_pipeline.embedded.services import running
print("begun", flush=True)
with running(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory) / ".backup-pipeline") as services,
    ):
        yield services


def names_of(services: Services) -> list[str]:
    return [bucket["Name"] for bucket in services.s3.access.client().list_buckets()["Buckets"]]


def test_the_bucket_is_there(services: Services) -> None:
    assert names_of(services) == ["options-data"]


def test_the_environment_leads_to_both_servers(services: Services) -> None:
    assert set(services.environment()) == {
        *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"),
        *("AWS_DEFAULT_REGION", "BACKUP_BUCKET", "BACKUP_CONFIG"),
    }
    assert services.environment()["PGDATABASE"] == "ahold_options"
    assert "dbname=ahold_options" in services.dsn


def test_a_shell_reads_the_same_from_the_file(services: Services) -> None:
    path = services.directory / "env"
    done = subprocess.run(
        ["sh", "-c", f". {path}; env"], env={}, capture_output=True, text=True, check=True
    )
    read = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert read.items() >= services.environment().items()


REAL = {
    "BACKUP_DSN": "host=db.example.com dbname=ahold_options",
    "BACKUP_HEARTBEAT_URL": "https://hc-ping.com/real",
    "PGSERVICE": "production",
    "PGHOSTADDR": "192.0.2.1",
    "AWS_SESSION_TOKEN": "real",
}


def test_nothing_leads_to_a_real_server_any_more(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("backup.yaml").write_text("dsn: host=db.example.com\nbucket: real\n")
    environment = {"PATH": os.defpath, **REAL}

    services.lead(environment)

    assert environment == {"PATH": os.defpath, **services.environment()}
    monkeypatch.setattr(os, "environ", environment)
    settings = load_settings()
    assert (settings.dsn, settings.bucket) == (None, "options-data")


def test_a_shell_forgets_the_real_server_too(services: Services) -> None:
    script = f". {services.directory / 'env'}; env"
    environment = {"PATH": os.defpath, **REAL}
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert not [name for name in REAL if f"{name}=" in done.stdout]


def test_the_file_is_nobody_elses_to_read(services: Services) -> None:
    assert stat.S_IMODE((services.directory / "env").stat().st_mode) == 0o600


def test_git_sees_nothing_of_it(services: Services) -> None:
    assert (services.directory / ".gitignore").read_text() == "*\n"


def test_a_second_run_in_the_directory_is_refused_at_once(services: Services) -> None:
    asked = time.monotonic()
    with pytest.raises(Refused, match="another process"), running(services.directory):
        pass
    assert time.monotonic() - asked < 2
    assert names_of(services) == ["options-data"]


def test_the_next_run_reuses_the_data(scratch: Path) -> None:
    with running(scratch / "s") as first:
        before = first.environment()
        first.s3.access.client().put_object(Bucket=first.bucket, Key="k", Body=b"v")
        with psycopg.connect(first.postgres.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE ahold_options")
    with running(scratch / "s") as second:
        assert second.environment() == before
        assert second.s3.access.client().get_object(Bucket=second.bucket, Key="k")
        psycopg.connect(second.dsn).close()


def test_an_owner_that_is_killed_leaves_no_process(scratch: Path) -> None:
    with owner(OWNER, scratch / "s") as process:
        assert (line_of(process), line_of(process)) == ("begun", "ready")
        started = descendants(process)
        assert {"weed", "postgres"} <= {name_of(each) for each in started}
        process.kill()
        assert survivors(started) == []


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8, 1.5])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_at_any_moment_leaves_no_process(
    scratch: Path, seconds: float, signal_number: int
) -> None:
    with owner(OWNER, scratch / "s") as process:
        assert line_of(process) == "begun"
        time.sleep(seconds)
        started = descendants(process)
        os.kill(process.pid, signal_number)
        process.wait(20)
        assert survivors(started) == []
    # A server that was being started in this very moment ends as soon as it has been.
    assert survivors(using(scratch)) == []


def using(directory: Path) -> list[psutil.Process]:
    """Processes that name a directory on their command line."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if str(directory) in " ".join(each.info["cmdline"] or [])]
