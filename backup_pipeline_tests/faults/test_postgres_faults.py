"""The connection to PostgreSQL breaks at any moment: a backup is absent, a target as it was."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import PostgresFailed, PostgresUnreachable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.relay import Relay
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    live_database,
)

KEYS = Keys("backups/postgres/")
TABLES = """
    CREATE TABLE public.rows AS SELECT i, md5(i::text) AS text FROM generate_series(1, 5000) AS i;
    CREATE INDEX ON public.rows (text);
    CREATE VIEW public.few AS SELECT * FROM public.rows WHERE i < 10
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A live database; whatever a test makes beside it is dropped afterwards."""
    with live_database(postgres18, TABLES) as server:
        yield server


@pytest.fixture
def far(live: Server, relay: Relay) -> Server:
    """The same database at the other end of a wire that may break."""
    return Server.of(live.dsn, port=str(relay.port))


def make(server: Server, store: MemoryStore, postgres: EmbeddedPostgres, day: int) -> BackupName:
    name = BackupName.of("shop", datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day))
    back_up(PostgresDumpSource(server, [postgres.bin_dir]), store, KEYS, name, clock=now)
    return name


def test_a_connection_that_breaks_at_any_moment_of_a_backup_leaves_nothing(
    far: Server, relay: Relay, postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    store = MemoryStore()
    make(far, store, postgres18, 0)
    whole, good = relay.passed, dict(store.objects)
    for number in chance.times(4, 40):
        relay.cut_after(chance.random.randrange(whole))
        try:
            name = make(far, store, postgres18, number + 1)
        except (PostgresFailed, PostgresUnreachable):
            assert (store.objects, store.uploads) == (good, {})
        else:
            # The session ended after the last byte that was needed.
            assert verify(store, KEYS, name, clock=now).passed
            good = dict(store.objects)


def test_a_connection_that_breaks_at_any_moment_of_a_restore_leaves_the_target_as_it_was(
    live: Server, far: Server, relay: Relay, postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    store = MemoryStore()
    name = make(live, store, postgres18, 0)
    as_backed_up = contents(live)
    with live.connect() as connection:
        connection.execute("CREATE TABLE public.since_the_backup AS SELECT 1 AS id")
    as_it_was, begun = contents(live), relay.passed
    restore(store, KEYS, name, far, f"{live.database}_beside", clock=now)
    whole = relay.passed - begun
    for _ in chance.times(4, 40):
        relay.cut_after(chance.random.randrange(whole))
        try:
            restore(store, KEYS, name, far, live.database, replace=True, clock=now)
        except (PostgresFailed, PostgresUnreachable):
            found = contents(live)
            assert found in (as_it_was, as_backed_up)
        else:
            assert contents(live) == as_backed_up
        restored_already = contents(live) == as_backed_up
        if restored_already:
            # The answer to the switch was lost, or the limit lay beyond it; the old one is kept.
            (kept,) = {each for each in databases(postgres18) if "_before_" in each}
            assert contents(live.using(kept)) == as_it_was
            drop_database(postgres18, live.database)
            with live.using("postgres").connect() as admin:
                admin.execute(f'ALTER DATABASE "{kept}" RENAME TO "{live.database}"')
    restore(store, KEYS, name, live, f"{live.database}_at_last", clock=now)
    assert [each for each in databases(postgres18) if "_restoring_" in each] == []
