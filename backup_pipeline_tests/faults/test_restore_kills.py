"""Restores killed outright at random moments: the target is as it was, and the next one tidies up.

What else is killed is in `test_kills.py`.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.diagnosis import diagnose
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.target import leftovers
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.killing import Victim
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    live_database,
    new_database,
)

KEYS = Keys("backups/postgres/")
TABLES = """
    CREATE TABLE public.one (id integer PRIMARY KEY, text text);
    INSERT INTO public.one SELECT i, md5(i::text) FROM generate_series(1, 60000) AS i;
    CREATE INDEX ON public.one (text);
"""
CHANGED = "CREATE TABLE public.since_the_backup AS SELECT 1 AS id"


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
        connection.execute(CHANGED)
    return name


@pytest.fixture
def victim(
    live: Server, postgres18: EmbeddedPostgres, s3_environment: dict[str, str]
) -> Iterator[Victim]:
    victim = Victim({**s3_environment, **postgres18.environment(live.database)})
    yield victim
    victim.wait_until_gone()


def test_killed_at_any_moment_the_target_is_as_it_was_and_the_next_restore_tidies_up(
    live: Server,
    backup: BackupName,
    store: ObjectStore,
    victim: Victim,
    postgres18: EmbeddedPostgres,
    chance: Chance,
) -> None:
    as_it_was, beside = contents(live), f"{live.database}_beside"
    command = ("restore", "--latest", "--no-confirm")
    whole = victim.run(*command, "--into", beside)
    as_backed_up = contents(live.using(beside))
    drop_database(postgres18, beside)

    for number in chance.times(6, 200):
        into = f"{beside}_{number}"
        options = ("--replace",) if number % 2 else ("--into", into)
        moment = chance.random.uniform(0.3, 1.1) * whole
        victim.run_and_kill(moment, *command, *options, alone=number % 3 == 0)
        found = contents(live)
        kept = [name for name in databases(postgres18) if "_before_" in name]
        assert found == as_it_was or (found == as_backed_up and kept)
        for name in databases(postgres18) & {into}:
            assert contents(live.using(name)) == as_backed_up
            drop_database(postgres18, name)
        victim.wait_until_gone()

    wait_until_unlocked(postgres18)
    restore(store, KEYS, backup, live, f"{live.database}_at_last", clock=now)

    half_made = [name for name in databases(postgres18) if "_restoring_" in name]
    assert half_made == []


def wait_until_unlocked(postgres: EmbeddedPostgres) -> None:
    """Until the server has noticed that its clients are gone."""
    deadline = time.monotonic() + 30
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backup-pipeline'"
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        while admin.execute(query).fetchall() != [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_database_of_which_somebody_is_still_making_a_copy_is_left_alone(
    live: Server, backup: BackupName, store: ObjectStore
) -> None:
    def look(_: object) -> None:
        with live.using("postgres").connect() as admin:
            assert leftovers(admin) == ()
            rows = admin.execute("SELECT datname FROM pg_database WHERE datname ~ '_restoring_'")
            seen.update(name for (name,) in rows.fetchall())

    seen: set[str] = set()
    restore(store, KEYS, backup, live, f"{live.database}_beside", clock=now, report=look)
    assert len(seen) == 1


def test_somebody_elses_database_of_such_a_name_is_left_alone(
    live: Server, backup: BackupName, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    theirs = f"{live.database}_restoring_12345678"
    with new_database(postgres18, name=theirs):
        restore(store, KEYS, backup, live, f"{live.database}_beside", clock=now)
        assert theirs in databases(postgres18)


@pytest.mark.parametrize("commented", [True, False], ids=["commented", "not yet commented"])
def test_what_a_killed_restore_left_is_recognized_and_named(
    live: Server, postgres18: EmbeddedPostgres, store: ObjectStore, commented: bool
) -> None:
    left = f"{live.database}_restoring_12345678"
    with new_database(postgres18, name=left), live.using("postgres").connect() as admin:
        if commented:
            text = "half made by backup_pipeline: a restore that did not finish"
            admin.execute(f"COMMENT ON DATABASE \"{left}\" IS '{text}'")
        else:
            admin.execute(f'ALTER DATABASE "{left}" ALLOW_CONNECTIONS false')
        assert leftovers(admin) == (left,)
        findings = diagnose(live, [postgres18.bin_dir], store, KEYS, clock=now)
        (named,) = (each for each in findings if each.subject == "unfinished restores")
    assert left in named.message


def test_a_restored_database_carries_no_mark(
    live: Server, backup: BackupName, store: ObjectStore
) -> None:
    database = f"{live.database}_beside"
    restore(store, KEYS, backup, live, database, clock=now)
    with live.using("postgres").connect() as admin:
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        assert admin.execute(query, (database,)).fetchall() == [(None,)]
        assert leftovers(admin) == ()
