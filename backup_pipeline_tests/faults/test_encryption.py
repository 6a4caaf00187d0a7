"""Fault 24: no key, a wrong one, or ciphertext that was tampered with gives nothing of a backup."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from backup_pipeline.cli import run
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.age import SEALED, Identity, encrypted, header_size
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_evidence, read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Manifest, Piece, SchemaArchive
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.selection import Selection, restore_selection
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import BackupPipelineError, NoIdentity, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.relay import Relay
from backup_pipeline_tests.integration.databases import contents, databases, new_database

KEYS = Keys("backups/postgres/")
MINE = Identity.made()
USAGE, REFUSED = 2, 3
# Random text, so that the dump is several chunks when it is compressed.
ROWS = """
    CREATE TABLE public.secret AS
    SELECT i, md5(i::text) || md5((-i)::text) AS text FROM generate_series(1, 8000) AS i;
"""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Bucket:
    """A bucket with two encrypted backups of one database."""

    store: MemoryStore
    name: BackupName
    other: BackupName

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.store, KEYS, self.name)

    def body(self, kind: Kind, *, other: bool = False) -> bytes:
        return self.store.objects[KEYS.of(self.other if other else self.name, kind)].body

    def keep(self, kind: Kind, body: bytes) -> None:
        key = KEYS.of(self.name, kind)
        self.store.objects[key] = replace(self.store.objects[key], body=body)

    def forge(self) -> None:
        """Give the manifest the hashes of what is stored now."""
        dump, archive = self.body(Kind.DUMP_AGE), self.body(Kind.SCHEMA_AGE)
        encryption = self.manifest.encryption
        assert encryption
        piece = Piece(0, len(dump), hashlib.sha256(dump).hexdigest())
        forged = replace(
            self.manifest,
            encryption=replace(encryption, pieces=(piece,)),
            schema_archive=SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest()),
        )
        self.keep(Kind.MANIFEST, to_json(forged))


@pytest.fixture(scope="module")
def made(postgres18: EmbeddedPostgres) -> Iterator[tuple[MemoryStore, BackupName, BackupName]]:
    store, names = MemoryStore(), []
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(ROWS)
        for day in (16, 17):
            name = BackupName.of("vault", datetime(2025, 12, day, 23, tzinfo=UTC))
            source = PostgresDumpSource(server, [postgres18.bin_dir])
            back_up(source, store, KEYS, name, recipients=[MINE.recipient], clock=now)
            names.append(name)
        yield store, names[0], names[1]


@pytest.fixture
def fresh(made: tuple[MemoryStore, BackupName, BackupName]) -> Callable[[], Bucket]:
    """Gives a bucket of its own with the backups, time after time."""

    def copy() -> Bucket:
        store = MemoryStore()
        store.objects = dict(made[0].objects)
        return Bucket(store, *made[1:])

    return copy


@pytest.fixture
def target(postgres18: EmbeddedPostgres, relay: Relay) -> Server:
    """A server that is reached through a relay, which hears what is said to it."""
    return Server.of(postgres18.dsn("vault"), port=str(relay.port))


Verb = Callable[[Bucket, Server, Sequence[Identity], Path], object]


def restoring(bucket: Bucket, server: Server, identities: Sequence[Identity], _: Path) -> object:
    return restore(
        bucket.store, KEYS, bucket.name, server, "vault", identities=identities, clock=now
    )


def drilling(
    bucket: Bucket, server: Server, identities: Sequence[Identity], bin_dir: Path
) -> object:
    result = drill(
        bucket.store, KEYS, bucket.name, server, [bin_dir], identities=identities, clock=now
    )
    if not result.entry.passed:
        raise VerificationFailed(result.entry.findings[0])
    return result


def selecting(
    bucket: Bucket, server: Server, identities: Sequence[Identity], bin_dir: Path
) -> object:
    chosen = Selection(tables=("secret",))
    return restore_selection(
        bucket.store,
        KEYS,
        bucket.name,
        server,
        "vault",
        chosen,
        [bin_dir],
        identities=identities,
        clock=now,
    )


each_verb = pytest.mark.parametrize(
    "verb", [restoring, drilling, selecting], ids=["restore", "drill", "part"]
)


@each_verb
@pytest.mark.parametrize(
    "identities", [(), (Identity.made(), Identity.made())], ids=["no key", "wrong keys"]
)
def test_without_the_right_key_a_restore_says_no_word(
    fresh: Callable[[], Bucket],
    target: Server,
    relay: Relay,
    postgres18: EmbeddedPostgres,
    verb: Verb,
    identities: Sequence[Identity],
) -> None:
    bucket = fresh()
    with pytest.raises(NoIdentity, match=str(MINE.recipient)):
        verb(bucket, target, identities, postgres18.bin_dir)
    assert relay.said == b""
    assert read_evidence(bucket.store, KEYS, bucket.name).entries == ()


def flipped(body: bytes, _: bytes, chance: Random) -> bytes:
    changed = bytearray(body)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def chunks_of(body: bytes) -> tuple[bytes, list[bytes]]:
    begin = header_size(body)
    return body[:begin], [body[at : at + SEALED] for at in range(begin, len(body), SEALED)]


def cut(body: bytes, _: bytes, chance: Random) -> bytes:
    """Anywhere, or between two chunks."""
    begin = header_size(body)
    return body[: chance.choice([chance.randrange(len(body)), *range(begin, len(body), SEALED)])]


def reordered(body: bytes, _: bytes, chance: Random) -> bytes:
    header, chunks = chunks_of(body)
    order = list(range(len(chunks)))
    while order == sorted(order):
        chance.shuffle(order)
    return header + b"".join(chunks[number] for number in order)


def mixed(body: bytes, other: bytes, chance: Random) -> bytes:
    """One chunk, or all of them, are those of a backup that has other keys."""
    header, chunks = chunks_of(body)
    _, others = chunks_of(other)
    number = chance.randrange(min(len(chunks), len(others)))
    if chance.random() < 0.5:
        return header + b"".join(others)
    return header + b"".join([*chunks[:number], others[number], *chunks[number + 1 :]])


@pytest.mark.parametrize("how", [flipped, cut, reordered, mixed], ids=lambda how: how.__name__)
@pytest.mark.parametrize("forged", [False, True], ids=["its hashes are not", "its hashes are too"])
def test_ciphertext_that_was_tampered_with_is_found_before_a_restore_says_a_word(
    fresh: Callable[[], Bucket],
    target: Server,
    relay: Relay,
    postgres18: EmbeddedPostgres,
    chance: Chance,
    how: Callable[[bytes, bytes, Random], bytes],
    forged: bool,
) -> None:
    kinds = [Kind.DUMP_AGE] if how is reordered else [Kind.DUMP_AGE, Kind.SCHEMA_AGE]
    for number in chance.times(6, 60):
        bucket, kind = fresh(), kinds[number % len(kinds)]
        body = how(bucket.body(kind), bucket.body(kind, other=True), chance.random)
        bucket.keep(kind, body)
        if forged:
            bucket.forge()
        for verb in (restoring, drilling):
            relay.said.clear()
            with pytest.raises(VerificationFailed):
                verb(bucket, target, [MINE], postgres18.bin_dir)
            assert b"CREATE DATABASE" not in relay.said


def test_a_part_of_tampered_ciphertext_leaves_the_target_as_it_was(
    fresh: Callable[[], Bucket], postgres18: EmbeddedPostgres, chance: Chance
) -> None:
    """A part is read as it is loaded, chunk by chunk."""
    before = databases(postgres18)
    server = Server.of(postgres18.dsn("vault"))
    for _ in chance.times(4, 20):
        bucket = fresh()
        header, chunks = chunks_of(bucket.body(Kind.DUMP_AGE))
        # The first and the last hold what is no row as well.
        middle = chance.random.randrange(1, len(chunks) - 1)
        chunks[middle] = flipped(chunks[middle], b"", chance.random)
        bucket.keep(Kind.DUMP_AGE, header + b"".join(chunks))
        bucket.forge()
        with pytest.raises(VerificationFailed, match=f"chunk {middle} "):
            selecting(bucket, server, [MINE], postgres18.bin_dir)
        assert databases(postgres18) == before


def test_an_archive_that_somebody_else_encrypted_is_found(
    fresh: Callable[[], Bucket], target: Server, relay: Relay, postgres18: EmbeddedPostgres
) -> None:
    """Anybody can encrypt for a public key, but not write the hash of it into the manifest."""
    bucket = fresh()
    bucket.keep(Kind.SCHEMA_AGE, encrypted(b"DROP TABLE public.secret", [MINE.recipient]))
    with pytest.raises(VerificationFailed, match="archive"):
        restoring(bucket, target, [MINE], postgres18.bin_dir)
    assert b"CREATE DATABASE" not in relay.said


@pytest.fixture
def vault(
    postgres18: EmbeddedPostgres,
    store: ObjectStore,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Server]:
    """A database whose backups are encrypted, as the environment says."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(ROWS)
        for variable, value in {
            **s3_environment,
            "BACKUP_DSN": postgres18.dsn(server.database),
            "BACKUP_DATABASE": server.database,
            "BACKUP_PG_BIN_DIRS": str(postgres18.bin_dir),
            "BACKUP_RECIPIENTS": str(MINE.recipient),
        }.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.chdir(tmp_path)
        yield server


def test_on_the_command_line_a_key_decides_and_is_shown_nowhere(
    vault: Server,
    postgres18: EmbeddedPostgres,
    store: ObjectStore,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(f"# mine\n{MINE.secret}\n")
    other = Identity.made()
    wrong.write_text(other.secret)
    said = []

    def type_(*arguments: str) -> tuple[int, str]:
        code = run([*arguments])
        captured = capfd.readouterr()
        said.extend([captured.out, captured.err])
        return code, captured.out + captured.err

    assert type_("backup")[0] == 0
    assert "not decrypted for want of a key" in "".join(said)
    name = json.loads(type_("list", "--json")[1])["backups"][0]["name"]
    assert str(MINE.recipient) in type_("show", name)[1]
    with pytest.MonkeyPatch.context() as environment:
        target = f"{vault.database}_restored"
        restoring = ["restore", "--latest", "--into", target, "--no-confirm"]
        before = databases(postgres18)
        for verb in (restoring, ["drill", "--latest"]):
            assert type_(*verb)[0] == REFUSED
            code, told = type_(*verb, "--identity", str(wrong))
            assert (code, str(MINE.recipient) in told) == (REFUSED, True)
        assert databases(postgres18) == before
        code, told = type_("verify", "--all", "--identity", str(wrong))
        assert (code, "not decrypted for want of a key" in told) == (0, True)
        assert "rows counted" in type_("verify", name, "--identity", str(right))[1]
        environment.setenv("BACKUP_IDENTITY_FILE", str(right))
        assert type_("drill", "--latest")[0] == 0
        assert type_(*restoring)[0] == 0
        assert contents(vault.using(target)) == contents(vault)
        wrong.write_text(MINE.secret[:-1] + ("P" if MINE.secret.endswith("Q") else "Q"))
        environment.setenv("BACKUP_IDENTITY_FILE", str(wrong))
        for verb in (restoring, ["drill", "--latest"], ["verify", "--latest"]):
            assert type_(*verb)[0] == USAGE
    with vault.using("postgres").connect() as admin:
        admin.execute(f'DROP DATABASE "{target}"'.encode())
    everything = "".join([*said, caplog.text])
    assert MINE.secret[:-1] not in everything
    assert other.secret not in everything


def test_errors_name_no_key() -> None:
    for text in (MINE.secret, MINE.secret[:-1]):
        with pytest.raises(BackupPipelineError) as error:
            from backup_pipeline.settings import load_settings

            load_settings(recipients=text)
        assert text not in f"{error.value.message} {error.value.hint} {error.value!r}"
