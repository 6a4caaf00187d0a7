"""A live database goes straight to another server, and the target is protected as in a restore."""

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from backup_pipeline import cli
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine import load, plan
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Progress, Report, silent
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.sync import SyncResult, sync
from backup_pipeline.errors import TargetExists, TargetInUse, TargetUnsuitable, VerificationFailed
from backup_pipeline_tests.integration.databases import (
    EVERY_KIND,
    assert_equal,
    contents,
    databases,
    drop_database,
    new_database,
)

USAGE, REFUSED = 2, 3


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are dumped and loaded side by side although they hold little."""
    monkeypatch.setattr(plan, "LARGE", 8192)
    monkeypatch.setattr(load, "_WORTH_FREEZING", 1000)


@pytest.fixture
def source(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(postgres18, EVERY_KIND) as server:
        yield server
        for database in databases(postgres18):
            if database.startswith(server.database):
                drop_database(postgres18, database)


def copy(
    source: Server,
    postgres: EmbeddedPostgres,
    target: str,
    *,
    replace: bool = False,
    disconnect: bool = False,
    report: Report = silent,
) -> SyncResult:
    dump = PostgresDumpSource(source, [postgres.bin_dir], jobs=3)
    return sync(
        dump,
        source,
        target,
        [postgres.bin_dir],
        replace=replace,
        disconnect=disconnect,
        clock=now,
        report=report,
    )


def test_the_copy_equals_the_source(source: Server, postgres18: EmbeddedPostgres) -> None:
    result = copy(source, postgres18, f"{source.database}_copy")
    assert_equal(postgres18, source, source.using(result.database))
    assert result.tables > 5


@pytest.mark.parametrize(("tables", "workers"), [(1, "2"), (4, "0")])
def test_an_index_has_workers_of_its_own_only_where_one_table_outweighs_the_others(
    postgres18: EmbeddedPostgres, tables: int, workers: str
) -> None:
    """As in a restore: elsewhere the cores are taken by the other tables' indexes."""
    with new_database(postgres18) as source:
        with source.connect() as connection:
            for number in range(tables):
                rows = "generate_series(1, 1000)"
                connection.execute(
                    f"CREATE TABLE public.t{number} AS SELECT * FROM {rows}".encode()
                )
            connection.execute(
                "CREATE MATERIALIZED VIEW public.made_with AS"
                " SELECT current_setting('max_parallel_maintenance_workers')"
            )
        result = copy(source, postgres18, f"{source.database}_copy")
        try:
            with source.using(result.database).connect() as connection:
                found = connection.execute("SELECT * FROM public.made_with").fetchone()
        finally:
            drop_database(postgres18, result.database)
    assert found == (workers,)


def test_an_older_server_goes_into_a_newer_one(
    postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres
) -> None:
    with new_database(postgres16, EVERY_KIND) as old:
        dump = PostgresDumpSource(old, [postgres16.bin_dir])
        target = Server.of(postgres18.dsn())
        try:
            sync(dump, target, old.database, [postgres18.bin_dir], clock=now)
            assert contents(target.using(old.database)) == contents(old)
        finally:
            drop_database(postgres18, old.database)
        back = PostgresDumpSource(Server.of(postgres18.dsn()), [postgres18.bin_dir])
        with pytest.raises(TargetUnsuitable):
            sync(back, old, "anything", [postgres18.bin_dir], clock=now)


def test_a_database_that_is_there_is_replaced_only_when_asked(
    source: Server, postgres18: EmbeddedPostgres
) -> None:
    target = f"{source.database}_copy"
    copy(source, postgres18, target)
    with source.using(target).connect() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
    with pytest.raises(TargetExists):
        copy(source, postgres18, target)
    result = copy(source, postgres18, target, replace=True)
    assert result.previous in databases(postgres18)
    assert_equal(postgres18, source, source.using(target))


def test_a_database_in_use_is_not_replaced(source: Server, postgres18: EmbeddedPostgres) -> None:
    target = f"{source.database}_copy"
    copy(source, postgres18, target)
    before = databases(postgres18)
    with psycopg.connect(postgres18.dsn(target)), pytest.raises(TargetInUse):
        copy(source, postgres18, target, replace=True)
    assert databases(postgres18) == before


def test_a_copy_that_differs_is_never_switched_in(
    source: Server, postgres18: EmbeddedPostgres
) -> None:
    before = databases(postgres18)
    meddled: list[str] = []

    def meddle(progress: Progress) -> None:
        with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
            query = "SELECT datname FROM pg_database WHERE datname ~ '_restoring_'"
            (name,) = admin.execute(query).fetchone() or ("",)
        with psycopg.connect(postgres18.dsn(name), autocommit=True) as meddler:
            exists = meddler.execute("SELECT to_regclass('public.chicken')").fetchone()
            if exists != (None,) and not meddled:
                meddler.execute("CREATE TABLE public.besides ()")
                meddled.append(name)

    with pytest.raises(VerificationFailed, match=r"public\.besides was not dumped"):
        copy(source, postgres18, f"{source.database}_copy", report=meddle)
    assert databases(postgres18) == before


def test_on_the_command_line(
    source: Server,
    postgres18: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in postgres18.environment(source.database).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(postgres18.bin_dir))
    monkeypatch.setenv("LAPTOP", postgres18.dsn())
    target = f"{source.database}_laptop"
    options = ["--to", "env:LAPTOP", "--into", target]
    assert cli.run(["sync", *options]) == REFUSED
    assert target not in databases(postgres18)
    assert cli.run(["sync", *options, "--no-confirm"]) == 0
    assert "copied" in capsys.readouterr().out
    assert_equal(postgres18, source, source.using(target))
    assert cli.run(["sync", *options, "--no-confirm"]) == REFUSED


def test_a_password_among_the_arguments_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["sync", "--to", "postgresql://me:canary@127.0.0.1:9/x"]) == USAGE
    assert "canary" not in capsys.readouterr().err
