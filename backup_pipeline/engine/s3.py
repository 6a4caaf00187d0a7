"""The S3 form of the object store.

This module, `s3_client` and `s3_errors` are the only ones that import botocore, and they do so at
the first call, because the command line starts faster than botocore does.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, TYPE_CHECKING, Any, cast

from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.s3_client import S3Connection, connect, read_time
from backup_pipeline.engine.s3_errors import error_code, from_botocore, not_of_s3
from backup_pipeline.engine.s3_listing import objects_of
from backup_pipeline.engine.store import ObjectInfo, Part, UploadInfo
from backup_pipeline.errors import (
    BucketMissing,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    VerificationFailed,
)

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
        PutObjectRequestTypeDef,
    )

_CHUNK = 256 * 1024
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 20.0


class S3Store:
    """A bucket of any S3-compatible server, as `ObjectStore` describes it; safe for threads.

    `rate` limits what is read; what is sent waits for its turn elsewhere (see `Transfer`).
    """

    def __init__(self, connection: S3Connection, rate: RateLimit | None = None) -> None:
        self._connection = connection
        self._rate = rate or RateLimit()
        self._bucket = connection.bucket
        self._lock = threading.Lock()
        self._connected: S3Client | None = None

    def __repr__(self) -> str:
        return f"S3Store({self._connection!r})"

    def describe(self) -> str:
        """Where the bucket is: `s3://options-data at http://nas:9000`."""
        with self._asking("Connect") as client:
            return f"s3://{self._bucket} at {client.meta.endpoint_url}"

    def head(self, key: str) -> ObjectInfo:
        """What the store knows of an object; raises `ObjectMissing`."""
        return self._look(key)[0]

    def metadata(self, key: str) -> Mapping[str, str]:
        """What an object was written with."""
        return self._look(key)[1]

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        """The bytes of an object or of a range of it, resumed where a connection broke.

        It gives up after `max_attempts` connections in a row that brought next to nothing.
        """
        if length == 0:
            self._look_for(key, etag)
            return
        offset, end = start, None if length is None else start + length
        futile = 0
        while True:
            body, etag, end = self._open(key, offset, end, etag)
            reached = offset
            with closing(body):
                for chunk in _arriving(body, key):
                    offset += len(chunk)
                    # Even a sleep of nothing gives the core away.
                    if delay := self._rate.delay(len(chunk)):
                        time.sleep(delay)
                    yield chunk
            if offset == end:
                return
            futile = 0 if offset - reached >= _CHUNK else futile + 1
            if futile == self._connection.max_attempts:
                raise StoreUnreachable(
                    f"GetObject of {key!r} in bucket {self._bucket!r} was cut at byte {offset} "
                    f"of {end}, {futile} times in a row"
                )
            time.sleep(min(_FIRST_PAUSE * 2**futile, _LONGEST_PAUSE))

    def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
        """Store a small object whole; raises `ObjectExists` unless `overwrite`."""
        # A retry after a lost reply meets the object that it made itself: this mark tells.
        mark = {"write-id": uuid.uuid4().hex}
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "Body": body,
            "Metadata": mark,
        }
        if not overwrite:
            request["IfNoneMatch"] = "*"
        try:
            with self._asking("PutObject", key) as client:
                return _written(key, len(body), client.put_object(**request))
        except StoreError as error:
            return self._settle(key, mark, error, overwrite=overwrite)

    def refuses_damage(self, key: str) -> bool:
        """Whether the store refuses an object whose CRC-32 is not the one sent along."""
        try:
            with self._asking("PutObject", key) as client:
                client.put_object(
                    Bucket=self._bucket, Key=key, Body=b"damaged", ChecksumCRC32="AAAAAA=="
                )
        except (StoreDenied, StoreUnreachable, BucketMissing):
            raise
        except StoreError:
            return True
        return False

    def delete(self, key: str) -> None:
        """Delete an object; deleting what is not there is no error."""
        with self._asking("DeleteObject", key, unless="NoSuchKey") as client:
            client.delete_object(Bucket=self._bucket, Key=key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`.

        Asked for by pages of 1,000, each while the one before it is read.
        """
        page, token = self._page(prefix)
        with ThreadPoolExecutor(1) as ahead:
            while token is not None:
                following = ahead.submit(self._page, prefix, token)
                yield from objects_of(page, read_time)
                page, token = following.result()
        yield from objects_of(page, read_time)

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; gives its id."""
        with self._asking("CreateMultipartUpload", key) as client:
            return client.create_multipart_upload(
                Bucket=self._bucket, Key=key, Metadata=dict(metadata)
            )["UploadId"]

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        """Store one part, sent as it lies in memory."""
        with self._asking("UploadPart", key) as client:
            reply = client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=cast("IO[bytes]", _Sending(body)),
            )
            return Part(number, reply["ETag"].strip('"'), len(body))

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Make the object out of its parts; a lost reply is settled by looking at the object."""
        try:
            with self._asking("CompleteMultipartUpload", key) as client:
                reply = client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=upload_id,
                    IfNoneMatch="*",
                    MultipartUpload={
                        "Parts": [
                            {"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts
                        ]
                    },
                )
                written = _written(key, sum(part.size for part in parts), reply)
        except StoreError as error:
            return self._settle(key, metadata, error)
        try:
            # Not every store completes atomically, so success is looked at too.
            return self._look_for_ours(key, metadata)
        except StoreDenied:
            # A policy that only lets us write: the reply has to do.
            return written

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts; forgetting what is not there is no error."""
        with self._asking("AbortMultipartUpload", key, unless="NoSuchUpload") as client:
            client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    def list_uploads(self, prefix: str) -> Iterator[UploadInfo]:
        """The open uploads under a prefix, each with the time of its newest part."""
        begun = self._begun(prefix)
        if prefix and not begun:
            # MinIO gives nothing for a prefix, but what it remembers for the whole bucket.
            begun = [upload for upload in self._begun("") if upload.key.startswith(prefix)]
        for upload in begun:
            arrivals = self._arrivals(upload)
            if arrivals is not None:
                active_at = max(arrivals, default=upload.active_at)
                yield UploadInfo(upload.key, upload.upload_id, active_at)

    def _page(
        self, prefix: str, token: str | None = None
    ) -> "tuple[ListObjectsV2OutputTypeDef, str | None]":
        """A page, and what asks for the next one if there is one."""
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": prefix}
        if token is not None:
            request["ContinuationToken"] = token
        with self._asking("ListObjectsV2", prefix) as client:
            page = client.list_objects_v2(**request)
            return page, page["NextContinuationToken"] if page["IsTruncated"] else None

    def _begun(self, prefix: str) -> Sequence[UploadInfo]:
        with self._asking("ListMultipartUploads", prefix) as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            return [
                UploadInfo(upload["Key"], upload["UploadId"], upload["Initiated"].astimezone(UTC))
                for page in pages
                for upload in page.get("Uploads", ())
            ]

    def _arrivals(self, upload: UploadInfo) -> Sequence[datetime] | None:
        """When each part came in; `None` for an upload that ended meanwhile."""
        with self._asking("ListParts", upload.key, unless="NoSuchUpload") as client:
            pages = client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id
            )
            return [
                part["LastModified"].astimezone(UTC)
                for page in pages
                for part in page.get("Parts", ())
            ]
        return None

    def _open(
        self, key: str, start: int, end: int | None, etag: str | None
    ) -> "tuple[StreamingBody, str, int]":
        """A connection that sends the object from `start`; with its ETag, and where it ends."""
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key}
        if start or end is not None:
            request["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if etag is not None:
            request["IfMatch"] = f'"{etag}"'
        with self._asking("GetObject", key) as client:
            reply = client.get_object(**request)
            body, found = reply["Body"], reply["ETag"].strip('"')
            first, stop, size = _sent(reply)
        wanted = size if end is None else end
        if first != start or not start <= stop <= wanted <= size:
            body.close()
            raise StoreError(
                f"GetObject of {key!r} in bucket {self._bucket!r}: asked for bytes {start} to "
                f"{wanted}, the store sent {first} to {stop} of {size}"
            )
        return body, found, wanted

    def _look(self, key: str) -> tuple[ObjectInfo, Mapping[str, str]]:
        """An object and its metadata."""
        try:
            with self._asking("HeadObject", key) as client:
                reply = client.head_object(Bucket=self._bucket, Key=key)
                info = ObjectInfo(
                    key,
                    reply["ContentLength"],
                    reply["ETag"].strip('"'),
                    reply["LastModified"].astimezone(UTC),
                )
        except ObjectMissing:
            # The answer to a HEAD has no body, so a missing bucket looks like a missing object.
            with suppress(StoreDenied), self._asking("HeadBucket") as client:
                client.head_bucket(Bucket=self._bucket)
            raise
        return info, {name.lower(): value for name, value in reply["Metadata"].items()}

    def _look_for(self, key: str, etag: str | None) -> None:
        if etag not in (None, self.head(key).etag):
            raise ObjectMissing(f"{key!r} in bucket {self._bucket!r} was replaced by another one")

    def _look_for_ours(self, key: str, mark: Mapping[str, str]) -> ObjectInfo:
        """The object under a key if it carries `mark`; raises `ObjectExists` if it doesn't."""
        info, metadata = self._look(key)
        if any(metadata.get(name) != value for name, value in mark.items()):
            raise ObjectExists(f"{key!r} in bucket {self._bucket!r} was written by somebody else")
        return info

    def _settle(
        self, key: str, mark: Mapping[str, str], error: StoreError, *, overwrite: bool = False
    ) -> ObjectInfo:
        """What became of a write that was answered with an error, or not at all."""
        if isinstance(error, StoreDenied | BucketMissing):
            raise error
        try:
            return self._look_for_ours(key, mark)
        except ObjectExists:
            if overwrite:
                raise error from error.__cause__
            raise
        except (ObjectMissing, StoreDenied, StoreUnreachable):
            raise error from error.__cause__

    @property
    def _client(self) -> "S3Client":
        with self._lock:
            if self._connected is None:
                self._connected = connect(self._connection)
            return self._connected

    @contextmanager
    def _asking(self, call: str, key: str = "", *, unless: str = "") -> "Iterator[S3Client]":
        """The client, for one call: its errors become ours, and the code `unless` is none.

        So does a field that is missing in the answer, which thus has to be read within.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield self._client
        except (BotoCoreError, ClientError) as error:
            if not unless or error_code(error) != unless:
                raise from_botocore(error, call, key, self._bucket) from error
        except (KeyError, ResponseParserError) as error:
            raise not_of_s3(call, key, self._bucket) from error


class _Sending:
    """A part as a file, so that it is sent in small pieces.

    A timeout holds for each piece then; for a part in one piece it would hold for the whole part,
    and slow networks could never send it.
    """

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(body)
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> bytes:
        stop = len(self._view) if size < 0 else self._at + size
        piece = bytes(self._view[self._at : stop])
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._view))[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def _arriving(body: "StreamingBody", key: str) -> Iterator[bytes]:
    """The bytes of one connection, until its end or until it breaks."""
    from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    try:
        while chunk := body.read(_CHUNK):
            yield chunk
    except FlexibleChecksumError as error:
        raise VerificationFailed(
            f"{key!r} does not match the checksum it was stored with"
        ) from error
    except (HTTPClientError, IncompleteReadError, HTTPError, OSError):
        # `read` counts what came, and asks for the rest.
        return


def _sent(reply: "GetObjectOutputTypeDef") -> tuple[int, int, int]:
    """First byte, end and size of the object, of the bytes that a reply promises."""
    if "ContentRange" not in reply:
        return 0, reply["ContentLength"], reply["ContentLength"]
    # RFC 9110, section 14.4: "bytes 3-4/5".
    span, _, size = reply["ContentRange"].removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    return int(first), int(last) + 1, int(size)


def _written(key: str, size: int, reply: Mapping[str, Any]) -> ObjectInfo:
    """What a store said of an object that it just took."""
    written_at = parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
    return ObjectInfo(key, size, reply["ETag"].strip('"'), written_at.astimezone(UTC))
