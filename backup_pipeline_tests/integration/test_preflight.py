"""Whether a server can hold a backup is asked before anything is made on it, and all at once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Extension, Source
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.source import read_source
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import TargetUnsuitable
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database

KEYS = Keys("backups/postgres/")
MORE_THAN_ANY_DISK = 10**18


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def role_on(postgres: EmbeddedPostgres, name: str, options: str = "") -> Iterator[Server]:
    """A role that may log in; gives the server as it sees it."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        create = SQL("CREATE ROLE {} LOGIN PASSWORD 'p' {}")
        admin.execute(create.format(Identifier(name), SQL(options)))
        try:
            yield Server.of(postgres.dsn(), user=name, password="p")  # noqa: S106
        finally:
            admin.execute(SQL("DROP ROLE {}").format(Identifier(name)))


@pytest.fixture
def source(postgres18: EmbeddedPostgres) -> Source:
    """What the server itself could hold any time."""
    with Server.of(postgres18.dsn()).connect() as admin:
        return read_source(admin)


@pytest.fixture
def refusal(postgres18: EmbeddedPostgres) -> Callable[..., TargetUnsuitable]:
    """Why a server refuses a source that differs from the one it could hold."""

    def refusal(source: Source, server: Server | None = None, **change: Any) -> TargetUnsuitable:
        with (
            (server or Server.of(postgres18.dsn())).connect() as admin,
            pytest.raises(TargetUnsuitable) as caught,
        ):
            require_suitable(admin, replace(source, **change))
        return caught.value

    return refusal


def accept(server: Server, source: Source) -> None:
    with server.connect() as admin:
        require_suitable(admin, source)


def test_a_server_can_hold_what_it_holds(any_postgres: EmbeddedPostgres) -> None:
    server = Server.of(any_postgres.dsn())
    with server.connect() as admin:
        accept(server, read_source(admin))


def test_everything_that_is_wrong_is_said_at_once(
    source: Source, refusal: Callable[..., TargetUnsuitable], postgres18: EmbeddedPostgres
) -> None:
    with role_on(postgres18, "humble") as server:
        error = refusal(
            source,
            server,
            server_version="99.1",
            server_version_num=990001,
            extensions=(Extension("postgis", "3"), Extension("timescaledb", "2")),
            roles=("auditor", 'the "boss"'),
        )
    older, may_not, lacks, roles = error.message.split("; ")
    assert "PostgreSQL 99.1" in older
    assert "'humble' may not create databases" in may_not
    assert lacks.endswith("lacks the extensions postgis, timescaledb")
    assert roles.endswith('lacks: auditor, the "boss"')
    assert 'ALTER ROLE "humble" CREATEDB;' in error.hint
    assert 'CREATE ROLE "auditor"; CREATE ROLE "the ""boss""";' in error.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}, "xx_XX.UTF-8"),
        ({"collate": "C", "ctype": "xx_XX.UTF-8"}, "xx_XX.UTF-8"),
        ({"locale_provider": "builtin", "locale": "xx"}, '"xx" for builtin provider'),
    ],
)
def test_a_locale_that_the_server_lacks(
    source: Source,
    refusal: Callable[..., TargetUnsuitable],
    change: dict[str, str],
    said: str,
) -> None:
    error = refusal(source, **change)
    assert "does not know the locale" in error.message
    assert said in error.message


def test_a_locale_that_the_server_has(source: Source, postgres18: EmbeddedPostgres) -> None:
    server = Server.of(postgres18.dsn())
    accept(server, replace(source, collate="C.UTF-8", ctype="C.UTF-8"))
    accept(server, replace(source, locale_provider="builtin", locale="C.UTF-8"))


def test_the_locale_of_another_encoding_can_not_be_asked(
    source: Source, postgres18: EmbeddedPostgres
) -> None:
    accept(
        Server.of(postgres18.dsn()), replace(source, encoding="LATIN1", collate="xx", ctype="xx")
    )


def test_a_disk_of_this_machine_without_room(
    source: Source, refusal: Callable[..., TargetUnsuitable], postgres18: EmbeddedPostgres
) -> None:
    error = refusal(source, database_size=MORE_THAN_ANY_DISK)
    assert "takes 1,000,000,000,000,000,000 bytes" in error.message
    assert error.message.endswith(f"free in {postgres18.data_dir}")


def test_a_disk_of_another_machine_can_not_be_asked(source: Source, scratch: Path) -> None:
    """It is told by the time at which the data directory was last changed."""
    data = scratch / "data"
    with EmbeddedPostgres(data, durable=False) as there:
        moved = data.rename(scratch / "on another machine")
        try:
            data.mkdir()
            os.utime(data, (0, 0))
            accept(Server.of(there.dsn()), replace(source, database_size=MORE_THAN_ANY_DISK))
        finally:
            data.rmdir()
            moved.rename(data)


def test_a_role_that_may_ask_for_nothing_may_still_restore(
    source: Source, postgres18: EmbeddedPostgres
) -> None:
    with new_database(postgres18) as closed, role_on(postgres18, "owner", "CREATEDB") as server:
        with psycopg.connect(postgres18.dsn(), autocommit=True) as admin:
            revoke = SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC")
            admin.execute(revoke.format(Identifier(closed.database)))
        unknowable = replace(
            source, database_size=MORE_THAN_ANY_DISK, collate="xx_XX.UTF-8", ctype="xx_XX.UTF-8"
        )
        accept(server.using(closed.database), unknowable)


def test_the_locale_is_tried_without_a_trace(source: Source, postgres18: EmbeddedPostgres) -> None:
    with Server.of(postgres18.dsn()).connect() as admin:
        require_suitable(admin, replace(source, collate="C.UTF-8", ctype="C.UTF-8"))
        found = admin.execute("SELECT FROM pg_collation WHERE collname = 'probe'").fetchall()
    assert found == []


def test_the_roles_that_policies_and_user_mappings_need_are_recorded_and_asked_for(
    store: ObjectStore, postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres
) -> None:
    with (
        role_on(postgres16, "Auditor"),
        role_on(postgres16, "owner_only"),
        new_database(postgres16) as old,
    ):
        with old.connect() as connection:
            connection.execute(
                """
                CREATE TABLE public.trades (id integer);
                ALTER TABLE public.trades OWNER TO owner_only;
                ALTER TABLE public.trades ENABLE ROW LEVEL SECURITY;
                CREATE POLICY audited ON public.trades TO "Auditor" USING (true);
                CREATE POLICY read ON public.trades TO PUBLIC USING (id > 0);
                """
            )
        name = BackupName.of(old.database, now())
        dump = PostgresDumpSource(old, [postgres16.bin_dir])
        manifest = back_up(dump, store, KEYS, name, clock=now)
        assert manifest.source.roles == ("Auditor",)

        new, before = Server.of(postgres18.dsn()), databases(postgres18)
        with pytest.raises(TargetUnsuitable, match="lacks: Auditor"):
            restore(store, KEYS, name, new, old.database, clock=now)
        assert databases(postgres18) == before

        with role_on(postgres18, "Auditor"):
            try:
                restore(store, KEYS, name, new, old.database, clock=now)
            finally:
                drop_database(postgres18, old.database)
