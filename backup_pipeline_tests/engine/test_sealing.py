"""An encrypted backup: unreadable to who made it, provable without a key, readable with one."""

import gzip
import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pyrage
import pytest

from backup_pipeline.engine.age import CHUNK, SEALED, Identity
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_evidence, read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import (
    Codec,
    Contents,
    Encryption,
    EvidenceEntry,
    Manifest,
    Member,
    Piece,
    Section,
    State,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.sealing import PIECE, Sealing
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import ChildFailed, NoIdentity, ObjectExists, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore, StoredObject
from backup_pipeline_tests.fakes_dump import ROWS, FakePostgres, section_sql
from backup_pipeline_tests.made_backups import manifest_of

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
KEYS = Keys("b/")
NAME = BackupName.of("ahold_options", NOW)
STEM = f"b/{NAME}"
DUMP, ARCHIVE = KEYS.of(NAME, Kind.DUMP_AGE), KEYS.of(NAME, Kind.SCHEMA_AGE)
MINE, SAFE = Identity.made(), Identity.made()


def make(store: MemoryStore, codec: Codec = Codec.GZIP, jobs: int = 1) -> Manifest:
    source = FakePostgres(lambda: NOW, jobs=jobs).dump_source("ahold_options")
    recipients = [MINE.recipient, SAFE.recipient]
    return back_up(source, store, KEYS, NAME, codec=codec, recipients=recipients, clock=lambda: NOW)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def opened(file: bytes, identity: Identity = MINE) -> bytes:
    """What a program reads that knows nothing of this one."""
    opened: bytes = pyrage.decrypt(file, [pyrage.x25519.Identity.from_str(identity.secret)])
    return opened


@pytest.mark.parametrize(("codec", "suffix"), [(Codec.GZIP, ".sql.gz"), (Codec.ZSTD, ".sql.zst")])
def test_dump_and_archive_are_files_of_age_and_say_so(
    store: MemoryStore, codec: Codec, suffix: str
) -> None:
    make(store, codec)
    assert set(store.objects) == {
        f"{STEM}{suffix}.age",
        f"{STEM}.schema.dump.age",
        f"{STEM}.manifest.json",
    }
    assert opened(store.objects[ARCHIVE].body) == b"PGDMP"


@pytest.mark.parametrize("identity", [MINE, SAFE], ids=["one", "other"])
def test_each_recipient_reads_the_dump_without_this_software(
    store: MemoryStore, identity: Identity
) -> None:
    make(store)
    sql = gzip.decompress(opened(store.objects[DUMP].body, identity))
    assert sql == b"".join(section_sql(section) for section in Section)


def test_what_several_streams_would_bring_is_one_file_all_the_same(store: MemoryStore) -> None:
    make(store, jobs=3)
    sql = gzip.decompress(opened(store.objects[DUMP].body))
    assert sql == b"".join(section_sql(section) for section in Section)


def test_nothing_in_the_bucket_tells_of_rows_or_definitions(store: MemoryStore) -> None:
    plain = MemoryStore()
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    secrets = [b"2.75", b"CREATE TABLE", b"PGDMP", b"trades_at"]
    told = back_up(source, plain, KEYS, NAME, clock=lambda: NOW)
    secrets += [each.digest.encode() for each in told.contents.tables if each.digest]
    secrets += [each.sha256.encode() for each in told.members if each.sha256]
    assert told.contents.large_objects
    secrets.append(told.contents.large_objects.digest.encode())
    make(store)
    everything = b"".join(each.body for each in store.objects.values())
    assert not [secret for secret in secrets if secret in everything]
    assert len(secrets) == 4 + 1 + len(Section) + 1


def test_the_digests_are_there_for_who_has_the_key(store: MemoryStore) -> None:
    manifest = make(store)
    found = StoredBackup(store, KEYS, manifest, [MINE]).contents()
    plain = MemoryStore()
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    assert found == back_up(source, plain, KEYS, NAME, clock=lambda: NOW).contents
    assert manifest.encryption
    assert json.loads(opened(b64decode(manifest.encryption.contents)))


def look(store: MemoryStore, *identities: Identity) -> EvidenceEntry:
    return verify(store, KEYS, NAME, identities=identities, clock=lambda: NOW)


def test_without_a_key_the_stored_bytes_are_proved_and_the_evidence_says_how_far(
    store: MemoryStore,
) -> None:
    manifest = make(store)
    entry = look(store)
    assert (entry.passed, entry.opened, entry.rows) == (True, False, 0)
    assert entry.read_bytes == manifest.length == len(store.objects[DUMP].body)
    (backup,) = read_catalog(store, KEYS).backups
    assert (backup.state, backup.encrypted, backup.size) == (State.VERIFIED, True, manifest.length)
    assert read_evidence(store, KEYS, NAME).entries == (entry,)


@pytest.mark.parametrize("codec", list(Codec))
def test_with_a_key_all_of_it_is_proved(store: MemoryStore, codec: Codec) -> None:
    make(store, codec)
    entry = look(store, Identity.made(), SAFE)
    assert (entry.findings, entry.opened, entry.rows) == ((), True, ROWS)


def test_with_a_wrong_key_as_much_is_proved_as_without_one(store: MemoryStore) -> None:
    """Old backups are encrypted for old keys, and one of them must not end a look at all."""
    manifest = make(store)
    entry = look(store, Identity.made())
    assert (entry.passed, entry.opened, entry.rows) == (True, False, 0)
    with pytest.raises(NoIdentity, match=str(MINE.recipient)):
        StoredBackup(store, KEYS, manifest, [Identity.made()]).require_identity()


def damage(store: MemoryStore, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change an object as a disk does that rots."""
    store.objects[key] = replace(store.objects[key], body=change(store.objects[key].body))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("key", [DUMP, ARCHIVE], ids=["dump", "archive"])
def test_one_flipped_bit_anywhere_is_found_without_a_key(
    store: MemoryStore, key: str, seed: int
) -> None:
    make(store)
    chance = Random(seed)  # noqa: S311  # not a secret

    def flip(body: bytes) -> bytes:
        flipped = bytearray(body)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        return bytes(flipped)

    damage(store, key, flip)
    assert look(store).findings
    assert look(store, MINE).findings


def forge(store: MemoryStore, manifest: Manifest, body: bytes) -> None:
    """Store other bytes, and a manifest with their hashes."""
    assert manifest.encryption
    piece = Piece(0, len(body), hashlib.sha256(body).hexdigest())
    store.objects[DUMP] = replace(store.objects[DUMP], body=body)
    forged = replace(manifest, encryption=replace(manifest.encryption, pieces=(piece,)))
    store.put(KEYS.of(NAME, Kind.MANIFEST), to_json(forged), overwrite=True)


@pytest.mark.parametrize("seed", range(40))
def test_right_hashes_do_not_make_up_for_tampered_ciphertext(store: MemoryStore, seed: int) -> None:
    manifest = make(store)
    chance = Random(seed)  # noqa: S311  # not a secret
    body = bytearray(store.objects[DUMP].body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    forge(store, manifest, bytes(body))
    assert look(store).passed
    assert not look(store, MINE).passed


class Sink:
    """What was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        self.written.append(data)


def sealed(plain: bytes) -> tuple[bytes, Encryption]:
    sink = Sink()
    sealing = Sealing(sink, [MINE.recipient])
    for at in range(0, len(plain), 100_000):
        sealing.write(plain[at : at + 100_000])
    encryption = sealing.close(Contents((), (), None))
    return b"".join(sink.written), encryption


def stored(plain: bytes, cuts: list[int]) -> tuple[MemoryStore, Manifest, bytes]:
    """A dump of these bytes, in members that end at the cuts."""
    body, encryption = sealed(plain)
    store, ends = MemoryStore(), [*cuts, len(plain)]
    members = tuple(
        Member(Section.DATA, begin, end - begin, end - begin, None)
        for begin, end in zip([0, *cuts], ends, strict=True)
    )
    manifest = replace(manifest_of(NAME, NOW, b"x", b""), members=members, encryption=encryption)
    manifest = replace(manifest, adopted=True, schema_archive=None)
    store.objects[DUMP] = StoredObject(body, "etag", NOW, {})
    return store, manifest, body


def test_pieces_are_whole_chunks_and_hold_everything() -> None:
    plain = Random(1).randbytes(2 * PIECE + 12345)  # noqa: S311  # not a secret
    body, encryption = sealed(plain)
    at = 0
    for piece in encryption.pieces:
        assert piece.offset == at
        assert hashlib.sha256(body[at : at + piece.length]).hexdigest() == piece.sha256
        assert at == 0 or (at - encryption.header) % SEALED == 0
        at += piece.length
    assert (at, len(encryption.pieces)) == (len(body), 3)
    assert opened(body) == plain


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 7])
def test_any_stretch_of_the_dump_is_read_alone(size: int) -> None:
    chance = Random(size)  # noqa: S311  # not a secret
    plain = chance.randbytes(size)
    store, manifest, _ = stored(plain, [])
    backup = StoredBackup(store, KEYS, manifest, [MINE])
    for _ in range(30):
        begin = chance.randrange(size)
        length = 1 + chance.randrange(size - begin)
        assert b"".join(backup.read(begin, length)) == plain[begin : begin + length]


def test_of_one_table_only_its_chunks_are_read() -> None:
    read = []

    class Watched(MemoryStore):
        def read(self, key: str, start: int = 0, length: int | None = None, **how: object):  # type: ignore[no-untyped-def]
            read.append(length)
            return super().read(key, start, length, **how)  # type: ignore[arg-type]

    store, manifest, _ = stored(bytes(40 * CHUNK), [])
    watched = Watched()
    watched.objects = store.objects
    for _ in StoredBackup(watched, KEYS, manifest, [MINE]).read(20 * CHUNK + 1, CHUNK):
        pass
    assert manifest.encryption
    assert sorted(each for each in read if each) == [manifest.encryption.header, 2 * SEALED]


@pytest.mark.parametrize(
    "order",
    [[1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 1, 3], [0, 3, 2, 1], [0, 1, 2, 2]],
    ids=str,
)
def test_chunks_that_were_moved_are_found_whatever_the_hashes_say(order: list[int]) -> None:
    store, manifest, body = stored(Random(1).randbytes(4 * CHUNK), [])  # noqa: S311
    assert manifest.encryption
    begin = manifest.encryption.header
    chunks = [body[begin + number * SEALED : begin + (number + 1) * SEALED] for number in order]
    forge(store, manifest, body[:begin] + b"".join(chunks))
    assert not look(store, MINE).passed


def test_a_manifest_that_leaves_out_the_end_is_found() -> None:
    store, manifest, body = stored(Random(1).randbytes(4 * CHUNK), [CHUNK])  # noqa: S311
    forge(store, replace(manifest, members=manifest.members[:1]), body)
    assert "chunks" in look(store, MINE).findings[0]


@pytest.mark.parametrize("by", [-1000, -1, 1, SEALED])
def test_a_manifest_with_another_header_is_found(by: int) -> None:
    store, manifest, body = stored(bytes(4 * CHUNK), [])
    assert manifest.encryption
    header = max(0, manifest.encryption.header + by)
    forge(store, replace(manifest, encryption=replace(manifest.encryption, header=header)), body)
    assert not look(store, MINE).passed


def test_a_manifest_with_a_boundless_header_is_found() -> None:
    store, manifest, body = stored(bytes(4 * CHUNK), [])
    assert manifest.encryption
    encryption = replace(manifest.encryption, header=len(body))
    forge(store, replace(manifest, encryption=encryption), body)
    assert "no header" in look(store, MINE).findings[0]


def test_an_end_that_was_cut_off_is_found_whatever_the_hashes_say() -> None:
    store, manifest, body = stored(Random(1).randbytes(4 * CHUNK), [3 * CHUNK])  # noqa: S311
    forge(store, replace(manifest, members=manifest.members[:1]), body[:-SEALED])
    assert "chunk 2 " in look(store, MINE).findings[0]


def test_a_failing_encryptor_leaves_nothing(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cryptography.hazmat.primitives.hmac.HMAC.update", fail, raising=True)
    with pytest.raises(MemoryError):
        make(store)
    assert (store.objects, store.uploads) == ({}, {})


@pytest.mark.parametrize("section", list(Section))
def test_a_dump_that_fails_anywhere_leaves_nothing(store: MemoryStore, section: Section) -> None:
    def fail(at: Section) -> None:
        if at is section:
            raise ChildFailed("pg_dump died")

    source = FakePostgres(lambda: NOW, fail).dump_source("ahold_options")
    with pytest.raises(ChildFailed):
        back_up(source, store, KEYS, NAME, recipients=[MINE.recipient], clock=lambda: NOW)
    assert (store.objects, store.uploads) == ({}, {})


def test_of_one_name_only_one_exists_encrypted_or_not(store: MemoryStore) -> None:
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    back_up(source, store, KEYS, NAME, clock=lambda: NOW)
    before = dict(store.objects)
    with pytest.raises(ObjectExists):
        make(store)
    assert (store.objects, store.uploads) == (before, {})


def test_what_is_not_encrypted_takes_no_key(store: MemoryStore) -> None:
    source = FakePostgres(lambda: NOW).dump_source("ahold_options")
    back_up(source, store, KEYS, NAME, clock=lambda: NOW)
    assert look(store, Identity.made()).opened
    assert read_manifest(store, KEYS, NAME).encryption is None


def test_contents_that_were_tampered_with_are_found(store: MemoryStore) -> None:
    manifest = make(store)
    assert manifest.encryption
    text = manifest.encryption.contents
    for wrong in (f"{text[:-8]}AAAA{text[-4:]}", text[:-4], "?", ""):
        forged = replace(manifest, encryption=replace(manifest.encryption, contents=wrong))
        with pytest.raises(VerificationFailed):
            StoredBackup(store, KEYS, forged, [MINE]).contents()
