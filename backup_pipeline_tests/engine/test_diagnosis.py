"""Diagnosis: each thing is looked at for itself, and what is wrong says what to do."""

import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.age import Identity, Recipient
from backup_pipeline.engine.diagnosis import diagnose
from backup_pipeline.engine.findings import Finding, Level
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.engine.postgres import SECURITY_MINIMUMS, Server, outdated
from backup_pipeline.engine.store import ObjectInfo, Part, UploadInfo
from backup_pipeline.errors import StoreDenied, StoreError
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
    server: Server,
    store: MemoryStore,
    bin_dirs: list[Path],
    skew: timedelta = timedelta(0),
    minimums: Mapping[int, int] = SECURITY_MINIMUMS,
    drills: Server | None = None,
    recipients: Sequence[Recipient] = (),
    identities: Sequence[Identity] = (),
) -> dict[str, Finding]:
    findings = diagnose(
        server,
        bin_dirs,
        store,
        KEYS,
        clock=lambda: now() + skew,
        minimums=minimums,
        drills=drills,
        recipients=recipients,
        identities=identities,
    )
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

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        self._ask("create_upload")
        return super().create_upload(key, metadata)

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        self._ask("upload_part")
        return super().upload_part(key, upload_id, number, body)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._ask("abort_upload")
        super().abort_upload(key, upload_id)

    def list_uploads(self, prefix: str) -> Iterator[UploadInfo]:
        self._ask("list_uploads")
        return super().list_uploads(prefix)

    def refuses_damage(self, key: str) -> bool:
        self._ask("refuses_damage")
        return super().refuses_damage(key)

    def _ask(self, verb: str) -> None:
        if verb in self._denied:
            raise StoreDenied(f"{verb} is denied")


def test_where_everything_works_nothing_is_wrong_and_nothing_stays(
    postgres: EmbeddedPostgres,
) -> None:
    store = MemoryStore()
    make_backup(store, now() - timedelta(hours=1), database=DATABASE)
    before = dict(store.objects)
    findings = found(Server.of(postgres.dsn()), store, [postgres.bin_dir], minimums={18: 0})
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert list(findings) == [
        "PostgreSQL",
        "PostgreSQL's clock",
        "rights",
        "the server's disk",
        "client tools",
        "bucket",
        "newest backup",
        "open uploads",
        "writing",
        "the store's clock",
        "multipart uploads",
        "checksums",
        "reading back",
        "deleting",
    ]
    assert (store.objects, store.uploads) == (before, {})


def test_a_server_that_does_not_answer_ends_with_5_and_the_bucket_is_looked_at_still(
    nobody_there: Server,
) -> None:
    findings = found(nobody_there, MemoryStore(), [])
    assert (findings["PostgreSQL"].level, findings["PostgreSQL"].exit_code) == (Level.FAIL, 5)
    assert "Nobody listens there" in findings["PostgreSQL"].advice
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


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("14.24", "older than 14.25"),
        ("14.25", None),
        ("15.19", "older than 15.20"),
        ("16.15", "older than 16.16"),
        ("17.12", None),
        ("18", "older than 18.7"),
        ("18.6", "older than 18.7"),
        ("18.10", None),
        ("19.0", None),
        ("13.99", "no security fixes any more"),
        ("9.6", "no security fixes any more"),
    ],
)
def test_each_major_version_has_its_minimum(version: str, said: str | None) -> None:
    wrong = outdated(version)
    assert (said in wrong) if said and wrong else (wrong is None) == (said is None)


def test_a_minimum_of_ones_own_takes_the_place_of_the_known_one() -> None:
    assert outdated("18.6", {18: 6}) is None
    assert outdated("18.6", {18: 8}) is not None


def test_a_pg_dump_without_its_security_fix_is_warned_of(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    for version, level in (("18.6", Level.WARN), ("18.7", Level.OK), ("19.0", Level.OK)):
        bin_dir = a_pg_dump(tmp_path / version, version)
        finding = found(Server.of(postgres.dsn()), MemoryStore(), [bin_dir])["client tools"]
        assert (finding.level, finding.exit_code) == (level, 0)
        assert version in finding.message
        assert ("Update" in finding.advice) == (level is Level.WARN)


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


def test_nobody_is_sent_to_where_he_is(nobody_there: Server) -> None:
    class Failing(MemoryStore):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            raise StoreError("PutObject: 418")

        def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
            raise StoreError("CreateMultipartUpload: 418")

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise StoreError("ListObjectsV2: 418")

    findings = found(nobody_there, Failing(), [], drills=nobody_there)
    wrong = [finding for finding in findings.values() if finding.level is Level.FAIL]
    assert len(wrong) >= 5
    for finding in wrong:
        assert finding.advice
        assert "`backup-pipeline check`" not in finding.advice
        assert "this run" not in finding.advice


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


def test_uploads_that_nobody_goes_on_with_are_named_and_live_ones_are_not(
    nobody_there: Server,
) -> None:
    clock = [now() - timedelta(hours=25)]
    store = MemoryStore(lambda: clock[0])
    key = KEYS.of(BackupName.of(DATABASE, now()), Kind.DUMP)
    store.create_upload(key, {})
    clock[0] = now()
    store.create_upload(key.replace("sql", "other.sql"), {})
    store.create_upload(KEYS.of(BackupName.of("another", now()), Kind.DUMP), {})
    finding = found(nobody_there, store, [])["open uploads"]
    assert finding.level is Level.WARN
    assert "1 uploads" in finding.message
    assert key in finding.message
    assert "prune" in finding.advice


@pytest.mark.parametrize(
    ("verb", "subject", "right"),
    [
        ("list_uploads", "open uploads", "s3:ListBucketMultipartUploads"),
        ("create_upload", "multipart uploads", "s3:PutObject"),
        ("upload_part", "multipart uploads", "s3:PutObject"),
        ("abort_upload", "multipart uploads", "s3:AbortMultipartUpload"),
        ("refuses_damage", "checksums", "policy"),
    ],
)
def test_a_right_that_is_missing_is_named_where_it_is_missed(
    nobody_there: Server, verb: str, subject: str, right: str
) -> None:
    findings = found(nobody_there, Denying(verb), [])
    wrong = [s for s, f in findings.items() if f.level is Level.FAIL and f.exit_code == 6]
    assert wrong == [subject]
    assert right in findings[subject].advice


def test_an_upload_that_replaces_an_object_is_warned_of(nobody_there: Server) -> None:
    class Replacing(MemoryStore):
        def complete_upload(
            self, key: str, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]
        ) -> ObjectInfo:
            self.objects.pop(key, None)
            return super().complete_upload(key, upload_id, parts, metadata)

    finding = found(nobody_there, Replacing(), [])["multipart uploads"]
    assert finding.level is Level.WARN
    assert "If-None-Match" in finding.message


def test_a_part_that_fails_leaves_no_open_upload(nobody_there: Server) -> None:
    class Failing(MemoryStore):
        def upload_part(
            self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
        ) -> Part:
            raise StoreError("501 NotImplemented", hint="checksums")

    store = Failing()
    finding = found(nobody_there, store, [])["multipart uploads"]
    assert (finding.level, finding.exit_code) == (Level.FAIL, 6)
    assert "checksums" in finding.advice
    assert store.uploads == {}


def test_a_store_that_takes_damaged_objects_is_warned_of_and_tidied(nobody_there: Server) -> None:
    class Careless(MemoryStore):
        def refuses_damage(self, key: str) -> bool:
            self.put(key, b"damaged")
            return False

    store = Careless()
    assert found(nobody_there, store, [])["checksums"].level is Level.WARN
    assert store.objects == {}


# Rights on the database


@pytest.fixture
def reader(postgres: EmbeddedPostgres, database: str) -> Iterator[Server]:
    """The database as a role sees it that may connect and has no right of its own."""
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn(database), autocommit=True) as owner:
        owner.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'p'").format(Identifier(role)))
        try:
            yield Server.of(postgres.dsn(database), user=role, password="p")  # noqa: S106
        finally:
            owner.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
            owner.execute(SQL("DROP ROLE {}").format(Identifier(role)))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE public.secret (id int)", "public.secret"),
        ("CREATE TABLE public.p (id int) PARTITION BY RANGE (id)", "public.p"),
        ("CREATE SEQUENCE public.numbers", "public.numbers"),
        ("CREATE SCHEMA hidden; CREATE TABLE hidden.t (); GRANT SELECT ON hidden.t TO PUBLIC",
         "hidden.t"),
        ("SELECT lo_from_bytea(4711, 'x')", "large object 4711"),
        ('CREATE TABLE public."Ätsch ""quoted""" (id int)', 'public."Ätsch ""quoted"""'),
    ],
)  # fmt: skip
def test_what_the_role_may_not_read_is_named(
    postgres: EmbeddedPostgres, reader: Server, made: str, named: str
) -> None:
    with psycopg.connect(postgres.dsn(reader.database), autocommit=True) as owner:
        owner.execute(made.encode())
    finding = found(reader, MemoryStore(), [])["rights"]
    assert (finding.level, finding.exit_code) == (Level.FAIL, 1)
    assert f"may not read {named}" in finding.message
    assert "pg_read_all_data" in finding.advice


def test_rows_that_a_policy_hides_are_told_before_pg_dump_refuses(
    postgres: EmbeddedPostgres, reader: Server
) -> None:
    with psycopg.connect(postgres.dsn(reader.database), autocommit=True) as owner:
        owner.execute(SQL("GRANT pg_read_all_data TO {}").format(Identifier(reader.user)))
        owner.execute("CREATE TABLE public.t (id int)")
        assert found(reader, MemoryStore(), [])["rights"].level is Level.OK
        owner.execute("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY")
        finding = found(reader, MemoryStore(), [])["rights"]
        assert (finding.level, finding.exit_code) == (Level.FAIL, 1)
        assert "row-level security hides rows of public.t" in finding.message
        assert "BYPASSRLS" in finding.advice
        owner.execute(SQL("ALTER ROLE {} BYPASSRLS").format(Identifier(reader.user)))
        assert found(reader, MemoryStore(), [])["rights"].level is Level.OK


def test_what_pg_dump_leaves_out_silently_is_told(
    postgres: EmbeddedPostgres, reader: Server
) -> None:
    with psycopg.connect(postgres.dsn(reader.database), autocommit=True) as owner:
        owner.execute("CREATE FOREIGN DATA WRAPPER nowhere")
        owner.execute("CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere")
        assert "left out" not in found(reader, MemoryStore(), [])
        owner.execute(
            "CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (password 'canary')"
        )
        owner.execute(
            "CREATE SUBSCRIPTION feed CONNECTION 'host=x password=canary' PUBLICATION p"
            " WITH (connect = false)"
        )
        try:
            finding = found(reader, MemoryStore(), [])["left out"]
            assert finding.level is Level.WARN
            assert "subscriptions feed" in finding.message
            assert "of elsewhere for postgres" in finding.message
            assert "canary" not in repr(finding)
            superuser = found(Server.of(postgres.dsn(reader.database)), MemoryStore(), [])
            assert "left out" not in superuser
        finally:
            owner.execute("ALTER SUBSCRIPTION feed SET (slot_name = NONE)")
            owner.execute("DROP SUBSCRIPTION feed")


def test_a_disk_without_room_for_a_second_copy_is_warned_of(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    for free, level in ((1, Level.WARN), (1 << 40, Level.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        finding = found(Server.of(postgres.dsn()), MemoryStore(), [])["the server's disk"]
        assert finding.level is level
        assert str(postgres.data_dir) in finding.message


# The server on which drills restore


def test_a_drill_server_that_could_take_the_database_is_fine(postgres: EmbeddedPostgres) -> None:
    server = Server.of(postgres.dsn())
    findings = found(server, MemoryStore(), [postgres.bin_dir], drills=server)
    assert findings["drill server"].level is Level.OK
    assert f"could take {DATABASE} as it is" in findings["drill server"].message
    assert not {"drill server's client tools", "unfinished drills"} & findings.keys()


def test_a_drill_server_that_does_not_answer_ends_with_5(
    postgres: EmbeddedPostgres, nobody_there: Server
) -> None:
    findings = found(
        Server.of(postgres.dsn()), MemoryStore(), [postgres.bin_dir], drills=nobody_there
    )
    assert findings["PostgreSQL"].level is Level.OK
    assert (findings["drill server"].level, findings["drill server"].exit_code) == (Level.FAIL, 5)
    assert "BACKUP_DRILL_DSN" in findings["drill server"].advice


def test_a_drill_server_is_looked_at_although_the_live_one_does_not_answer(
    postgres: EmbeddedPostgres, nobody_there: Server
) -> None:
    drills = Server.of(postgres.dsn())
    finding = found(nobody_there, MemoryStore(), [], drills=drills)["drill server"]
    assert finding.level is Level.WARN
    assert "answers, version" in finding.message


def test_a_drill_server_older_than_the_live_one_is_told(
    postgres18: EmbeddedPostgres, postgres16: EmbeddedPostgres
) -> None:
    live, drills = Server.of(postgres18.dsn()), Server.of(postgres16.dsn())
    finding = found(live, MemoryStore(), [postgres18.bin_dir], drills=drills)["drill server"]
    assert (finding.level, finding.exit_code) == (Level.FAIL, 3)
    assert "the target is PostgreSQL 16" in finding.message


def test_a_drill_server_newer_than_every_pg_dump_is_told(
    postgres18: EmbeddedPostgres, postgres16: EmbeddedPostgres
) -> None:
    live, drills = Server.of(postgres16.dsn()), Server.of(postgres18.dsn())
    findings = found(live, MemoryStore(), [postgres16.bin_dir], drills=drills)
    assert findings["client tools"].level is not Level.FAIL
    assert findings["drill server's client tools"].level is Level.FAIL
    assert "18" in findings["drill server's client tools"].message


def test_a_role_that_may_make_no_database_on_the_drill_server_is_told(
    postgres: EmbeddedPostgres, reader: Server
) -> None:
    live = Server.of(postgres.dsn())
    finding = found(live, MemoryStore(), [postgres.bin_dir], drills=reader)["drill server"]
    assert (finding.level, finding.exit_code) == (Level.FAIL, 3)
    assert "CREATEDB" in finding.advice


def test_what_killed_drills_have_left_is_named(
    postgres: EmbeddedPostgres, postgres16: EmbeddedPostgres
) -> None:
    left = f"shop_restoring_{uuid.uuid4().hex[:8]}"
    drills, live = Server.of(postgres.dsn()), Server.of(postgres16.dsn())
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        database = Identifier(left)
        admin.execute(SQL("CREATE DATABASE {} ALLOW_CONNECTIONS false").format(database))
        try:
            finding = found(live, MemoryStore(), [postgres.bin_dir], drills=drills)[
                "unfinished drills"
            ]
        finally:
            admin.execute(SQL("DROP DATABASE {}").format(database))
    assert finding.level is Level.WARN
    assert left in finding.message


def test_what_reads_encrypted_backups_is_told(nobody_there: Server) -> None:
    mine, other = Identity.made(), Identity.made()

    def told(*identities: Identity, recipients: Sequence[Recipient] = (mine.recipient,)) -> str:
        every = found(nobody_there, MemoryStore(), [], recipients=recipients, identities=identities)
        finding = every.get("encryption")
        return f"{finding.level}: {finding.message}" if finding else ""

    assert told(other, recipients=()) == ""
    assert (
        told() == f"ok: backups are encrypted for {mine.recipient}; no key that reads them is here"
    )
    assert told(other, mine).endswith(f"{mine.recipient}, and can be read here")
    assert told(other).startswith("warn: ")
