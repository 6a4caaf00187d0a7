"""Whatever breaks while a backup is made: nothing appears, and the error says what happened."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.errors import QueryCanceled

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.engine import dump, plan
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Manifest, Progress, Report, silent
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import (
    BackupPipelineError,
    BackupRunning,
    ChildFailed,
    ClientTooOld,
    PostgresFailed,
    PostgresUnreachable,
    StoreError,
    TableLocked,
)
from backup_pipeline_tests.embedded.owners import children_named, kill_with_children
from backup_pipeline_tests.integration.databases import new_database
from backup_pipeline_tests.store_contract import connection_to

KEYS = Keys("backups/postgres/")
CLI = Path(sys.executable).with_name("backup-pipeline")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def server(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A database whose dump is some 25 MB of SQL that hardly shrinks: several parts."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(
                "CREATE TABLE public.noise AS SELECT i, (SELECT string_agg(md5(random()::text), '')"
                " FROM generate_series(1, 30) WHERE i > 0) FROM generate_series(1, 25000) AS i"
            )
            connection.execute("CREATE TABLE public.small AS SELECT 1 AS id")
            connection.execute("CREATE TABLE public.parted (id int) PARTITION BY RANGE (id)")
        yield server


def attempt(
    server: Server,
    store: ObjectStore,
    bin_dir: Path,
    report: Report = silent,
    lock_timeout: float = 300,
    jobs: int = 1,
) -> Manifest:
    source = PostgresDumpSource(server, [bin_dir], lock_timeout, jobs)
    return back_up(source, store, KEYS, BackupName.of("x", now()), clock=now, report=report)


def assert_absent(store: ObjectStore, server: Server) -> None:
    """No object, no open upload, no child, and soon no backend that worked for us."""
    assert [info.key for info in store.list("")] == []
    assert list(store.list_uploads("")) == []
    assert children_named("pg_dump", "pg_restore") == []
    deadline = time.monotonic() + 5
    with psycopg.connect(server.dsn, dbname="postgres", autocommit=True) as admin:
        while left := admin.execute(
            "SELECT pid, application_name, query FROM pg_stat_activity"
            " WHERE application_name IN ('pg_dump', 'backup-pipeline') AND datname = %s",
            [server.database],
        ).fetchall():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@pytest.fixture
def pg_dump_that(tmp_path: Path, postgres18: EmbeddedPostgres) -> Callable[[str], Path]:
    """A directory with a pg_dump that is real but for what it does with the data section."""

    def make(does: str, section: str = "data") -> Path:
        real = postgres18.bin_dir / "pg_dump"
        script = tmp_path / "pg_dump"
        script.write_text(
            f'#!/bin/bash\nreal() {{ "{real}" "$@"; }}\n'
            f'case " $* " in *" --section={section} "*) {does} ;; *) real "$@" ;; esac\n'
        )
        script.chmod(0o755)
        (tmp_path / "pg_restore").symlink_to(postgres18.bin_dir / "pg_restore")
        return tmp_path

    return make


# A multipart upload has parts of 5 MiB here: the first figures are below one, the last is beyond.
@pytest.mark.parametrize("after", [0, 1, 100_000, 20_000_000])
@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("kill -9 $$", "pg_dump was ended by SIGKILL"),
        ("echo 'no space in my head' >&2; exit 1", "ended with code 1: .*no space in my head"),
        ("exit 0", "closing line|middle"),
    ],
    ids=["killed", "failed", "stopped short and said nothing"],
)
def test_pg_dump_that_dies_in_the_middle(
    server: Server,
    store: ObjectStore,
    pg_dump_that: Callable[[str], Path],
    after: int,
    end: str,
    said: str,
) -> None:
    bin_dir = pg_dump_that(f'real "$@" 2>/dev/null | head -c {after}; {end}')
    with pytest.raises(BackupPipelineError, match=said):
        attempt(server, store, bin_dir)
    assert_absent(store, server)


@pytest.mark.parametrize("section", ["pre-data", "post-data"])
def test_pg_dump_that_fails_at_once(
    server: Server, store: ObjectStore, pg_dump_that: Callable[..., Path], section: str
) -> None:
    with pytest.raises(ChildFailed, match="ended with code 3: not today"):
        attempt(server, store, pg_dump_that("echo not today >&2; exit 3", section))
    assert_absent(store, server)


def once_beyond(limit: int, act: Callable[[], object]) -> Report:
    """Do something in the middle of a dump, once."""
    done: list[bool] = []

    def report(progress: Progress) -> None:
        if progress.done > limit and not done:
            done.append(True)
            act()

    return report


def test_a_real_pg_dump_that_somebody_kills(
    server: Server, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def kill() -> None:
        (victim,) = children_named("pg_dump")
        victim.kill()

    with pytest.raises(ChildFailed, match="SIGKILL"):
        attempt(server, store, postgres18.bin_dir, once_beyond(3_000_000, kill))
    assert_absent(store, server)


def test_a_backend_that_the_server_ends(
    server: Server, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def terminate() -> None:
        with psycopg.connect(postgres18.dsn()) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = 'pg_dump'",
                [server.database],
            )

    with pytest.raises(ChildFailed, match=r"terminating connection|server closed"):
        attempt(server, store, postgres18.bin_dir, once_beyond(3_000_000, terminate))
    assert_absent(store, server)


def test_a_database_that_is_dropped_in_the_middle(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18) as doomed:
        with doomed.connect() as connection:
            connection.execute(
                "CREATE TABLE public.t AS SELECT repeat('x', 500) FROM generate_series(1, 40000)"
            )

        def drop() -> None:
            with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
                admin.execute(f'DROP DATABASE "{doomed.database}" WITH (FORCE)')

        with pytest.raises((PostgresFailed, PostgresUnreachable)):
            attempt(doomed, store, postgres18.bin_dir, once_beyond(2_000_000, drop))
        assert_absent(store, doomed.using("postgres"))


def test_a_second_backup_of_a_database_waits_its_turn_and_is_refused_in_the_end(
    server: Server, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    first = PostgresDumpSource(server, [postgres18.bin_dir])
    with first.open_dump():
        with pytest.raises(BackupRunning, match=r"another backup of .* more than 0\.3 s"):
            attempt(server, store, postgres18.bin_dir, lock_timeout=0.3)
        assert [info.key for info in store.list("")] == []
        asked = time.monotonic()
        second = threading.Thread(target=attempt, args=(server, store, postgres18.bin_dir))
        second.start()
        time.sleep(0.5)
        assert [info.key for info in store.list("")] == []
        assert second.is_alive()
    second.join(60)
    assert time.monotonic() - asked > 0.5
    assert len(list(store.list(""))) == 3


# Who makes a partition has locked the partitioned table, and none of its partitions.
@pytest.mark.parametrize("table", ["noise", "parted"])
def test_a_table_that_somebody_has_locked(
    server: Server,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
) -> None:
    monkeypatch.setattr(dump, "_QUEUE_TIMEOUT", 0.1)
    with psycopg.connect(postgres18.dsn(server.database)) as holder:
        holder.execute(f"LOCK TABLE ONLY public.{table} IN ACCESS EXCLUSIVE MODE".encode())
        holder.execute("CREATE TEMPORARY TABLE a (id int PRIMARY KEY, body text)")
        said = rf"0\.3 s: (public\.)?{table} \(held by \d+, postgres\)$"
        with pytest.raises(TableLocked, match=said):
            attempt(server, store, postgres18.bin_dir, lock_timeout=0.3)
    assert_absent(store, server)


@contextmanager
def wanting(server: Server, table: str) -> Iterator[None]:
    """Somebody waits for a table that he wants for himself, as `TRUNCATE` does."""
    with psycopg.connect(server.dsn) as one, server.connect() as other:

        def want() -> None:
            with suppress(QueryCanceled):
                one.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")

        wants = threading.Thread(target=want)
        wants.start()
        waiting = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
        until(lambda: other.execute(waiting, [one.info.backend_pid]).fetchone() is not None)
        yield
        while wants.is_alive():
            one.cancel()
            wants.join(0.1)


def at_work(name: str) -> list[psutil.Process]:
    """Children that have not ended; nobody has waited yet for some that have."""
    return [each for each in children_named(name) if each.status() != psutil.STATUS_ZOMBIE]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# With the second the table has a pg_dump of its own, beside that of everything else.
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("table", ["public.noise", "public.small"])
def test_who_wants_a_table_for_himself_waits_for_the_dump_which_goes_on(
    server: Server,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
    table: str,
) -> None:
    """Every later lock would stand behind his, which stands behind the coordinator's."""
    monkeypatch.setattr(plan, "LARGE", 1_000_000)
    wanted = ExitStack()

    def want() -> None:
        with server.connect() as other:
            # All that are there are at their rows, and the schema has been read.
            copying = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'pg_dump' AND query LIKE 'COPY %'"
            )
            until(lambda: other.execute(copying).fetchone() == (len(at_work("pg_dump")),))
        wanted.enter_context(wanting(server, table))

    with wanted:
        manifest = attempt(server, store, postgres18.bin_dir, once_beyond(0, want), 1.0, jobs)
    assert [table.rows for table in manifest.contents.tables] == [25000, 1]


def test_a_table_that_somebody_wants_before_pg_dump_has_it(
    server: Server,
    store: ObjectStore,
    pg_dump_that: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Soon over, because all who only want to read the table wait as well meanwhile."""
    monkeypatch.setattr(dump, "_QUEUE_TIMEOUT", 0.3)
    wanted = tmp_path / "wanted"
    failed: list[TableLocked] = []
    bin_dir = pg_dump_that(f'while [ ! -e {wanted} ]; do sleep 0.05; done; real "$@"')

    def try_it() -> None:
        try:
            attempt(server, store, bin_dir)
        except TableLocked as error:
            failed.append(error)

    trying = threading.Thread(target=try_it)
    trying.start()
    until(lambda: len(children_named("pg_dump")) > 0)
    with wanting(server, "public.noise"):
        wanted.touch()
        trying.join(30)
    (error,) = failed
    assert "for more than 0.3 s: public.noise (wanted by " in error.message
    assert_absent(store, server)


def test_a_server_newer_than_every_pg_dump(
    server: Server, store: ObjectStore, postgres16: EmbeddedPostgres
) -> None:
    with pytest.raises(ClientTooOld, match=r"PostgreSQL 18.*16\."):
        attempt(server, store, postgres16.bin_dir)
    assert_absent(store, server)


def test_rows_that_row_level_security_hides_are_an_error_and_never_left_out(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with new_database(postgres18) as owned:
        with owned.connect() as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' IN ROLE pg_read_all_data")
            connection.execute("CREATE TABLE public.t AS SELECT 1 AS id")
            connection.execute("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY")
        try:
            reader = Server.of(postgres18.dsn(owned.database), user=role, password="p")  # noqa: S106  # for a moment, on loopback
            source = PostgresDumpSource(reader, [postgres18.bin_dir])
            with pytest.raises(ChildFailed, match="row-level security"):
                back_up(source, store, KEYS, BackupName.of("x", now()), clock=now)
            assert_absent(store, owned)
        finally:
            with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
                admin.execute(f"DROP ROLE {role}")


def test_a_store_that_dies_in_the_middle(
    server: Server, postgres18: EmbeddedPostgres, tmp_path: Path
) -> None:
    doomed = EmbeddedS3(tmp_path / "s3")
    doomed.start()
    try:
        doomed.create_bucket("bucket")
        dying = S3Store(connection_to(doomed.access, "bucket"))
        with pytest.raises(StoreError) as caught:
            attempt(server, dying, postgres18.bin_dir, once_beyond(3_000_000, doomed.stop))
        assert "bucket" in caught.value.message
    finally:
        doomed.stop()
    with EmbeddedS3(tmp_path / "s3") as again:
        assert list(S3Store(connection_to(again.access, "bucket")).list("")) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing_within_seconds(
    server: Server,
    store: ObjectStore,
    s3_environment: dict[str, str],
    postgres18: EmbeddedPostgres,
    pg_dump_that: Callable[[str], Path],
    sign: signal.Signals,
    tmp_path: Path,
) -> None:
    reached = tmp_path / "reached"
    bin_dir = pg_dump_that(f'real "$@" | head -c 20000000; touch {reached}; sleep 300')
    env = {
        "PATH": os.environ["PATH"],
        **s3_environment,
        **postgres18.environment(server.database),
        "BACKUP_PG_BIN_DIRS": str(bin_dir),
    }
    with subprocess.Popen(
        [CLI, "backup"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not reached.exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(sign)
            asked = time.monotonic()
            _, said = process.communicate(timeout=20)
        finally:
            kill_with_children(process)
    assert process.returncode == 130
    assert "interrupted" in said
    assert time.monotonic() - asked < 10
    assert_absent(store, server)
