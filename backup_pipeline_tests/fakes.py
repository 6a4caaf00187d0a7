"""Real implementations in memory of what the engine talks to."""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backup_pipeline.engine.store import ObjectInfo, Part, UploadInfo
from backup_pipeline.errors import BucketMissing, ObjectExists, ObjectMissing, StoreError

SMALLEST_PART = 5 << 20
MOST_PARTS = 10_000


def now_utc() -> datetime:
    """The clock of this machine, to the second, as stores show it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as `MemoryStore` keeps it."""

    body: bytes
    etag: str
    modified_at: datetime
    metadata: Mapping[str, str]


@dataclass(slots=True)
class OpenUpload:
    """A multipart upload as `MemoryStore` keeps it."""

    key: str
    metadata: Mapping[str, str]
    active_at: datetime
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


class MemoryStore:
    """A bucket in memory that keeps every promise of `ObjectStore`; safe for threads.

    Subclasses override a method to count, delay or fail.
    `objects` and `uploads` are what it holds, for a test to look at or to damage.
    """

    def __init__(
        self, clock: Callable[[], datetime] = now_utc, *, bucket: str = "memory", chunk: int = 65536
    ) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, OpenUpload] = {}
        self.bucket_exists = True
        self._clock = clock
        self._bucket = bucket
        self._chunk = chunk
        self._lock = threading.RLock()

    def describe(self) -> str:
        return f"s3://{self._bucket} in memory"

    def head(self, key: str) -> ObjectInfo:
        return self._info(key, self._object(key))

    def metadata(self, key: str) -> Mapping[str, str]:
        return self._object(key).metadata

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        stored = self._object(key)
        if etag not in (None, stored.etag):
            raise ObjectMissing(f"{key!r} was replaced by another object")
        if length == 0:
            return
        size = len(stored.body)
        end = size if length is None else start + length
        if end > size or start >= end > 0:
            raise StoreError(f"{key!r} has {size} bytes, not {start} to {end}")
        for at in range(start, end, self._chunk):
            yield stored.body[at : min(end, at + self._chunk)]

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        return self._store(key, body, hashlib.md5(body).hexdigest(), {}, overwrite=overwrite)  # noqa: S324 - S3's ETag is an MD5

    def refuses_damage(self, key: str) -> bool:
        with self._lock:
            self._require_bucket()
        return True

    def delete(self, key: str) -> None:
        with self._lock:
            self._require_bucket()
            self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            self._require_bucket()
            found = [
                self._info(key, stored)
                for key, stored in self.objects.items()
                if key.startswith(prefix)
            ]
        yield from sorted(found, key=lambda info: info.key.encode())

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        with self._lock:
            self._require_bucket()
            upload_id = uuid.uuid4().hex
            self.uploads[upload_id] = OpenUpload(key, dict(metadata), self._clock())
            return upload_id

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        kept = bytes(body)
        etag = hashlib.md5(kept).hexdigest()  # noqa: S324 - S3's ETag is an MD5
        with self._lock:
            if not 1 <= number <= MOST_PARTS:
                raise StoreError(f"part {number} of {key!r}: the last possible is {MOST_PARTS}")
            upload = self._upload(key, upload_id)
            upload.parts[number] = (etag, kept)
            upload.active_at = max(upload.active_at, self._clock())
        return Part(number, etag, len(kept))

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]
    ) -> ObjectInfo:
        with self._lock:
            self._require_bucket()
            present = self.objects.get(key)
            if present:
                if present.metadata.items() >= metadata.items():
                    return self._info(key, present)
                raise ObjectExists(f"{key!r} was written by somebody else")
            upload = self._upload(key, upload_id)
            bodies = _in_order(key, upload, parts)
            etag = hashlib.md5("".join(part.etag for part in parts).encode()).hexdigest()  # noqa: S324 - as above
            info = self._store(
                key, b"".join(bodies), f"{etag}-{len(parts)}", upload.metadata, overwrite=False
            )
            del self.uploads[upload_id]
            return info

    def abort_upload(self, key: str, upload_id: str) -> None:
        with self._lock:
            self._require_bucket()
            if upload_id in self.uploads and self.uploads[upload_id].key == key:
                del self.uploads[upload_id]

    def list_uploads(self, prefix: str) -> Iterator[UploadInfo]:
        with self._lock:
            self._require_bucket()
            found = [
                UploadInfo(upload.key, upload_id, upload.active_at)
                for upload_id, upload in self.uploads.items()
                if upload.key.startswith(prefix)
            ]
        yield from sorted(found, key=lambda upload: upload.key.encode())

    def _store(
        self, key: str, body: bytes, etag: str, metadata: Mapping[str, str], *, overwrite: bool
    ) -> ObjectInfo:
        with self._lock:
            self._require_bucket()
            if key in self.objects and not overwrite:
                raise ObjectExists(f"{key!r} exists")
            self.objects[key] = StoredObject(bytes(body), etag, self._clock(), dict(metadata))
            return self._info(key, self.objects[key])

    def _object(self, key: str) -> StoredObject:
        with self._lock:
            self._require_bucket()
            if key not in self.objects:
                raise ObjectMissing(f"there is no {key!r}")
            return self.objects[key]

    def _upload(self, key: str, upload_id: str) -> OpenUpload:
        self._require_bucket()
        upload = self.uploads.get(upload_id)
        if not upload or upload.key != key:
            raise StoreError(f"no upload {upload_id} of {key!r} is open")
        return upload

    def _require_bucket(self) -> None:
        if not self.bucket_exists:
            raise BucketMissing(f"there is no bucket {self._bucket!r}")

    @staticmethod
    def _info(key: str, stored: StoredObject) -> ObjectInfo:
        return ObjectInfo(key, len(stored.body), stored.etag, stored.modified_at)


def _in_order(key: str, upload: OpenUpload, parts: Sequence[Part]) -> Sequence[bytes]:
    """The bytes of the named parts; raises `StoreError` for what S3 refuses."""
    numbers = [part.number for part in parts]
    if not parts or numbers != sorted(set(numbers)):
        raise StoreError(f"the parts of {key!r} are not in ascending order: {numbers}")
    for part in parts:
        if part.number not in upload.parts or upload.parts[part.number][0] != part.etag:
            raise StoreError(f"part {part.number} of {key!r} is not in the store")
    bodies = [upload.parts[number][1] for number in numbers]
    if any(len(body) < SMALLEST_PART for body in bodies[:-1]):
        raise StoreError(f"a part of {key!r} is smaller than {SMALLEST_PART} bytes")
    return bodies
