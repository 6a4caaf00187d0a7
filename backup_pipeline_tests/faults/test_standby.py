"""A standby: it is backed up like any server, writes nothing, and goes on without a long reader."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import NamedTuple

import psycopg
import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.diagnosis_drill import of_drill_server
from backup_pipeline.engine.diagnosis_server import of_server
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.findings import Finding, Level
from backup_pipeline.engine.model import Globals, Manifest, Progress, Report, silent
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import SECURITY_MINIMUMS, Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.sync import sync
from backup_pipeline.errors import PostgresFailed, TargetUnsuitable
from backup_pipeline_tests.integration.databases import (
    databases,
    drop_database,
    new_database,
    psql,
)

KEYS = Keys("backups/postgres/")
NAME = BackupName.parse("shop_2026-11-29_230000")
TABLES = b"""
    CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
    INSERT INTO orders (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 60000) AS i;
    CREATE TABLE items (id bigserial PRIMARY KEY, orders_id bigint REFERENCES orders, note text);
    INSERT INTO items (orders_id, note) SELECT i, repeat(md5(i::text), 8)
    FROM generate_series(1, 60000) AS i;
    CREATE UNLOGGED TABLE baskets (id int GENERATED ALWAYS AS IDENTITY, note text);
    INSERT INTO baskets (note) VALUES ('one'), ('two');
"""


class Pair(NamedTuple):
    """A primary, and the standby that follows it."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres

    def live(self) -> Server:
        return Server.of(self.standby.dsn("shop"))

    def source(self) -> PostgresDumpSource:
        return PostgresDumpSource(self.live(), [self.standby.bin_dir], jobs=2)

    def follow(self) -> None:
        """Wait until the standby has what the primary has."""
        with psycopg.connect(self.primary.dsn()) as connection:
            (lsn,) = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone() or (
                "",
            )
        wait_for(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")


def wait_for(postgres: EmbeddedPostgres, query: str) -> None:
    deadline = monotonic() + 20
    with psycopg.connect(postgres.dsn("shop"), autocommit=True) as connection:
        while connection.execute(query.encode()).fetchone() != (True,):
            assert monotonic() < deadline, query
            sleep(0.02)


@contextmanager
def followed(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A standby of a server, as `pg_basebackup` makes it."""
    with TemporaryDirectory(prefix="backup-pipeline-") as directory:
        data = Path(directory, "standby")
        subprocess.run(
            [
                primary.bin_dir / "pg_basebackup",
                "--pgdata",
                data,
                "--write-recovery-conf",
                "-cfast",
            ],
            env={**os.environ, **primary.environment()},
            check=True,
            capture_output=True,
        )
        standby = EmbeddedPostgres(data, durable=False)
        password = standby.beside(".password")
        password.write_text(primary.password)
        if os.geteuid() == 0:  # PostgreSQL will not run as root
            owner = primary.data_dir.stat()
            for path in (password, data, *data.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        with standby:
            yield standby


@pytest.fixture(scope="module")
def pair(postgres18: EmbeddedPostgres) -> Iterator[Pair]:
    with new_database(postgres18, name="shop"), followed(postgres18) as standby:
        psql(postgres18, "shop", TABLES)
        pair = Pair(postgres18, standby)
        pair.follow()
        yield pair


def back_up_standby(pair: Pair, store: ObjectStore, report: Report = silent) -> Manifest:
    return back_up(
        pair.source(),
        store,
        KEYS,
        NAME,
        globals_=Globals.WITH_PASSWORDS,
        clock=lambda: datetime.now(UTC),
        report=report,
    )


def findings_of(server: Server, pair: Pair) -> dict[str, Finding]:
    bin_dirs = [pair.standby.bin_dir]
    found = of_server(server, bin_dirs, SECURITY_MINIMUMS, lambda: datetime.now(UTC))
    return {finding.subject: finding for finding in found}


def test_a_backup_of_a_standby_restores_on_the_primary(pair: Pair, store: ObjectStore) -> None:
    manifest = back_up_standby(pair, store)
    assert {table.table: table.rows for table in manifest.contents.tables} == {
        "orders": 60_000,
        "items": 60_000,
        "baskets": 0,
    }
    result = drill(
        store,
        KEYS,
        NAME,
        Server.of(pair.primary.dsn("shop")),
        [pair.primary.bin_dir],
        clock=lambda: datetime.now(UTC),
    )
    assert result.entry.findings == ()


def test_rows_that_a_standby_lacks_are_told(pair: Pair, store: ObjectStore) -> None:
    (remark,) = back_up_standby(pair, store).remarks
    assert remark.endswith("they are in no dump of it: public.baskets")
    assert findings_of(pair.live(), pair)["left out"].message == remark
    assert findings_of(Server.of(pair.primary.dsn("shop")), pair).keys() & {"left out"} == set()


def test_nothing_is_attempted_on_a_server_that_takes_no_writes(
    pair: Pair, store: ObjectStore
) -> None:
    back_up_standby(pair, store)
    before = databases(pair.standby)
    with pytest.raises(TargetUnsuitable, match="is a standby") as caught:
        restore(store, KEYS, NAME, pair.live(), "again", clock=lambda: datetime.now(UTC))
    assert "BACKUP_DRILL_DSN" in caught.value.hint
    with pytest.raises(TargetUnsuitable, match="is a standby"):
        drill(
            store,
            KEYS,
            NAME,
            pair.live(),
            [pair.standby.bin_dir],
            clock=lambda: datetime.now(UTC),
        )
    (found,) = of_drill_server(pair.live(), pair.live(), [pair.standby.bin_dir])
    assert (found.level, found.message) == (
        Level.FAIL,
        "the target server is a standby, which takes no writes",
    )
    assert databases(pair.standby) == before


@contextmanager
def patient(standby: EmbeddedPostgres, delay: str) -> Iterator[None]:
    with psycopg.connect(standby.dsn(), autocommit=True) as connection:
        for statement in (f"ALTER SYSTEM SET max_standby_streaming_delay = '{delay}'", ""):
            connection.execute((statement or "SELECT pg_reload_conf()").encode())
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
            connection.execute("SELECT pg_reload_conf()")


def test_check_tells_how_long_a_standby_waits_for_a_backup(pair: Pair) -> None:
    with patient(pair.standby, "45s"):
        found = findings_of(pair.live(), pair)["standby"]
    assert found.level is Level.WARN
    assert found.message.endswith("changes of the primary had to wait 45s")
    with patient(pair.standby, "-1"):
        assert findings_of(pair.live(), pair)["standby"].level is Level.OK
    assert "standby" not in findings_of(Server.of(pair.primary.dsn("shop")), pair)


def test_a_standby_is_synced_into_another_server_as_it_is(pair: Pair) -> None:
    with new_database(pair.primary, name="shop_copy") as copy:
        result = sync(
            pair.source(),
            copy,
            "shop_copy",
            [pair.primary.bin_dir],
            replace=True,
            disconnect=True,
            clock=lambda: datetime.now(UTC),
        )
        assert result.rows == 120_000
        drop_database(pair.primary, result.previous or "")


def emptied_on(pair: Pair) -> Report:
    """Once rows are read: empty a table on the primary, and wait until the standby knows."""
    done: list[bool] = []

    def report(progress: Progress) -> None:
        if progress.done > 1_000_000 and not done:
            done.append(True)
            with psycopg.connect(pair.primary.dsn("shop"), autocommit=True) as connection:
                connection.execute("TRUNCATE items")
            wait_for(
                pair.standby,
                "SELECT confl_lock > 0 FROM pg_stat_database_conflicts WHERE datname = 'shop'",
            )

    return report


def test_a_standby_that_goes_on_without_the_backup(pair: Pair, store: ObjectStore) -> None:
    with patient(pair.standby, "100ms"):
        with pytest.raises(PostgresFailed, match="conflict with recovery") as caught:
            back_up_standby(pair, store, emptied_on(pair))
        assert "max_standby_streaming_delay" in caught.value.hint
    assert [*store.list("")] == []
    assert [*store.list_uploads("")] == []
