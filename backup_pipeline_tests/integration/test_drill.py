"""A drill says equal of what is equal, and of anything else where it differs; nothing is left."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from backup_pipeline import cli
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_evidence
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.drill import DrillResult, drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Act, Invariant, Manifest, Progress, Report, State, silent
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NotFound, PostgresFailed, TargetUnsuitable
from backup_pipeline_tests.integration.databases import (
    databases,
    live_database,
    new_database,
    tablespace,
)
from backup_pipeline_tests.integration.test_round_trip import (
    chinook,
    every_kind,
    options_market,
    pagila,
)

KEYS = Keys("backups/postgres/")
VERIFICATION_FAILED = 7
Database = Callable[[EmbeddedPostgres, pytest.FixtureRequest], AbstractContextManager[Server]]


def now() -> datetime:
    return datetime.now(UTC)


def make(
    server: Server, store: ObjectStore, postgres: EmbeddedPostgres, *, digests: bool = True
) -> Manifest:
    source = PostgresDumpSource(server, [postgres.bin_dir], jobs=2)
    name = BackupName.of(server.database, now())
    return back_up(source, store, KEYS, name, digests=digests, clock=now)


def prove(
    manifest: Manifest,
    store: ObjectStore,
    postgres: EmbeddedPostgres,
    *invariants: Invariant,
    report: Report = silent,
) -> DrillResult:
    before = databases(postgres)
    name = BackupName.parse(manifest.name)
    server = Server.of(postgres.dsn(manifest.source.database))
    try:
        return drill(
            store,
            KEYS,
            name,
            server,
            [postgres.bin_dir],
            invariants=invariants,
            clock=now,
            report=report,
        )
    finally:
        assert databases(postgres) == before


@pytest.mark.parametrize(
    "database", [every_kind, chinook, pagila, options_market], ids=lambda each: each.__name__
)
def test_what_was_dumped_is_restorable(
    any_postgres: EmbeddedPostgres,
    request: pytest.FixtureRequest,
    store: ObjectStore,
    database: Database,
) -> None:
    with database(any_postgres, request) as source:
        manifest = make(source, store, any_postgres)
        result = prove(manifest, store, any_postgres)
    assert result.entry.findings == ()
    assert result.not_compared == ()
    assert all(table.digest for table in manifest.contents.tables)
    assert result.entry.recovery_seconds is not None
    assert 0 < result.entry.recovery_seconds < result.entry.seconds
    (backup,) = read_catalog(store, KEYS).backups
    assert (backup.state, backup.restored_at) == (State.VERIFIED, result.entry.at)


@pytest.fixture
def market(
    postgres18: EmbeddedPostgres, request: pytest.FixtureRequest, store: ObjectStore
) -> Iterator[Manifest]:
    """A backup of the sample database."""
    with options_market(postgres18, request) as source:
        yield make(source, store, postgres18)


def meddling(postgres: EmbeddedPostgres, script: str) -> Report:
    """Changes the restored copy once it is loaded."""

    def report(progress: Progress) -> None:
        if progress.stage == "compare":
            (scratch,) = [name for name in databases(postgres) if "_restoring_" in name]
            with psycopg.connect(postgres.dsn(scratch), autocommit=True) as meddler:
                meddler.execute(script)

    return report


def test_a_backup_that_is_deleted_under_a_drill_gets_no_evidence(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    name = BackupName.parse(market.name)

    def pruned(progress: Progress) -> None:
        if progress.stage == "compare":
            store.delete(KEYS.of(name, Kind.MANIFEST))

    with pytest.raises(NotFound, match="was deleted while it was read"):
        prove(market, store, postgres18, report=pruned)
    assert read_evidence(store, KEYS, name).entries == ()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "UPDATE trades SET price = price + 0.01 WHERE ctid = (SELECT min(ctid) FROM trades)",
            "trades has",
        ),
        ("DELETE FROM trades WHERE ctid = (SELECT min(ctid) FROM trades)", "rows where"),
        ("SELECT setval('trades_trade_id_seq', 1)", "sequence public.trades_trade_id_seq stands"),
        ("ALTER TABLE trades ALTER COLUMN price DROP NOT NULL", "the schema lacks the line"),
        ("CREATE INDEX besides ON trades (price)", "the schema has besides the line"),
    ],
    ids=["one value", "one row", "one sequence", "one constraint", "one index"],
)
def test_whatever_differs_in_the_copy_is_found_and_named(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres, script: str, said: str
) -> None:
    result = prove(market, store, postgres18, report=meddling(postgres18, script))
    assert said in "; ".join(result.entry.findings)
    assert not result.equal
    (backup,) = read_catalog(store, KEYS).backups
    assert (backup.state, backup.restored_at) == (State.FAILED, None)


@pytest.mark.parametrize(
    ("database", "script", "said"),
    [
        (
            chinook,
            (
                "UPDATE track SET name = 'other' WHERE track_id = 1;"
                " DELETE FROM playlist_track WHERE ctid = (SELECT min(ctid) FROM playlist_track)"
            ),
            ["table public.playlist_track has", "table public.track has"],
        ),
        (
            pagila,
            (
                "UPDATE public.film SET rental_rate = 99 WHERE film_id = 1;"
                " DELETE FROM film_actor WHERE ctid = (SELECT min(ctid) FROM film_actor);"
                " SELECT setval('public.actor_actor_id_seq', 1)"
            ),
            [
                "table public.film has",
                "table public.film_actor has",
                "sequence public.actor_actor_id_seq stands",
            ],
        ),
    ],
    ids=["chinook", "pagila"],
)
def test_several_differences_are_each_named_and_nothing_else(
    postgres18: EmbeddedPostgres,
    request: pytest.FixtureRequest,
    store: ObjectStore,
    database: Database,
    script: str,
    said: list[str],
) -> None:
    with database(postgres18, request) as source:
        manifest = make(source, store, postgres18)
        result = prove(manifest, store, postgres18, report=meddling(postgres18, script))
    for finding, begins in zip(result.entry.findings, said, strict=True):
        assert finding.startswith(begins)


TO_ANOTHER_SERVER = """
    CREATE FOREIGN DATA WRAPPER nowhere;
    CREATE SERVER remote FOREIGN DATA WRAPPER nowhere;
    CREATE USER MAPPING FOR CURRENT_USER SERVER remote
        OPTIONS (password 'canary one', token 'canary');
    CREATE FUNCTION public.subscribe() RETURNS void LANGUAGE sql AS $$
        CREATE SUBSCRIPTION s CONNECTION 'host=there password=canary' PUBLICATION p;
    $$;
"""
CHANGED = """
    ALTER USER MAPPING FOR CURRENT_USER SERVER remote
        OPTIONS (SET password 'canary''s brother', SET token 'canary two');
    CREATE OR REPLACE FUNCTION public.subscribe() RETURNS void LANGUAGE sql AS $$
        CREATE SUBSCRIPTION s CONNECTION 'host=there password=canary2' PUBLICATION p;
    $$;
"""


def test_a_finding_shows_no_password(postgres18: EmbeddedPostgres, store: ObjectStore) -> None:
    """In a bucket, in messages and in Dagster more people read it than the database."""
    with live_database(postgres18, TO_ANOTHER_SERVER) as source:
        manifest = make(source, store, postgres18)
        result = prove(manifest, store, postgres18, report=meddling(postgres18, CHANGED))
    said = "; ".join(result.entry.findings)
    assert "password '...'" in said
    assert "CREATE SUBSCRIPTION s CONNECTION '...' PUBLICATION p" in said
    assert "canary" not in said


def test_a_copy_without_the_source_s_tablespaces_is_equal(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with live_database(postgres18, "CREATE TABLE public.t (id int)") as source:
        with tablespace(postgres18, "of_the_source"), source.connect() as connection:
            connection.execute("ALTER TABLE public.t SET TABLESPACE of_the_source")
            manifest = make(source, store, postgres18)
            connection.execute("ALTER TABLE public.t SET TABLESPACE pg_default")
        assert prove(manifest, store, postgres18).equal


def test_whole_bytes_do_not_make_up_for_a_drill_that_failed(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    prove(market, store, postgres18, report=meddling(postgres18, "DELETE FROM trades"))
    name = BackupName.parse(market.name)
    assert verify(store, KEYS, name, clock=now).passed
    assert read_catalog(store, KEYS).backups[0].state is State.FAILED
    assert prove(market, store, postgres18).entry.passed
    assert read_catalog(store, KEYS).backups[0].state is State.VERIFIED


def test_invariants_hold_or_say_what_they_found(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    rows = next(t.rows for t in market.contents.tables if t.table == "trades")
    result = prove(
        market,
        store,
        postgres18,
        Invariant("counted", "SELECT count(*) FROM trades", str(rows)),
        Invariant("wrong", "SELECT 100 % 7 || '%'", "3%"),
        Invariant("changing", "DELETE FROM trades RETURNING 1", "1"),
        Invariant("many", "SELECT 1 UNION ALL SELECT 2", "1"),
    )
    assert [each.passed for each in result.invariants] == [True, False, False, False]
    assert result.invariants[1].found == "2%"
    assert "read-only transaction" in result.invariants[2].found
    assert result.invariants[3].found == "2 rows of 1 columns"
    assert result.equal
    assert not result.entry.passed


def test_without_digests_rows_are_compared_and_values_are_not(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18) as source:
        with source.connect() as connection:
            connection.execute("CREATE TABLE public.one AS SELECT 1 AS id")
        manifest = make(source, store, postgres18, digests=False)
        changed = meddling(postgres18, "UPDATE public.one SET id = 2")
        assert prove(manifest, store, postgres18, report=changed).not_compared != ()
        lost = meddling(postgres18, "DELETE FROM public.one")
        assert not prove(manifest, store, postgres18, report=lost).entry.passed


def test_another_major_version_compares_all_but_the_schemas_text(
    postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres16) as source:
        with source.connect() as connection:
            connection.execute("CREATE TABLE public.one AS SELECT 1 AS id")
        manifest = make(source, store, postgres16)
    result = prove(manifest, store, postgres18)
    assert result.entry.passed
    assert "schema" in result.not_compared[0]


def test_a_damaged_backup_fails_its_drill_before_anything_is_loaded(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    key = KEYS.of(BackupName.parse(market.name), Kind.DUMP)
    body = bytearray(b"".join(store.read(key)))
    body[len(body) // 2] ^= 1
    store.put(key, bytes(body), overwrite=True)
    result = prove(market, store, postgres18)
    assert (result.entry.passed, result.entry.recovery_seconds) == (False, None)


def test_a_backup_that_the_server_refuses_to_load_is_not_restorable(
    postgres18: EmbeddedPostgres, store: ObjectStore
) -> None:
    with new_database(postgres18) as source:
        with source.connect() as connection:
            connection.execute(
                "CREATE TABLE public.one (id int PRIMARY KEY);"
                "CREATE TABLE public.two (id int REFERENCES public.one);"
                "SET session_replication_role = replica; INSERT INTO public.two VALUES (-1)"
            )
        manifest = make(source, store, postgres18)
        assert "violates foreign key" in prove(manifest, store, postgres18).entry.findings[0]


def test_trouble_of_the_server_is_no_evidence_against_the_backup(
    market: Manifest, store: ObjectStore, postgres18: EmbeddedPostgres
) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == "restore":
            with psycopg.connect(postgres18.dsn()) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname ~ '_restoring_'"
                )

    with pytest.raises(PostgresFailed):
        prove(market, store, postgres18, report=cut)
    name = BackupName.parse(market.name)
    assert read_evidence(store, KEYS, name).entries == ()
    newer = replace(market, source=replace(market.source, server_version_num=990000))
    store.put(KEYS.of(name, Kind.MANIFEST), to_json(newer), overwrite=True)
    with pytest.raises(TargetUnsuitable):
        prove(market, store, postgres18)
    assert read_evidence(store, KEYS, name).entries == ()


def test_on_the_command_line(
    market: Manifest,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    database = market.source.database
    for variable, value in {**postgres18.environment(database), **s3_environment}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(postgres18.bin_dir))
    monkeypatch.setenv("BACKUP_DRILL_DSN", postgres18.dsn(database))
    assert cli.run(["drill", "--latest"]) == 0
    assert f"{market.name} is restorable" in capsys.readouterr().out
    settings = "invariants:\n- {name: none, query: SELECT count(*) FROM trades, expected: 0}\n"
    (tmp_path / "backup.yaml").write_text(settings)
    monkeypatch.setenv("BACKUP_CONFIG", str(tmp_path / "backup.yaml"))
    assert cli.run(["drill", market.name]) == VERIFICATION_FAILED
    assert "invariant none" in capsys.readouterr().err
    acts = [
        entry.act for entry in read_evidence(store, KEYS, BackupName.parse(market.name)).entries
    ]
    assert acts == [Act.DRILL, Act.DRILL]
