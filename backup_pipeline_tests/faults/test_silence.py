"""PostgreSQL, or the network on the way to it, falls silent and closes nothing.

The relay goes on to take what is sent, so TCP itself notices nothing; what TCP has to notice, a
wire that has lost its other end, is seen by the timers of the kernel.
"""

import _thread
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Progress
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.sync import sync
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import PostgresSilent, PostgresUnreachable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.killing import COMMAND, Victim, Witness, kill
from backup_pipeline_tests.faults.relay import Relay
from backup_pipeline_tests.integration.databases import contents, databases, new_database

KEYS = Keys("backups/postgres/")
NAME = BackupName.of("shop", datetime(2025, 1, 1, tzinfo=UTC))
TIMERS = Path("/proc/net/tcp")
BOUND = 60
"""Seconds in which all must be over; of those that are set here it takes some ten."""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(
                "CREATE TABLE public.rows AS SELECT i, md5(i::text) AS text"
                " FROM generate_series(1, 60000) AS i"
            )
            connection.execute("CREATE INDEX ON public.rows (text)")
        yield server
        with server.using("postgres").connect() as admin:
            for database in databases(postgres18):
                if database.startswith(f"{server.database}_"):
                    admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())


@pytest.fixture
def far(live: Server, relay: Relay) -> Server:
    """The same database at the other end of a wire that may fall silent."""
    return replace(Server.of(live.dsn, port=str(relay.port)), patience=1)


def make(server: Server, store: MemoryStore, postgres: EmbeddedPostgres) -> None:
    source = PostgresDumpSource(server, [postgres.bin_dir], jobs=2)
    back_up(source, store, KEYS, NAME, clock=now)


def test_a_server_that_never_answers_is_unreachable(far: Server, relay: Relay) -> None:
    relay.stall()
    impatient = Server.of(far.dsn, port=far.port, connect_timeout="2")
    with (
        pytest.raises(PostgresUnreachable, match="timeout") as caught,
        impatient.connect(),
    ):
        pass
    assert "firewalls" in caught.value.hint


def test_a_silence_at_any_moment_of_a_backup_ends_it_and_leaves_nothing(
    far: Server, relay: Relay, postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    store = MemoryStore()
    make(far, store, postgres18)
    whole = relay.passed
    for _ in chance.times(2, 20):
        store = MemoryStore()
        # Not at the very end, where the last answers are needed by nobody.
        relay.stall_after(chance.random.randrange(int(whole * 0.9)))
        begun = time.monotonic()
        with pytest.raises(PostgresUnreachable):
            make(far, store, postgres18)
        assert time.monotonic() - begun < BOUND
        assert (store.objects, store.uploads) == ({}, {})
        relay.cut()


def test_a_silence_at_any_moment_of_a_restore_ends_it_and_leaves_the_target_as_it_was(
    live: Server, far: Server, relay: Relay, postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    store = MemoryStore()
    make(live, store, postgres18)
    as_it_was = contents(live)

    def bring_back(target: str, *, replaces: bool) -> None:
        bins = [postgres18.bin_dir]
        restore(store, KEYS, NAME, far, target, replace=replaces, bin_dirs=bins, jobs=2, clock=now)

    begun_at = relay.passed
    bring_back(f"{live.database}_beside", replaces=False)
    whole = relay.passed - begun_at
    for _ in chance.times(2, 20):
        relay.stall_after(chance.random.randrange(int(whole * 0.9)))
        begun = time.monotonic()
        with pytest.raises(PostgresUnreachable):
            bring_back(live.database, replaces=True)
        assert time.monotonic() - begun < BOUND
        relay.cut()
        assert contents(live) == as_it_was
    bring_back(f"{live.database}_at_last", replaces=False)
    assert [each for each in databases(postgres18) if "_restoring_" in each] == []


def test_a_silence_at_any_moment_of_a_sync_ends_it_and_leaves_both_ends_as_they_were(
    live: Server, far: Server, relay: Relay, postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    """Of the source, of the target, or of both."""
    bins = [postgres18.bin_dir]
    target = f"{live.database}_copy"

    def copy(origin: Server, there: Server) -> None:
        sync(PostgresDumpSource(origin, bins, jobs=2), there, target, bins, replace=True, clock=now)

    for origin, there in chance.some([(far, live), (live, far), (far, far)], 1):
        begun_at = relay.passed
        copy(origin, there)
        whole = relay.passed - begun_at
        with live.using(target).connect() as connection:
            connection.execute("TRUNCATE public.rows")
        as_they_were = contents(live), contents(live.using(target))
        for _ in chance.times(1, 7):
            relay.stall_after(chance.random.randrange(int(whole * 0.9)))
            begun = time.monotonic()
            with pytest.raises(PostgresUnreachable):
                copy(origin, there)
            assert time.monotonic() - begun < BOUND
            relay.cut()
            assert (contents(live), contents(live.using(target))) == as_they_were
    copy(live, live)
    assert contents(live.using(target)) == as_they_were[0]
    assert [each for each in databases(postgres18) if "_restoring_" in each] == []


@pytest.fixture
def witness(s3_server: S3Access, bucket: str, postgres18: EmbeddedPostgres) -> Iterator[Witness]:
    with closing(s3_server.client()) as client:
        yield Witness(client, bucket, postgres18)


@pytest.fixture
def victim(
    live: Server, relay: Relay, postgres18: EmbeddedPostgres, s3_environment: dict[str, str]
) -> Victim:
    """The command line, at the other end of the wire."""
    environment = {**postgres18.environment(live.database), "PGPORT": str(relay.port)}
    return Victim({**s3_environment, **environment})


def test_a_command_that_is_interrupted_in_a_silence_leaves_nothing_within_seconds(
    live: Server, relay: Relay, witness: Witness, victim: Victim
) -> None:
    stalled = threading.Event()
    relay.stall_after(1_000_000, stalled)
    with victim.start("backup") as process:
        try:
            assert stalled.wait(BOUND)
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(BOUND) == 130
            assert time.monotonic() - asked < 10
            assert victim.processes() == []
        finally:
            kill(process.pid, alone=False)
    assert (witness.objects(), witness.uploads()) == ({}, [])
    relay.cut()
    witness.wait_until_quiet(live.database)


def test_a_command_whose_server_falls_silent_in_mid_dump_ends_with_5_and_says_what_to_do(
    live: Server, relay: Relay, witness: Witness, victim: Victim
) -> None:
    patience = {"BACKUP_POSTGRES_TIMEOUT": "1", "BACKUP_JOBS": "1"}
    victim.environment = {**victim.environment, **patience}
    relay.stall_after(2_000_000)
    done = subprocess.run(
        [*COMMAND, "backup"],
        env={**victim.environment, "TEST_MARK": victim.mark},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "has said nothing for 1 s" in done.stderr
    assert "BACKUP_POSTGRES_TIMEOUT" in done.stderr
    assert victim.processes() == []
    assert (witness.objects(), witness.uploads()) == ({}, [])
    relay.cut()
    witness.wait_until_quiet(live.database)


def test_a_silence_is_noticed_by_whoever_waits_for_rows(
    far: Server, live: Server, relay: Relay, postgres18: EmbeddedPostgres
) -> None:
    with live.connect() as connection:
        connection.execute(
            "CREATE TABLE public.many AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)"
        )
    with (
        PostgresDumpSource(far, [postgres18.bin_dir]).open_dump() as dump,
        dump.data()[0]() as rows,
    ):
        assert rows.read(1)
        relay.stall()
        unnoticed = threading.Timer(BOUND / 2, relay.cut)
        unnoticed.start()
        with pytest.raises(PostgresSilent):
            while rows.read(1 << 20):
                pass
        unnoticed.cancel()


def test_who_is_interrupted_while_a_silent_server_owes_an_answer_waits_no_longer(
    live: Server, relay: Relay
) -> None:
    """Psycopg asks for the cancellation, and has five seconds of patience twice."""
    patient = Server.of(live.dsn, port=str(relay.port))
    with pytest.raises(KeyboardInterrupt), patient.connect() as connection:
        relay.stall()
        interrupted = threading.Timer(0.5, _thread.interrupt_main)
        interrupted.start()
        begun = time.monotonic()
        try:
            connection.execute("SELECT pg_sleep(60)")
        finally:
            waited = time.monotonic() - begun
    assert waited < 7


def test_a_server_that_is_only_slow_is_waited_for(live: Server, relay: Relay) -> None:
    patient = replace(Server.of(live.dsn, port=str(relay.port)), patience=0.2)
    with patient.connect() as connection:
        connection.execute("SELECT pg_sleep(1)")


def test_a_server_that_has_no_room_for_one_more_is_still_there(
    live: Server, relay: Relay, postgres18: EmbeddedPostgres
) -> None:
    role = f"lonely_{live.database}"
    with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 1".encode())
        try:
            given = {"port": str(relay.port), "user": role, "password": "p"}
            lonely = replace(Server.of(live.dsn, **given), patience=0.2)
            with lonely.connect() as connection:
                connection.execute("SELECT pg_sleep(1)")
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


# One backend hangs, and the server answers everybody else


def copying(postgres: EmbeddedPostgres, database: str) -> int:
    """The backend that has a COPY under way in a database of such a name, or is about to."""
    deadline = time.monotonic() + BOUND
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        while True:
            row = admin.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname LIKE %s AND state = 'active' AND query LIKE 'COPY %%'",
                [database],
            ).fetchone()
            if row:
                return int(row[0])
            assert time.monotonic() < deadline


def stop_for_a_while(pid: int) -> None:
    """For much longer than the patience of whoever waits for it."""
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(2, os.kill, (pid, signal.SIGCONT)).start()


def test_a_backend_that_hangs_in_mid_dump_is_waited_for_and_the_backup_is_whole(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    stopped: list[float] = []
    with live.connect() as connection:
        # More than fits into the pipes between it and us.
        connection.execute(
            "CREATE TABLE public.wide AS SELECT repeat(md5(i::text), 30) AS text"
            " FROM generate_series(1, 30000) AS i"
        )

    def report(progress: Progress) -> None:
        if progress.done > 5_000_000 and not stopped:
            stop_for_a_while(copying(postgres18, live.database))
            stopped.append(time.monotonic())

    store, impatient = MemoryStore(), replace(live, patience=0.2)
    source = PostgresDumpSource(impatient, [postgres18.bin_dir])
    back_up(source, store, KEYS, NAME, clock=now, report=report)
    assert time.monotonic() - stopped[0] >= 2
    assert verify(store, KEYS, NAME, clock=now).rows == 90000


def test_a_backend_that_hangs_in_mid_restore_is_waited_for_and_the_copy_is_whole(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    stopped: list[float] = []

    class Watched(MemoryStore):
        passes = 0

        def read(
            self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
        ) -> Iterator[bytes]:
            for number, chunk in enumerate(super().read(key, start, length, etag=etag)):
                # A second reading is the one that loads.
                self.passes += number == 15
                if self.passes == 2 and not stopped:
                    stop_for_a_while(copying(postgres18, f"{live.database}%"))
                    stopped.append(time.monotonic())
                yield chunk

    store, impatient = Watched(), replace(live, patience=0.2)
    make(live, store, postgres18)
    target = f"{live.database}_beside"
    restore(store, KEYS, NAME, impatient, target, jobs=1, clock=now)
    assert time.monotonic() - stopped[0] >= 2
    assert contents(live.using(target)) == contents(live)


def test_a_command_that_waits_for_a_backend_which_hangs_can_be_interrupted(
    live: Server, postgres18: EmbeddedPostgres, witness: Witness, victim: Victim
) -> None:
    with (
        psycopg.connect(postgres18.dsn(), autocommit=True) as admin,
        victim.start("backup") as process,
    ):
        pid = None
        try:
            while pid is None:
                row = admin.execute(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE datname = %s AND application_name = 'pg_dump'",
                    [live.database],
                ).fetchone()
                assert process.poll() is None
                if row:
                    pid = int(row[0])
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(BOUND) == 130
            assert time.monotonic() - asked < 10
            assert victim.processes() == []
        finally:
            if pid:
                os.kill(pid, signal.SIGCONT)
            kill(process.pid, alone=False)
    assert (witness.objects(), witness.uploads()) == ({}, [])
    witness.wait_until_quiet(live.database)


@pytest.mark.skipif(not TIMERS.exists(), reason="only Linux shows the timers of connections")
def test_a_wire_without_another_end_is_noticed_by_both_ends_within_minutes(
    far: Server, relay: Relay, postgres18: EmbeddedPostgres
) -> None:
    with PostgresDumpSource(far, [postgres18.bin_dir]).open_dump() as dump:
        ours = relay.far_ends()
        assert len(ours) == 2
        require_watched(ours)
        with dump.data()[0]() as pg_dump:
            assert pg_dump.read(1)
            # What the server sends to it is not acknowledged yet, and is watched for that.
            require_watched({end for end in relay.far_ends() - ours if end[1] == relay.port})


def require_watched(ends: set[tuple[int, int]]) -> None:
    """Each end, by its own port and the other's, asks after a minute if the other is there."""
    deadline = time.monotonic() + BOUND
    while unwatched := ends - set(watched_ends()):
        assert time.monotonic() < deadline, unwatched
        time.sleep(0.05)


def watched_ends() -> Iterator[tuple[int, int]]:
    for line in TIMERS.read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        kind, due = (int(part, 16) for part in timer.split(":"))
        # Kind 2 is the one that keeps a connection alive, due in hundredths of a second.
        if kind == 2 and due <= 6100:
            yield int(local.split(":")[1], 16), int(remote.split(":")[1], 16)
