"""A live database is replaced under its clients: each of them sees a whole one, old or restored."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import errors as pg

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Progress
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import RestoreResult, restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.target import switch
from backup_pipeline.errors import TargetExists, TargetInUse
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    live_database,
)

KEYS = Keys("backups/postgres/")
CLIENTS = 20
# In each transaction the sum of all balances is that of all bookings, and every table is there.
TABLES = f"""
    CREATE TABLE public.ledger AS SELECT 'as backed up' AS name;
    CREATE TABLE public.accounts (id integer PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO public.accounts SELECT i, 100 FROM generate_series(1, {CLIENTS}) AS i;
    CREATE TABLE public.bookings (account integer REFERENCES public.accounts, amount bigint);
    INSERT INTO public.bookings SELECT id, 1 FROM public.accounts, generate_series(1, 100);
"""
WRITE = """
    UPDATE public.accounts SET balance = balance + 5 WHERE id = %(account)s;
    INSERT INTO public.bookings VALUES (%(account)s, 5);
"""
READ = """
    SELECT name, (SELECT sum(balance) FROM public.accounts),
           (SELECT sum(amount) FROM public.bookings)
    FROM public.ledger
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A live database; whatever a test makes beside it is dropped afterwards."""
    with live_database(postgres18, TABLES) as server:
        yield server


@pytest.fixture
def backup(live: Server, store: ObjectStore, postgres18: EmbeddedPostgres) -> BackupName:
    """A backup of it, after which it went on."""
    name = BackupName.of(live.database, now())
    back_up(PostgresDumpSource(live, [postgres18.bin_dir]), store, KEYS, name, clock=now)
    with live.connect() as connection:
        connection.execute("UPDATE public.ledger SET name = 'live'")
    return name


class Client:
    """Reads and writes until it is told to stop, and connects again whenever it is cut off."""

    def __init__(self, dsn: str, account: int) -> None:
        self._dsn, self._account = dsn, account
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.connected = threading.Event()
        self.seen: list[str] = []
        self.wrong: list[object] = []
        self.cut_off: list[float] = []
        self.last_live = self.first_restored = self.left_at = 0.0
        self._thread.start()

    def leave(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=10) as connection:
                    self._use(connection)
            except (psycopg.OperationalError, pg.InvalidCatalogName):
                # Cut off, or refused in the very instant of the switch.
                self.cut_off.append(time.monotonic())
            except psycopg.Error as error:
                self.wrong.append(error)
        self.left_at = time.monotonic()

    def _use(self, connection: psycopg.Connection[tuple[str, int, int]]) -> None:
        while not self._stop.is_set():
            with connection.transaction():
                cursor = psycopg.ClientCursor(connection)
                cursor.execute(WRITE, {"account": self._account})
            row = connection.execute(READ).fetchone()
            assert row is not None
            self._note(*row)
            self.connected.set()

    def _note(self, name: str, balances: int, bookings: int) -> None:
        if balances != bookings:
            self.wrong.append((name, balances, bookings))
        if name == "live":
            self.last_live = time.monotonic()
        else:
            self.first_restored = self.first_restored or time.monotonic()
        if self.seen[-1:] != [name]:
            self.seen.append(name)


@contextmanager
def clients_of(postgres: EmbeddedPostgres, server: Server) -> Iterator[list[Client]]:
    """Twenty of them, each of which has read and written."""
    dsn = postgres.dsn(server.database)
    clients = [Client(dsn, account) for account in range(1, CLIENTS + 1)]
    try:
        assert all(client.connected.wait(30) for client in clients)
        yield clients
    finally:
        for client in clients:
            client.leave()


def replace(store: ObjectStore, name: BackupName, server: Server, **how: object) -> RestoreResult:
    database = server.database
    return restore(store, KEYS, name, server, database, replace=True, clock=now, **how)  # type: ignore[arg-type]


def while_it_loads(act: Callable[[], None]) -> Callable[[Progress], None]:
    """Do something, once, when the database to be switched in is there."""
    done: list[bool] = []

    def report(progress: Progress) -> None:
        if progress.stage == "restore" and not done:
            done.append(True)
            act()

    return report


def test_clients_that_are_disconnected_see_the_old_database_whole_and_then_the_restored_one(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    with clients_of(postgres18, live) as clients:
        result = replace(store, backup, live, disconnect=True)
        deadline = time.monotonic() + 30
        while not all(client.first_restored for client in clients):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    outages = [client.first_restored - client.last_live for client in clients]
    print(f"outage of {CLIENTS} clients: median {statistics.median(outages):.3f} s,", end=" ")  # noqa: T201
    print(f"at most {max(outages):.3f} s; the switch took {result.switch_seconds:.3f} s")  # noqa: T201
    assert [client.wrong for client in clients] == [[]] * CLIENTS
    assert [client.seen for client in clients] == [["live", "as backed up"]] * CLIENTS
    assert result.switch_seconds < 1


def test_clients_that_may_leave_by_themselves_are_waited_for_and_no_longer(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    delays = []
    for _ in range(3):
        with clients_of(postgres18, live) as clients:

            def leave_one_after_another(clients: list[Client] = clients) -> None:
                for client in clients:
                    time.sleep(0.1)
                    client.leave()

            leaving = threading.Thread(target=leave_one_after_another)
            replace(store, backup, live, wait=60, report=while_it_loads(leaving.start))
            delays.append(time.monotonic() - max(client.left_at for client in clients))
            leaving.join()
        assert [client.wrong for client in clients] == [[]] * CLIENTS
        assert all(len(client.seen) == 1 and not client.cut_off for client in clients)
    shown = ", ".join(f"{delay:.3f}" for delay in delays)
    print(f"switched so many seconds after the last client had gone: {shown}")  # noqa: T201
    assert statistics.median(delays) < 1


def test_a_client_that_does_not_leave_in_time_refuses_the_switch(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    before, names = contents(live), databases(postgres18)
    begun: list[float] = []
    with (
        psycopg.connect(postgres18.dsn(live.database), application_name="a client"),
        pytest.raises(TargetInUse, match="a client"),
    ):
        loaded = while_it_loads(lambda: begun.append(time.monotonic()))
        replace(store, backup, live, wait=1, report=loaded)
    assert time.monotonic() - begun[0] >= 1
    assert (contents(live), databases(postgres18)) == (before, names)


def test_a_client_that_does_not_leave_in_time_is_disconnected_where_that_was_asked(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    with psycopg.connect(postgres18.dsn(live.database), autocommit=True) as client:

        def still_works() -> None:
            client.execute("SELECT 1")

        result = replace(
            store, backup, live, wait=1, disconnect=True, report=while_it_loads(still_works)
        )
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    assert result.switch_seconds >= 1
    assert result.previous in databases(postgres18)


def test_a_name_that_somebody_takes_while_it_loads_is_left_to_them(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    target = f"{live.database}_new"

    def take_it() -> None:
        with live.using("postgres").connect() as admin:
            admin.execute(f'CREATE DATABASE "{target}"')

    with pytest.raises(TargetExists, match="was created meanwhile"):
        restore(store, KEYS, backup, live, target, clock=now, report=while_it_loads(take_it))
    assert databases(postgres18) >= {target}
    assert not [name for name in databases(postgres18) if "_restoring_" in name]


def test_when_the_second_rename_fails_the_first_is_undone(
    live: Server,
    backup: BackupName,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
) -> None:
    """Somebody holds the loaded database, which PostgreSQL therefore does not rename."""
    before, names, holding = contents(live), databases(postgres18), []

    def hold() -> None:
        (loading,) = [name for name in databases(postgres18) if "_restoring_" in name]
        holding.append(psycopg.connect(postgres18.dsn(loading)))

    try:
        with pytest.raises(TargetInUse):
            replace(store, backup, live, report=while_it_loads(hold))
    finally:
        for connection in holding:
            connection.close()
    assert (contents(live), databases(postgres18)) == (before, names)


def test_clients_that_keep_coming_do_not_hold_up_a_switch_that_disconnects(
    live: Server, postgres18: EmbeddedPostgres
) -> None:
    """One that is just connecting when the others are cut off is no session yet, and would stay."""
    stop = threading.Event()

    def come_and_stay(seconds: float) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(postgres18.dsn(live.database), autocommit=True) as connection:
                    leave_at = time.monotonic() + seconds
                    while time.monotonic() < leave_at and not stop.is_set():
                        connection.execute("SELECT pg_sleep(0.05)")
            except psycopg.OperationalError:
                continue

    stays = [0.5 + number / 6 for number in range(50)]
    threads = [threading.Thread(target=come_and_stay, args=(stay,), daemon=True) for stay in stays]
    took = []
    with live.using("postgres").connect() as admin:
        for thread in threads:
            thread.start()
        try:
            for number in range(8):
                loaded, previous = f"{live.database}_{number}", f"{live.database}_before_{number}"
                admin.execute(f'CREATE DATABASE "{loaded}" TEMPLATE template0')
                time.sleep(0.7)
                begun = time.monotonic()
                switch(live, admin, loaded, live.database, previous, replace=True, disconnect=True)
                took.append(time.monotonic() - begun)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    print(f"switches took {', '.join(f'{seconds:.2f}' for seconds in took)} s")  # noqa: T201
    assert statistics.median(took) < 2
