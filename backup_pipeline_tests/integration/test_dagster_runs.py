"""Runs that the UI launches: queued, executed in processes of their own, cancelled, told."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from backup_pipeline.defs.jobs import DRILL, JOB, PRUNE, RESTORE, VERIFY
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline_tests.conftest import bucket_on, database_called
from backup_pipeline_tests.dagster_ui import DagsterUI, started
from backup_pipeline_tests.store_contract import connection_to

pytestmark = pytest.mark.xdist_group("dagster_runs")
DATABASE = "seen_by_dagster"
KEYS = Keys("backups/postgres/")
MULTIPROCESS = {"execution": {"config": {"multiprocess": {"max_concurrent": 2}}}}


class Messages(ThreadingHTTPServer):
    """Where the notifications of Dagster's sensors arrive."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.received: list[dict[str, Any]] = []

    def about(self, run: str) -> list[dict[str, Any]]:
        """Those that speak of a run."""
        return [each for each in self.received if run in each["message"]]


class _Taking(BaseHTTPRequestHandler):
    server: Messages

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def messages() -> Iterator[Messages]:
    """A notification service on this machine."""
    with Messages() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file: while it is there, pg_dump stops in the middle of the data and says so in `.here`."""
    return tmp_path_factory.mktemp("stall") / "stall"


@pytest.fixture(scope="module")
def pg_dump(postgres: EmbeddedPostgres, stall: Path) -> Path:
    """A directory with a pg_dump that can be made to stop in the middle."""
    real, directory = postgres.bin_dir / "pg_dump", stall.parent / "bin"
    directory.mkdir()
    script = directory / "pg_dump"
    script.write_text(
        "#!/bin/bash\n"
        f'case "$([ -e "{stall}" ] && echo stalling) $* " in stalling*" --section=data "*)\n'
        f'  "{real}" "$@" | (head -c 300000; touch "{stall}.here"; sleep 300) ;;\n'
        f'*) exec "{real}" "$@" ;;\nesac\n'
    )
    script.chmod(0o755)
    (directory / "pg_restore").symlink_to(postgres.bin_dir / "pg_restore")
    return directory


@pytest.fixture(scope="module")
def storage(s3_server: S3Access) -> Iterator[tuple[str, ObjectStore]]:
    """A bucket for this module, and its name."""
    with bucket_on(s3_server, "dagster-runs") as bucket:
        yield bucket, S3Store(connection_to(s3_server, bucket))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs may put their temporary files."""
    return tmp_path_factory.mktemp("tmp")


@pytest.fixture(scope="module")
def ui(
    postgres: EmbeddedPostgres,
    sample_database: str,
    s3_server: S3Access,
    storage: tuple[str, ObjectStore],
    messages: Messages,
    pg_dump: Path,
    temporary: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DagsterUI]:
    """Dagster with daemon and webserver, for a database of the sample."""
    environment = {
        **s3_server.environment(),
        **postgres.environment(DATABASE),
        "BACKUP_BUCKET": storage[0],
        "TMPDIR": str(temporary),
        "BACKUP_PG_BIN_DIRS": str(pg_dump),
        "BACKUP_NOTIFY_URLS": f"json://127.0.0.1:{messages.server_port}/",
    }
    home = tmp_path_factory.mktemp("dagster")
    with (
        database_called(postgres, DATABASE, sample_database),
        started(home, environment) as running,
    ):
        yield running


@pytest.fixture
def bucket_store(storage: tuple[str, ObjectStore]) -> ObjectStore:
    """What the bucket of this module holds."""
    return storage[1]


def wait_for(condition: Callable[[], object], what: str, timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.2)


def backends(postgres: EmbeddedPostgres) -> list[str]:
    """The sessions on the database, but for our own."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        rows = admin.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = %s", (DATABASE,)
        ).fetchall()
    return [row[0] for row in rows]


def pg_dumps(pg_dump: Path) -> list[int]:
    """Processes of the stalling script and of what it started."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(pg_dump) in " ".join(process.info["cmdline"] or [])
    ]


def test_a_run_cancelled_in_mid_dump_leaves_nothing_within_ten_seconds_and_is_told(
    ui: DagsterUI,
    postgres: EmbeddedPostgres,
    bucket_store: ObjectStore,
    pg_dump: Path,
    stall: Path,
    messages: Messages,
) -> None:
    before = [info.key for info in bucket_store.list("")]
    here = stall.with_name("stall.here")
    stall.touch()
    try:
        run = ui.launch(JOB)
        wait_for(here.exists, "pg_dump in the middle of the data")
        assert pg_dumps(pg_dump)
        assert backends(postgres)
        asked = time.monotonic()
        ui.cancel(run)
        wait_for(
            lambda: not pg_dumps(pg_dump) and not backends(postgres), "end of pg_dump", timeout=10
        )
        status = ui.wait(run, timeout=10 - (time.monotonic() - asked))
    finally:
        stall.unlink()
        here.unlink(missing_ok=True)

    assert status == "CANCELED"
    assert [info.key for info in bucket_store.list("")] == before
    assert list(bucket_store.list_uploads("")) == []
    wait_for(lambda: messages.about(run), "notification of the cancelled run")
    (message,) = messages.about(run)
    assert message["title"] == f"Backup of {DATABASE} was cancelled"


def test_of_two_runs_at_one_time_the_second_waits_and_both_are_good(
    ui: DagsterUI, bucket_store: ObjectStore
) -> None:
    runs = [ui.launch(JOB), ui.launch(JOB)]

    assert [ui.wait(run) for run in runs] == ["SUCCESS", "SUCCESS"]

    catalog = read_catalog(bucket_store, KEYS, DATABASE)
    assert {backup.state for backup in catalog.backups} == {State.VERIFIED}
    assert catalog.strays == ()
    later, earlier = (
        read_manifest(bucket_store, KEYS, backup.name) for backup in catalog.backups[:2]
    )
    assert earlier.finished_at <= later.source.snapshot_at


def test_the_launchpad_restores_a_database_and_people_are_told(
    ui: DagsterUI, postgres: EmbeddedPostgres, messages: Messages
) -> None:
    assert ui.wait(ui.launch(JOB)) == "SUCCESS"
    target = f"{DATABASE}_restored"
    config = {"ops": {"restored_database": {"config": {"target": target}}}}

    run = ui.launch(RESTORE, config)

    assert ui.wait(run) == "SUCCESS"
    with psycopg.connect(postgres.dsn(target)) as restored:
        rows = restored.execute("SELECT count(*) FROM pg_tables WHERE schemaname !~ '^pg_'")
        assert rows.fetchall() > [(3,)]
    wait_for(lambda: messages.about(run), "notification of the restore")
    (message,) = messages.about(run)
    assert message["title"] == f"Restore of {DATABASE} succeeded"
    assert target in message["message"]


def test_everything_also_runs_in_processes_of_its_own_that_share_no_file(
    ui: DagsterUI, bucket_store: ObjectStore, temporary: Path
) -> None:
    """Nothing is handed on but the name of a backup: the temporary directory is emptied between."""
    before = len(read_catalog(bucket_store, KEYS, DATABASE).backups)
    dagsters = set(temporary.iterdir())  # the sockets of its servers

    def require(run: str) -> None:
        assert ui.wait(run) == "SUCCESS"
        for left in set(temporary.iterdir()) - dagsters:
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    require(ui.launch(JOB, MULTIPROCESS))
    for asset in ("database_dump", "verified_backup", "pruned_bucket"):
        require(ui.materialize([DATABASE, asset]))
    require(ui.run_checks([DATABASE, "database_dump"]))
    for job in (VERIFY, DRILL, PRUNE):  # each of one step, as the restore above
        require(ui.launch(job))

    newest, *others = read_catalog(bucket_store, KEYS, DATABASE).backups
    assert newest.state is State.VERIFIED
    assert len(others) == before + 1


def test_the_daemon_judges_the_freshness_that_is_declared(ui: DagsterUI) -> None:
    assert ui.wait(ui.launch(JOB)) == "SUCCESS"
    wait_for(lambda: ui.freshness([DATABASE, "verified_backup"]) == "HEALTHY", "freshness")
