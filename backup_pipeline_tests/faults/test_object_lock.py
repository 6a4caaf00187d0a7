"""Fault 15: a bucket that locks each version, as a real store does it.

There a deletion only puts a marker over the locked version: what a prune deletes is gone for every
verb, and comes back whole when somebody takes the markers away.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3, S3Access
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import RetentionPolicy, State
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.verify import verify
from backup_pipeline_tests.integration.databases import contents, drop_database, new_database
from backup_pipeline_tests.store_contract import connection_to

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

KEYS = Keys("backups/postgres/")
MODES = ("GOVERNANCE", "COMPLIANCE")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def locking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    """A server of its own: nobody can empty these buckets before a day has passed."""
    directory: Path = tmp_path_factory.mktemp("locking")
    with EmbeddedS3(directory / "s3") as server, closing(server.access.client()) as client:
        for mode in MODES:
            client.create_bucket(Bucket=mode.lower(), ObjectLockEnabledForBucket=True)
            client.put_object_lock_configuration(
                Bucket=mode.lower(),
                ObjectLockConfiguration={
                    "ObjectLockEnabled": "Enabled",
                    "Rule": {"DefaultRetention": {"Mode": mode, "Days": 1}},  # type: ignore[typeddict-item]  # one of two literals
                },
            )
        yield server.access


def versions(client: "S3Client", bucket: str, name: BackupName) -> set[tuple[str, str]]:
    """Every stored version of a backup's objects, by key and id."""
    reply = client.list_object_versions(Bucket=bucket, Prefix=f"{KEYS.prefix}{name}")
    return {(each["Key"], each["VersionId"]) for each in reply.get("Versions", ())}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_prune_deletes_of_a_locked_bucket_is_gone_and_can_be_had_back(
    locking: S3Access, postgres18: EmbeddedPostgres, mode: str
) -> None:
    bucket = mode.lower()
    store = S3Store(connection_to(locking, bucket))
    in_a_month, policy = now() + timedelta(days=30), RetentionPolicy(days=7, minimum=1)
    with new_database(postgres18) as server, closing(locking.client()) as client:
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.t AS SELECT generate_series(1, 1000) AS i")
        names = [BackupName.of("shop", now() + timedelta(seconds=each)) for each in (0, 1)]
        for name in names:
            back_up(PostgresDumpSource(server, [postgres18.bin_dir]), store, KEYS, name, clock=now)
            assert verify(store, KEYS, name, clock=now).passed
        old, new = names
        locked = versions(client, bucket, old)

        pruned = prune(store, KEYS, "shop", policy, now=in_a_month)
        assert (pruned.deleted, pruned.failed) == ((str(old),), ())
        catalog = read_catalog(store, KEYS)
        assert [backup.name for backup in catalog.backups] == [new]
        assert catalog.strays == ()
        assert prune(store, KEYS, "shop", policy, now=in_a_month).deleted == ()

        assert locked <= versions(client, bucket, old)
        for key, version in locked:
            with pytest.raises(ClientError, match="AccessDenied"):
                client.delete_object(Bucket=bucket, Key=key, VersionId=version)

        reply = client.list_object_versions(Bucket=bucket, Prefix=f"{KEYS.prefix}{old}")
        markers = reply["DeleteMarkers"]
        assert {marker["Key"] for marker in markers} >= {
            KEYS.of(old, kind) for kind in (Kind.MANIFEST, Kind.DUMP, Kind.SCHEMA)
        }
        for marker in markers:
            client.delete_object(Bucket=bucket, Key=marker["Key"], VersionId=marker["VersionId"])
        states = {backup.name: backup.state for backup in read_catalog(store, KEYS).backups}
        assert states == {old: State.VERIFIED, new: State.VERIFIED}
        target = f"{server.database}_again"
        try:
            restore(store, KEYS, old, server, target, clock=now)
            assert contents(server.using(target)) == contents(server)
        finally:
            drop_database(postgres18, target)
