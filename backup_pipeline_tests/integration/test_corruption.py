"""A damaged backup: verify says so, prune deletes nothing, restore never touches the target."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline import cli
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Codec, Manifest
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.integration.databases import EVERY_KIND, databases, new_database

KEYS = Keys("backups/postgres/")
REFUSED, VERIFICATION_FAILED = 3, 7


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Bucket:
    """A bucket with two backups, both verified, of which the newer one is about to be damaged."""

    store: ObjectStore
    older: BackupName
    newer: BackupName

    codec: Codec

    def dump(self, name: BackupName) -> str:
        return KEYS.of(name, self.codec.kind)

    def body(self, name: BackupName) -> bytes:
        return b"".join(self.store.read(self.dump(name)))

    def keys(self) -> list[str]:
        return [info.key for info in self.store.list(KEYS.prefix)]

    def replace(self, name: BackupName, body: bytes) -> None:
        self.store.put(self.dump(name), body, overwrite=True)


@pytest.fixture
def server(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    with new_database(postgres18, EVERY_KIND) as server:
        yield server


each_codec = pytest.mark.parametrize("codec", list(Codec), indirect=True)


@pytest.fixture
def codec(request: pytest.FixtureRequest) -> Codec:
    """What the backups are compressed with."""
    return Codec(getattr(request, "param", Codec.GZIP))


@pytest.fixture
def bucket_of_two(
    server: Server,
    codec: Codec,
    store: ObjectStore,
    postgres18: EmbeddedPostgres,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bucket:
    for variable, value in {**postgres18.environment(server.database), **s3_environment}.items():
        monkeypatch.setenv(variable, value)
    names = [BackupName.of(server.database, now() + timedelta(seconds=i)) for i in range(2)]
    for name in names:
        source = PostgresDumpSource(server, [postgres18.bin_dir])
        back_up(source, store, KEYS, name, codec=codec, clock=now)
        assert verify(store, KEYS, name, clock=now).passed
    return Bucket(store, names[0], names[1], codec)


def flip(bucket: Bucket) -> None:
    body = bytearray(bucket.body(bucket.newer))
    body[len(body) // 2] ^= 4
    bucket.replace(bucket.newer, bytes(body))


def truncate(bucket: Bucket) -> None:
    bucket.replace(bucket.newer, bucket.body(bucket.newer)[:-10])


def swap(bucket: Bucket) -> None:
    older, newer = bucket.body(bucket.older), bucket.body(bucket.newer)
    bucket.replace(bucket.older, newer)
    bucket.replace(bucket.newer, older)


def lose(bucket: Bucket) -> None:
    bucket.store.delete(bucket.dump(bucket.newer))


def forge(bucket: Bucket) -> None:
    key = KEYS.of(bucket.newer, Kind.MANIFEST)
    manifest = from_json(Manifest, b"".join(bucket.store.read(key)), key)
    first, *others = manifest.members
    forged = replace(manifest, members=(replace(first, sha256="0" * 64), *others))
    bucket.store.put(key, to_json(forged), overwrite=True)


def damage_manifest(bucket: Bucket) -> None:
    bucket.store.put(KEYS.of(bucket.newer, Kind.MANIFEST), b'{"version": 1}', overwrite=True)


every_damage = pytest.mark.parametrize(
    "damage", [flip, truncate, swap, lose, forge, damage_manifest], ids=lambda f: f.__name__
)


@each_codec
@every_damage
def test_verify_says_so(bucket_of_two: Bucket, damage: Callable[[Bucket], None]) -> None:
    damage(bucket_of_two)
    assert cli.run(["verify", str(bucket_of_two.newer)]) == VERIFICATION_FAILED


@every_damage
@pytest.mark.parametrize("verified_first", [True, False])
def test_prune_deletes_nothing(
    bucket_of_two: Bucket, damage: Callable[[Bucket], None], verified_first: bool
) -> None:
    damage(bucket_of_two)
    if verified_first or damage is forge:
        # A forged manifest shows only when the bytes are read.
        cli.run(["verify", str(bucket_of_two.newer)])
    before = bucket_of_two.keys()
    assert cli.run(["prune", "--retention-days", "0"]) == REFUSED
    assert bucket_of_two.keys() == before


@every_damage
def test_restore_refuses_before_it_touches_the_target(
    bucket_of_two: Bucket,
    damage: Callable[[Bucket], None],
    postgres18: EmbeddedPostgres,
    server: Server,
) -> None:
    damage(bucket_of_two)
    before = databases(postgres18)
    name = str(bucket_of_two.newer)
    code = cli.run(["restore", "--backup", name, "--replace", "--no-confirm"])
    assert code == VERIFICATION_FAILED
    assert databases(postgres18) == before


@each_codec
def test_a_good_bucket_is_verified_and_pruned(bucket_of_two: Bucket) -> None:
    """The tests above would pass as well if everything were always refused."""
    assert cli.run(["verify", "--all"]) == 0
    assert cli.run(["prune", "--retention-days", "0"]) == 0
