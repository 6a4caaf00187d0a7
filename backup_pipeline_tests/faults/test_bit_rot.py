"""Bits that flip, ends that are missing, objects that are swapped: found before a restore begins.

The store shows the same ETag as before, as a disk that rots does; other ways to damage a bucket
are in `integration/test_corruption.py`, on a real store.
"""

import gzip
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import RetentionPolicy, State
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import NewestNotVerified, VerificationFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.relay import Relay
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database

KEYS = Keys("backups/postgres/")
KINDS = (Kind.DUMP, Kind.MANIFEST, Kind.SCHEMA, Kind.EVIDENCE)
READ_BY_A_RESTORE = (Kind.DUMP, Kind.MANIFEST, Kind.SCHEMA)
LABEL = datetime(2025, 12, 16, 23, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def made(postgres18: EmbeddedPostgres) -> Iterator[tuple[MemoryStore, list[BackupName]]]:
    """Four verified backups of a database that changes in between, oldest first."""
    store, names = MemoryStore(), []
    with new_database(postgres18) as server:
        for number in range(4):
            with server.connect() as connection:
                connection.execute(
                    f"CREATE TABLE public.t{number} AS"
                    f" SELECT i, md5(i::text) FROM generate_series(1, {300 + number}) AS i"
                )
            name = BackupName.of("shop", LABEL + timedelta(days=number))
            source = PostgresDumpSource(server, [postgres18.bin_dir])
            back_up(source, store, KEYS, name, clock=now)
            assert verify(store, KEYS, name, clock=now).passed
            names.append(name)
        yield store, names


@pytest.fixture
def rotting(made: tuple[MemoryStore, list[BackupName]]) -> Callable[[], MemoryStore]:
    """Gives a bucket of its own with the four backups, time after time."""

    def copy() -> MemoryStore:
        store = MemoryStore()
        store.objects = dict(made[0].objects)
        return store

    return copy


@pytest.fixture
def newest(made: tuple[MemoryStore, list[BackupName]]) -> BackupName:
    return made[1][-1]


@pytest.fixture
def target(postgres18: EmbeddedPostgres, relay: Relay) -> Server:
    """A server that is reached through a relay, which hears what is said to it."""
    return Server.of(postgres18.dsn("shop"), port=str(relay.port))


def damage(store: MemoryStore, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of an object, and nothing else of it."""
    stored = store.objects[key]
    store.objects[key] = replace(stored, body=change(stored.body))


def flip(dice: Random) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        flipped = bytearray(body)
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        return bytes(flipped)

    return change


def cut(dice: Random) -> Callable[[bytes], bytes]:
    return lambda body: body[: dice.randrange(len(body))]


def require_found(
    store: MemoryStore, name: BackupName, kind: Kind, target: Server, relay: Relay
) -> None:
    """No restore begins, no verification passes, and nothing is deleted after it."""
    if kind in READ_BY_A_RESTORE:
        relay.said.clear()
        with pytest.raises(VerificationFailed):
            restore(store, KEYS, name, target, "shop", clock=now)
        assert b"CREATE DATABASE" not in relay.said
        assert not passes(store, name)
    backups = {backup.name: backup for backup in read_catalog(store, KEYS).backups}
    assert name not in backups or backups[name].state is not State.VERIFIED
    assert name not in backups or backups[name].findings
    if name == max(backups, default=name):
        with pytest.raises(NewestNotVerified):
            prune(store, KEYS, "shop", RetentionPolicy(days=0, minimum=1), now=now())


def passes(store: MemoryStore, name: BackupName) -> bool:
    try:
        return verify(store, KEYS, name, clock=now).passed
    except VerificationFailed:
        return False


@pytest.mark.parametrize(
    ("how", "sample", "full"), [(flip, 40, 1000), (cut, 20, 200)], ids=["flipped", "cut"]
)
def test_rot_is_found_before_a_restore_says_a_word(
    rotting: Callable[[], MemoryStore],
    newest: BackupName,
    target: Server,
    relay: Relay,
    chance: Chance,
    how: Callable[[Random], Callable[[bytes], bytes]],
    sample: int,
    full: int,
) -> None:
    for number in chance.times(sample, full):
        store, kind = rotting(), KINDS[number % len(KINDS)]
        damage(store, KEYS.of(newest, kind), how(chance.random))
        require_found(store, newest, kind, target, relay)


def test_swapped_objects_are_found_before_a_restore_says_a_word(
    rotting: Callable[[], MemoryStore],
    made: tuple[MemoryStore, list[BackupName]],
    target: Server,
    relay: Relay,
    chance: Chance,
) -> None:
    for number in chance.times(8, 50):
        store, kind = rotting(), KINDS[number % len(KINDS)]
        names = chance.random.sample(made[1], 2)
        one, other = (KEYS.of(name, kind) for name in names)
        store.objects[one], store.objects[other] = store.objects[other], store.objects[one]
        for name in names:
            require_found(store, name, kind, target, relay)


def test_a_bomb_under_a_backups_name_stops_at_the_length_of_the_manifest(
    rotting: Callable[[], MemoryStore], newest: BackupName
) -> None:
    """Even where the manifest was forged along with it, in all but that length."""
    store = rotting()
    bomb = gzip.compress(bytes(64 << 20), 9)
    manifest = read_manifest(store, KEYS, newest)
    last = manifest.members[-1]
    forged = replace(last, length=len(bomb), sha256=hashlib.sha256(bomb).hexdigest())
    damage(store, KEYS.of(newest, Kind.DUMP), lambda body: body[: last.offset] + bomb)
    store.put(
        KEYS.of(newest, Kind.MANIFEST),
        to_json(replace(manifest, members=(*manifest.members[:-1], forged))),
        overwrite=True,
    )
    tracemalloc.start()
    try:
        entry = verify(store, KEYS, newest, clock=now)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "holds more than" in entry.findings[0], entry.findings
    assert peak < 16 << 20


def test_a_whole_backup_raises_no_alarm_however_its_bytes_arrive(
    made: tuple[MemoryStore, list[BackupName]], chance: Chance
) -> None:
    for number in chance.times(40, 1000):
        store = MemoryStore(chunk=int(2 ** chance.random.uniform(4, 17)))
        store.objects = dict(made[0].objects)
        assert verify(store, KEYS, made[1][number % 4], clock=now).passed
        states = {backup.state for backup in read_catalog(store, KEYS).backups}
        assert states == {State.VERIFIED}


def test_a_whole_backup_is_restored(
    rotting: Callable[[], MemoryStore],
    newest: BackupName,
    postgres18: EmbeddedPostgres,
    target: Server,
    relay: Relay,
) -> None:
    """The tests above would pass as well if nothing were ever restored or nothing heard."""
    with ExitStack() as afterwards:
        afterwards.callback(drop_database, postgres18, "shop")
        restore(rotting(), KEYS, newest, target, "shop", clock=now)
        assert "shop" in databases(postgres18)
    assert b"CREATE DATABASE" in relay.said
