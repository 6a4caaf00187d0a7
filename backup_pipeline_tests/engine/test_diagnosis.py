"""Diagnosis: each thing is looked at for itself, and what is wrong says what to do."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.diagnosis import Finding, Level, diagnose
from backup_pipeline.engine.names import Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.errors import StoreDenied
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import KEYS, make_backup

DATABASE = "postgres"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def nobody_there() -> Server:
    """A server on a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Server.of(f"host=127.0.0.1 port={port} user=backup dbname={DATABASE}")


def found(
    server: Server, store: MemoryStore, bin_dirs: list[Path], skew: timedelta = timedelta(0)
) -> dict[str, Finding]:
    findings = diagnose(server, bin_dirs, store, KEYS, clock=lambda: now() + skew)
    return {finding.subject: finding for finding in findings}


class Denying(MemoryStore):
    """Refuses the named verbs."""

    def __init__(self, *verbs: str) -> None:
        super().__init__()
        self._denied = verbs

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        self._ask("put")
        return super().put(key, body, overwrite=overwrite)

    def delete(self, key: str) -> None:
        self._ask("delete")
        super().delete(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._ask("list")
        return super().list(prefix)

    def _ask(self, verb: str) -> None:
        if verb in self._denied:
            raise StoreDenied(f"{verb} is denied")


def test_where_everything_works_nothing_is_wrong_and_nothing_stays(
    postgres: EmbeddedPostgres,
) -> None:
    store = MemoryStore()
    make_backup(store, now() - timedelta(hours=1), database=DATABASE)
    before = dict(store.objects)
    findings = found(Server.of(postgres.dsn()), store, [postgres.bin_dir])
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert list(findings) == [
        "PostgreSQL",
        "PostgreSQL's clock",
        "client tools",
        "bucket",
        "newest backup",
        "writing",
        "reading back",
        "the store's clock",
        "deleting",
    ]
    assert store.objects == before


def test_a_server_that_does_not_answer_ends_with_5_and_the_bucket_is_looked_at_still(
    nobody_there: Server,
) -> None:
    findings = found(nobody_there, MemoryStore(), [])
    assert (findings["PostgreSQL"].level, findings["PostgreSQL"].exit_code) == (Level.FAIL, 5)
    assert "PGHOST" in findings["PostgreSQL"].advice
    assert (findings["client tools"].level, findings["client tools"].exit_code) == (Level.FAIL, 1)
    assert findings["writing"].level is Level.OK


@pytest.mark.parametrize(
    ("minutes", "level", "exit_code"),
    [(0.5, Level.OK, 0), (-2, Level.WARN, 0), (20, Level.FAIL, 1), (-20, Level.FAIL, 1)],
)
def test_clocks_that_differ_are_told(
    postgres: EmbeddedPostgres, minutes: float, level: Level, exit_code: int
) -> None:
    server = Server.of(postgres.dsn())
    findings = found(server, MemoryStore(), [postgres.bin_dir], timedelta(minutes=minutes))
    for subject in ("PostgreSQL's clock", "the store's clock"):
        assert (findings[subject].level, findings[subject].exit_code) == (level, exit_code)
        way = "agrees" if level is Level.OK else "behind" if minutes > 0 else "ahead of"
        assert way in findings[subject].message


def a_pg_dump(directory: Path, version: str) -> Path:
    """A pg_dump that can do nothing but say its version."""
    directory.mkdir()
    program = directory / "pg_dump"
    program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    return directory


def test_a_pg_dump_older_than_the_server_can_not_be_used(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    findings = found(Server.of(postgres.dsn()), MemoryStore(), [a_pg_dump(tmp_path / "b", "9.6")])
    assert (findings["client tools"].level, findings["client tools"].exit_code) == (Level.FAIL, 1)
    assert "Install" in findings["client tools"].advice


def test_a_pg_dump_without_its_security_fix_is_warned_of(tmp_path: Path) -> None:
    from backup_pipeline.engine.diagnosis import _clients
    from backup_pipeline.engine.postgres import find_clients

    for version, level in (("16.9", Level.WARN), ("16.10", Level.OK), ("18.0", Level.OK)):
        clients = find_clients([a_pg_dump(tmp_path / version, version)])
        assert _clients(clients, 150000).level is level


def test_a_bucket_that_does_not_exist_ends_with_6(nobody_there: Server) -> None:
    store = MemoryStore()
    store.bucket_exists = False
    findings = found(nobody_there, store, [])
    for subject in ("bucket", "writing"):
        assert (findings[subject].level, findings[subject].exit_code) == (Level.FAIL, 6)
        assert "BACKUP_BUCKET" in findings[subject].advice


def test_a_policy_that_only_lets_us_write_is_told_from_one_that_does_not(
    nobody_there: Server,
) -> None:
    findings = found(nobody_there, Denying("list"), [])
    assert [findings[subject].level for subject in ("bucket", "writing")] == ["fail", "ok"]
    findings = found(nobody_there, Denying("put"), [])
    assert [findings[subject].level for subject in ("bucket", "writing")] == ["ok", "fail"]


def test_a_probe_that_can_not_be_deleted_is_named(nobody_there: Server) -> None:
    store = Denying("delete")
    finding = found(nobody_there, store, [])["deleting"]
    (probe,) = store.objects
    assert (finding.level, finding.exit_code) == (Level.FAIL, 6)
    assert probe in finding.message


def test_a_delete_that_does_nothing_is_noticed(nobody_there: Server) -> None:
    class Locked(MemoryStore):
        def delete(self, key: str) -> None:
            self.head(key)

    assert found(nobody_there, Locked(), [])["deleting"].level is Level.FAIL


def test_a_store_that_overwrites_is_warned_of(nobody_there: Server) -> None:
    class Overwriting(MemoryStore):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            return super().put(key, body, overwrite=overwrite or True)

    finding = found(nobody_there, Overwriting(), [])["writing"]
    assert finding.level is Level.WARN
    assert "If-None-Match" in finding.message


def test_a_store_that_gives_other_bytes_back_is_noticed(nobody_there: Server) -> None:
    class Changing(MemoryStore):
        def read(
            self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
        ) -> Iterator[bytes]:
            yield b"".join(super().read(key, start, length, etag=etag))[:-1]

    assert found(nobody_there, Changing(), [])["reading back"].level is Level.FAIL


@pytest.mark.parametrize(
    ("age", "verified", "level", "advice"),
    [
        (timedelta(hours=25), True, Level.OK, ""),
        (timedelta(hours=27), True, Level.WARN, "the schedule"),
        (timedelta(hours=1), None, Level.WARN, "verify --latest"),
        (timedelta(hours=1), False, Level.FAIL, "backup-pipeline backup"),
    ],
)
def test_the_newest_backup_is_judged_by_age_and_state(
    nobody_there: Server, age: timedelta, verified: bool | None, level: Level, advice: str
) -> None:
    store = MemoryStore()
    make_backup(store, now() - age, database=DATABASE, verified=verified)
    finding = found(nobody_there, store, [])["newest backup"]
    assert finding.level is level
    assert advice in finding.advice


def test_no_backup_yet_is_a_warning(nobody_there: Server) -> None:
    finding = found(nobody_there, MemoryStore(), [])["newest backup"]
    assert (finding.level, finding.exit_code) == (Level.WARN, 0)


def test_strays_are_counted(nobody_there: Server) -> None:
    store = MemoryStore()
    name = make_backup(store, now(), database=DATABASE)
    store.delete(KEYS.of(name, Kind.MANIFEST))
    assert "3 objects" in found(nobody_there, store, [])["strays"].message
