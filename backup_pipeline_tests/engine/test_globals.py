"""Roles and other globals: an object of their own, made and proved and deleted with the backup."""

import gzip
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyrage
import pytest

from backup_pipeline.engine.age import Identity, Recipient
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_backup, read_catalog, read_manifest, record
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.index import read_index
from backup_pipeline.engine.model import (
    Act,
    Codec,
    EvidenceEntry,
    Globals,
    GlobalsScript,
    Manifest,
    RetentionPolicy,
    Section,
    State,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import (
    ChildFailed,
    NoIdentity,
    NotFound,
    ObjectExists,
    StoreUnreachable,
    VerificationFailed,
)
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakeDump, FakePostgres, globals_sql

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
KEYS = Keys("b/")
NAME = BackupName.of("ahold_options", NOW)
SCRIPT, MANIFEST = KEYS.of(NAME, Kind.GLOBALS), KEYS.of(NAME, Kind.MANIFEST)
SEALED = KEYS.of(NAME, Kind.GLOBALS_AGE)
MINE = Identity.made()
PLAIN, WHOLE = Globals.WITHOUT_PASSWORDS, Globals.WITH_PASSWORDS


class Bucket(MemoryStore):
    """Tells the time that a test sets, and notes every change."""

    def __init__(self) -> None:
        super().__init__(lambda: self.time)
        self.time = NOW
        self.changes: list[tuple[str, str]] = []

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        self.changes.append(("put", key))
        return super().put(key, body, overwrite=overwrite)

    def complete_upload(self, *arguments: object) -> ObjectInfo:
        self.changes.append(("complete", str(arguments[0])))
        return super().complete_upload(*arguments)  # type: ignore[arg-type]

    def delete(self, key: str) -> None:
        self.changes.append(("delete", key))
        super().delete(key)


@pytest.fixture
def store() -> Bucket:
    return Bucket()


def make(
    store: MemoryStore,
    globals_: Globals = PLAIN,
    *,
    at: datetime = NOW,
    codec: Codec = Codec.GZIP,
    recipients: Sequence[Recipient] = (),
    postgres: FakePostgres | None = None,
) -> Manifest:
    source = (postgres or FakePostgres(lambda: at)).dump_source("ahold_options")
    name = BackupName.of("ahold_options", at)
    return back_up(
        source,
        store,
        KEYS,
        name,
        codec=codec,
        recipients=recipients,
        globals_=globals_,
        clock=lambda: at,
    )


def read(store: MemoryStore, *identities: Identity) -> bytes:
    return StoredBackup(store, KEYS, read_manifest(store, KEYS, NAME), identities).globals()


def findings(store: MemoryStore, *identities: Identity) -> tuple[str, ...]:
    return verify(store, KEYS, NAME, identities=identities, clock=lambda: NOW).findings


def suffixes(store: MemoryStore, name: BackupName = NAME) -> set[str]:
    stem = KEYS.stem(name).removesuffix(".")
    return {key.removeprefix(stem) for key in store.objects if key.startswith(stem)}


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("globals_", [PLAIN, WHOLE])
def test_they_are_one_plain_gzip_file_beside_the_dump_and_the_manifest_describes_it(
    store: Bucket, globals_: Globals, codec: Codec
) -> None:
    manifest = make(store, globals_, codec=codec)
    assert suffixes(store) == {codec.kind, ".globals.sql.gz", ".schema.dump", ".manifest.json"}
    body = store.objects[SCRIPT].body
    sql = globals_sql(passwords=globals_ is WHOLE)
    assert gzip.decompress(body) == sql == read(store)
    assert manifest.globals_script == GlobalsScript(
        len(body), len(sql), hashlib.sha256(body).hexdigest(), globals_ is WHOLE
    )
    assert read_manifest(store, KEYS, NAME).globals is globals_
    assert findings(store) == ()
    assert read_backup(store, KEYS, NAME).globals is globals_


def test_without_being_asked_for_there_are_none(
    store: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeDump, "globals")
    assert make(store, Globals.NONE).globals_script is None
    assert suffixes(store) == {".sql.gz", ".schema.dump", ".manifest.json"}
    with pytest.raises(NotFound, match="has no roles and other globals"):
        read(store)


def test_a_manifest_of_before_there_were_any_reads_as_one_without(store: Bucket) -> None:
    make(store, Globals.NONE)
    document = json.loads(store.objects[MANIFEST].body)
    del document["globals_script"], document["sha256"]
    store.put(MANIFEST, json.dumps(document).encode(), overwrite=True)
    assert read_manifest(store, KEYS, NAME).globals is Globals.NONE
    assert findings(store) == ()


def test_they_are_written_when_the_name_is_settled_and_before_the_dump_is_complete(
    store: Bucket,
) -> None:
    make(store)
    kinds = (Kind.SCHEMA, Kind.GLOBALS, Kind.DUMP, Kind.MANIFEST)
    assert [key for _, key in store.changes] == [KEYS.of(NAME, kind) for kind in kinds]


def test_where_the_role_may_not_read_them_nothing_else_was_begun(
    store: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: FakeDump, *, passwords: bool) -> bytes:
        raise ChildFailed(f"permission denied for table pg_authid ({passwords})")

    begun: list[Section] = []
    monkeypatch.setattr(FakeDump, "globals", denied)
    monkeypatch.setattr(MemoryStore, "create_upload", None)
    with pytest.raises(ChildFailed, match="pg_authid"):
        make(store, WHOLE, postgres=FakePostgres(lambda: NOW, begun.append))
    assert (begun, store.objects) == ([], {})


@pytest.mark.parametrize("failing", [Kind.SCHEMA, Kind.GLOBALS, Kind.MANIFEST])
@pytest.mark.parametrize("error", [StoreUnreachable("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("stored", [True, False], ids=["reply lost", "never arrived"])
def test_a_failure_at_any_object_takes_all_back(
    failing: Kind, error: BaseException, stored: bool
) -> None:
    class Failing(Bucket):
        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            if key == KEYS.of(NAME, failing):
                # Whose the name is, is not settled before the archive is there.
                if stored and failing is not Kind.SCHEMA:
                    super().put(key, body, overwrite=overwrite)
                raise error
            return super().put(key, body, overwrite=overwrite)

    store = Failing()
    with pytest.raises(type(error)):
        make(store)
    assert (store.objects, store.uploads) == ({}, {})


def test_a_dump_that_is_not_completed_takes_them_back() -> None:
    class Failing(Bucket):
        def complete_upload(self, *_: object) -> ObjectInfo:
            raise StoreUnreachable("gone")

    store = Failing()
    with pytest.raises(StoreUnreachable, match="gone"):
        make(store)
    assert (store.objects, store.uploads) == ({}, {})


def test_what_can_not_be_taken_back_is_told() -> None:
    class Failing(Bucket):
        def complete_upload(self, *_: object) -> ObjectInfo:
            raise StoreUnreachable("gone")

        def delete(self, key: str) -> None:
            if key == SCRIPT:
                raise StoreUnreachable("still gone")
            super().delete(key)

    store = Failing()
    with pytest.raises(StoreUnreachable, match="gone") as failed:
        make(store)
    assert failed.value.notes == (f"{SCRIPT} was left: still gone",)
    assert set(store.objects) == {SCRIPT}


def test_a_foreign_script_of_that_name_is_never_touched(store: Bucket) -> None:
    store.put(SCRIPT, b"somebody else's")
    with pytest.raises(ObjectExists):
        make(store)
    assert {key: each.body for key, each in store.objects.items()} == {SCRIPT: b"somebody else's"}
    make(store, Globals.NONE)
    (stray,) = read_catalog(store, KEYS).strays
    assert (stray.key, stray.deletable, stray.unfinished) == (SCRIPT, False, False)
    assert stray.reason == "the backup of this name has no such globals"


# Verification


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("recipients", [(), (MINE.recipient,)], ids=["plain", "encrypted"])
def test_one_flipped_bit_anywhere_is_found_and_it_is_said_where(
    store: Bucket, seed: int, recipients: Sequence[Recipient]
) -> None:
    make(store, recipients=recipients)
    chance = random.Random(seed)  # noqa: S311  # not a secret
    key = SEALED if recipients else SCRIPT
    body = bytearray(store.objects[key].body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    store.put(key, bytes(body), overwrite=True)
    assert findings(store) == ("the script of the globals is not the one that was stored",)
    assert findings(store, MINE) == findings(store)
    with pytest.raises(VerificationFailed, match="not the one that was stored"):
        read(store, MINE)


def test_a_missing_object_is_found_by_a_verification_and_by_a_listing(store: Bucket) -> None:
    make(store)
    assert findings(store) == ()
    store.delete(SCRIPT)
    (backup,) = read_catalog(store, KEYS).backups
    assert backup.state is State.FAILED
    assert backup.findings == ("the script of the globals beside the dump is missing",)
    (found,) = findings(store)
    assert "missing or was replaced" in found
    assert SCRIPT in found


def test_another_length_is_found_before_anything_is_read(store: Bucket) -> None:
    make(store)
    store.put(SCRIPT, store.objects[SCRIPT].body + b"x", overwrite=True)
    (found,) = findings(store)
    assert found.startswith("the script of the globals has ")


def forge(store: Bucket, sql: bytes, body: bytes | None = None) -> None:
    """Give the backup another script, and the manifest the numbers of that."""
    body = gzip.compress(sql) if body is None else body
    store.put(SCRIPT, body, overwrite=True)
    script = GlobalsScript(len(body), len(sql), hashlib.sha256(body).hexdigest(), passwords=False)
    manifest = replace(read_manifest(store, KEYS, NAME), globals_script=script)
    store.put(MANIFEST, to_json(manifest), overwrite=True)


GOOD = globals_sql(passwords=False)


@pytest.mark.parametrize(
    ("sql", "body", "said"),
    [
        (GOOD, gzip.compress(GOOD)[:-1], "the gzip stream is cut"),
        (GOOD, gzip.compress(GOOD)[:-8] + bytes(8), "the gzip stream is damaged"),
        (GOOD, gzip.compress(GOOD + bytes(1000)), "holds more than the"),
        (GOOD, gzip.compress(GOOD[1:]), "bytes were inflated where"),
        (GOOD, gzip.compress(GOOD) + b"x", "bytes behind the end"),
        (GOOD[:-60], None, "pg_dumpall's closing line is missing"),
        (GOOD.replace(b"CREATE", b"\\! rm -rf /\nCREATE"), None, "psql meta-command"),
        (GOOD.replace(b"CREATE", b"COPY x FROM PROGRAM 'id';\nCREATE"), None, "COPY"),
    ],
)
def test_right_hashes_do_not_make_up_for_what_pg_dumpall_does_not_write(
    store: Bucket, sql: bytes, body: bytes | None, said: str
) -> None:
    make(store)
    forge(store, sql, body)
    (found,) = findings(store)
    assert found.startswith("the script of the globals: ")
    assert said in found
    with pytest.raises(VerificationFailed, match="the script of the globals"):
        read(store)


# Encryption


def test_encrypted_they_are_for_the_same_recipients_and_take_the_key(store: Bucket) -> None:
    manifest = make(store, WHOLE, recipients=[MINE.recipient])
    assert suffixes(store) == {
        ".sql.gz.age",
        ".globals.sql.gz.age",
        ".schema.dump.age",
        ".manifest.json",
    }
    for each in store.objects.values():
        assert b"SCRAM" not in each.body
    body = store.objects[SEALED].body
    opened = pyrage.decrypt(body, [pyrage.x25519.Identity.from_str(MINE.secret)])
    assert gzip.decompress(opened) == globals_sql(passwords=True) == read(store, MINE)
    assert manifest.globals is WHOLE
    assert findings(store) == findings(store, MINE) == ()
    for wrong in ((), (Identity.made(),)):
        with pytest.raises(NoIdentity):
            read(store, *wrong)


# Deletion


POLICY = RetentionPolicy(days=7, minimum=1)


def keep_one(store: Bucket) -> None:
    """A verified backup, without which a prune deletes nothing."""
    make(store)
    verify(store, KEYS, NAME, clock=lambda: NOW)
    store.changes.clear()


def pruned(store: Bucket) -> set[str]:
    prune(store, KEYS, "ahold_options", POLICY, now=NOW)
    return {key for change, key in store.changes if change == "delete"}


@pytest.mark.parametrize("recipients", [(), (MINE.recipient,)], ids=["plain", "encrypted"])
def test_a_prune_takes_them_with_the_backup_and_the_archive_after_them(
    store: Bucket, recipients: Sequence[Recipient]
) -> None:
    old = NOW - timedelta(days=8)
    name = BackupName.of("ahold_options", old)
    make(store, at=old, recipients=recipients)
    verify(store, KEYS, name, clock=lambda: old)
    keep_one(store)
    pruned(store)
    assert suffixes(store, name) == set()
    kinds = [Kind.DUMP, Kind.GLOBALS, Kind.SCHEMA]
    if recipients:
        kinds = [kind.encrypted for kind in kinds]
    kinds = [Kind.MANIFEST, *kinds, Kind.EVIDENCE]
    assert [key for change, key in store.changes if change == "delete"] == [
        KEYS.of(name, kind) for kind in kinds
    ]
    assert read_catalog(store, KEYS).strays == ()


def test_what_the_index_says_of_them_is_what_the_manifest_says(store: Bucket) -> None:
    keep_one(store)
    prune(store, KEYS, "ahold_options", POLICY, now=NOW)
    (entry,) = read_index(store, KEYS).values()
    assert entry.globals is PLAIN
    (backup,) = read_catalog(store, KEYS).backups
    assert Kind.GLOBALS in backup.kinds


@pytest.mark.parametrize("gone", [(), (Kind.DUMP,), (Kind.DUMP, Kind.GLOBALS)])
def test_what_a_deletion_left_of_a_backup_goes_with_the_next_one(
    store: Bucket, gone: tuple[Kind, ...]
) -> None:
    old = NOW - timedelta(days=8)
    name = BackupName.of("ahold_options", old)
    make(store, at=old)
    etag = store.head(KEYS.of(name, Kind.DUMP)).etag
    record(store, KEYS, name, EvidenceEntry(Act.EXPIRE, NOW, True, etag, ("old",), 0, 0, 0.0))
    for kind in (Kind.MANIFEST, *gone):
        store.delete(KEYS.of(name, kind))
    keep_one(store)
    pruned(store)
    assert suffixes(store, name) == set()


def test_a_foreign_script_beside_a_dump_without_an_archive_stays(store: Bucket) -> None:
    old = NOW - timedelta(days=8)
    name = BackupName.of("ahold_options", old)
    foreign = KEYS.of(name, Kind.GLOBALS)
    store.put(foreign, b"somebody else's")
    record(store, KEYS, name, EvidenceEntry(Act.EXPIRE, NOW, True, "", ("old",), 0, 0, 0.0))
    keep_one(store)
    assert foreign not in pruned(store)


@pytest.mark.parametrize(
    ("left", "hours"),
    [
        ({Kind.SCHEMA, Kind.GLOBALS}, 24),
        ({Kind.SCHEMA, Kind.GLOBALS, Kind.DUMP}, 7 * 24),
    ],
)
def test_what_a_killed_backup_left_goes_in_time_the_archive_last(
    store: Bucket, left: set[Kind], hours: float
) -> None:
    for age, goes in ((hours + 1, True), (hours - 1, False)):
        store.time = old = NOW - timedelta(hours=age)
        name = BackupName.of("ahold_options", old)
        make(store, at=old)
        for kind in {Kind.SCHEMA, Kind.GLOBALS, Kind.DUMP, Kind.MANIFEST} - left:
            store.delete(KEYS.of(name, kind))
        store.time = NOW
        keep_one(store)
        pruned(store)
        assert suffixes(store, name) == (set() if goes else {str(kind) for kind in left})
        if goes:
            assert store.changes[len(left) - 1] == ("delete", KEYS.of(name, Kind.SCHEMA))
        for key in [key for key in store.objects if str(NAME) in key]:
            store.delete(key)


def test_a_script_alone_may_be_somebody_elses_and_stays(store: Bucket) -> None:
    store.time = NOW - timedelta(days=400)
    name = BackupName.of("ahold_options", store.time)
    store.put(KEYS.of(name, Kind.GLOBALS), b"pg_dumpall of an older script")
    store.time = NOW
    keep_one(store)
    pruned(store)
    assert suffixes(store, name) == {".globals.sql.gz"}
