"""The object store: what the engine asks of one.

`engine/s3.py` is its S3 form; the tests have another one in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing or a HEAD shows it."""

    key: str
    size: int
    etag: str
    """Without quotes; another content has another one, the same content may have the same."""
    modified_at: datetime
    """The store's clock, to the second."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has taken."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    upload_id: str
    active_at: datetime
    """When it was begun or, if later, when its newest part arrived; the store's clock."""


class ObjectStore(Protocol):
    """A bucket.

    Every method raises `StoreUnreachable`, `StoreDenied` or `BucketMissing` when that is what
    happened, after the store's own bounded retries; other errors are named below.
    Nothing is ever overwritten unless a method says so.
    """

    def describe(self) -> str:
        """Where the bucket is, for people: `s3://options-data at http://nas:9000`; no secrets."""

    def head(self, key: str) -> ObjectInfo:
        """What the store knows of an object; raises `ObjectMissing`."""

    def metadata(self, key: str) -> Mapping[str, str]:
        """What an object was written with, names in lower case; raises `ObjectMissing`."""

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        """The bytes of an object, or of `length` bytes of it from `start`.

        A cut connection is resumed where it broke, and only on the very same object.
        With `etag`, the object must be that one from the start.
        Raises `ObjectMissing` (also when the object was replaced) at the first `next()` or when
        it resumes, `StoreError` where the object has fewer bytes than were asked for, and
        `VerificationFailed` where they don't match the checksum that the store keeps of them.
        Fewer bytes than promised are never silent.
        Closing the iterator early closes the connection.
        """

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        """Store a small object whole; raises `ObjectExists` unless `overwrite`."""

    def refuses_damage(self, key: str) -> bool:
        """Whether bytes that don't match the checksum sent with them are refused.

        Under `key`, which must be free, a store that takes them keeps an object.
        """

    def delete(self, key: str) -> None:
        """Delete an object; deleting what is not there is no error (as in S3)."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`.

        They come in the order of their keys' UTF-8, as far as the keys hold no `/` after the
        prefix; beyond that each store has an order of its own.
        """

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; gives its id."""

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        """Store one part, which must not change meanwhile; the same number replaces it.

        `number` goes from 1 to 10,000, not necessarily without gaps; every part but the last has
        at least 5 MiB.
        Raises `StoreError` where the upload is not open any more.
        """

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Make the object out of its parts, which must be in ascending order.

        `metadata` is what the upload was begun with and must be unique to it: when the reply is
        lost or contradictory, the object under the key is ours if it carries the same.
        Raises `ObjectExists` where another object has the key (`If-None-Match: *`), and
        `StoreError` where parts are missing or too small; both leave the upload open.
        Of several uploads that are completed in one instant, a store may let more than one
        succeed (SeaweedFS does): the last one has the key.
        """

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts; forgetting what is not there is no error."""

    def list_uploads(self, prefix: str) -> Iterator[UploadInfo]:
        """The open uploads under a prefix.

        MinIO knows them by exact key, and beyond that only those that it began since its own last
        start; it ends stale uploads by itself after 24 hours (its `api stale_uploads_expiry`).
        """
