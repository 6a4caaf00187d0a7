"""Diagnosis of the bucket's side: what may be done there, and whether the store does it right."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from backup_pipeline.engine.catalog import newest, read_catalog
from backup_pipeline.engine.findings import Finding, Level, failure, few, hint_of, skew
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.prune import stale_uploads
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError


def of_reading(
    store: ObjectStore, keys: Keys, database: str, now: datetime, fresh_for: timedelta
) -> Iterator[Finding]:
    """Look at what is in the bucket, and whether it may be looked at."""
    try:
        catalog = read_catalog(store, keys, database)
    except StoreDenied as error:
        yield failure("bucket", error, advice=f"{hint_of(error)} {_ONLY_WRITING}")
        return
    except StoreError as error:
        yield failure("bucket", error)
        return
    yield Finding("bucket", Level.OK, f"{store.describe()} can be listed and read")
    if catalog.strays:
        yield Finding(
            "strays",
            Level.WARN,
            f"{len(catalog.strays)} objects under the prefix belong to no backup of {database}",
            "`backup-pipeline list` names them and says why.",
        )
    latest = newest(catalog.backups, now)
    if latest is None:
        yield Finding(
            "newest backup",
            Level.WARN,
            f"there is no backup of {database} yet",
            "Run `backup-pipeline backup`.",
        )
        return
    age = now - latest.taken_at
    message = f"{latest.name}, {latest.state}, {age.total_seconds() / 3600:.1f} hours old"
    if latest.state is State.FAILED:
        reason = "; ".join(latest.findings)
        yield Finding(
            "newest backup",
            Level.FAIL,
            f"{message}: {reason}",
            "Run `backup-pipeline backup` now, and look at the store's disks.",
            exit_code=1,
        )
    elif latest.state is State.UNVERIFIED:
        advice = "Run `backup-pipeline verify --latest`."
        yield Finding("newest backup", Level.WARN, message, advice)
    elif age > fresh_for:
        advice = "Look whether the schedule runs, or run `backup-pipeline backup`."
        yield Finding("newest backup", Level.WARN, message, advice)
    else:
        yield Finding("newest backup", Level.OK, message)


_ONLY_WRITING = (
    "A machine that only makes backups (`backup --no-verify`) may do without: docs/security.md."
)


def of_uploads(
    store: ObjectStore, keys: Keys, database: str, stale_before: datetime
) -> Iterator[Finding]:
    """Look for uploads that nobody goes on with."""
    try:
        stale = [upload.key for upload in stale_uploads(store, keys, database, stale_before)]
    except StoreError as error:
        yield failure(
            "open uploads",
            error,
            advice="Allow s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts, or what "
            f"killed runs have left is never cleared away. {_ONLY_WRITING}",
        )
        return
    if stale:
        yield Finding(
            "open uploads",
            Level.WARN,
            f"killed runs have left {len(stale)} uploads, whose parts take room: {few(stale)}",
            "`backup-pipeline prune` aborts them.",
        )
    else:
        yield Finding("open uploads", Level.OK, "none is left over")


def of_writing(store: ObjectStore, keys: Keys, clock: Callable[[], datetime]) -> Iterator[Finding]:
    """Write a small object under the prefix, try all that is done with objects, and delete it."""
    key = f"{keys.prefix}.probe-{uuid.uuid4()}"
    body = key.encode()
    try:
        written = store.put(key, body)
        here = clock()
    except StoreError as error:
        yield failure("writing", error)
        return
    try:
        yield _overwriting(store, key, body)
        yield skew("the store's clock", written.modified_at, here)
        yield _multipart(store, key, body)
        yield from _checksums(store, f"{key}-damaged")
        yield _reading_back(store, key, body)
    except StoreDenied as error:
        yield failure("reading back", error, advice=f"Allow s3:GetObject. {_ONLY_WRITING}")
    except StoreError as error:
        yield failure("reading back", error)
    finally:
        deleted = _deleting(store, key)
    yield deleted


def _overwriting(store: ObjectStore, key: str, body: bytes) -> Finding:
    try:
        store.put(key, body)
    except ObjectExists:
        return Finding(
            "writing", Level.OK, "objects can be written, and are not overwritten by a second run"
        )
    return Finding(
        "writing",
        Level.WARN,
        "objects can be written, but the store ignores `If-None-Match: *`",
        "Update the store: two runs of one name would not notice each other.",
    )


def _multipart(store: ObjectStore, key: str, body: bytes) -> Finding:
    """Whether an upload in parts works, up to the refusal to replace what has its key."""
    mark = {"backup-id": str(uuid.uuid4())}
    try:
        upload_id = store.create_upload(key, mark)
        try:
            part = store.upload_part(key, upload_id, 1, body)
            store.complete_upload(key, upload_id, [part], mark)
        except ObjectExists:
            store.abort_upload(key, upload_id)
        except StoreError:
            with suppress(StoreError):
                store.abort_upload(key, upload_id)
            raise
        else:
            return Finding(
                "multipart uploads",
                Level.WARN,
                "they work, but the store ignores `If-None-Match: *` when it completes one",
                "Update the store: two runs of one name would not notice each other.",
            )
    except StoreError as error:
        return failure(
            "multipart uploads",
            error,
            advice=f"Every backup is one. {hint_of(error)} "
            "They take s3:PutObject and s3:AbortMultipartUpload.",
        )
    return Finding(
        "multipart uploads", Level.OK, "they can be begun, aborted, and not completed over another"
    )


def _checksums(store: ObjectStore, key: str) -> Iterator[Finding]:
    try:
        refused = store.refuses_damage(key)
    except StoreError as error:
        yield failure("checksums", error)
        return
    if refused:
        yield Finding("checksums", Level.OK, "the store refuses what was damaged on the way")
        return
    yield Finding(
        "checksums",
        Level.WARN,
        "the store takes objects that don't match the checksum sent with them",
        "Let each backup be verified, which finds such damage; a newer store would refuse it.",
    )
    with suppress(StoreError):
        store.delete(key)


def _reading_back(store: ObjectStore, key: str, body: bytes) -> Finding:
    if b"".join(store.read(key)) == body:
        return Finding("reading back", Level.OK, "what was written comes back unchanged")
    return Finding(
        "reading back",
        Level.FAIL,
        "what was written comes back changed",
        "Don't trust this store: look at its disks and at what lies between here and there.",
        exit_code=6,
    )


def _deleting(store: ObjectStore, key: str) -> Finding:
    try:
        store.delete(key)
        store.head(key)
    except ObjectMissing:
        return Finding("deleting", Level.OK, "objects can be deleted")
    except StoreError as error:
        return Finding(
            "deleting",
            Level.FAIL,
            f"the probe {key} can't be deleted: {error.message}",
            f"Allow s3:DeleteObject, or nothing will ever be pruned. {_ONLY_WRITING}",
            exit_code=6,
        )
    return Finding(
        "deleting",
        Level.FAIL,
        f"the probe {key} is there still after it was deleted",
        "Look whether the bucket locks its objects.",
        exit_code=6,
    )
