"""Long listings, several times faster than botocore reads them.

Botocore looks every field of every object up in S3's model, which takes most of the time of a
listing.
Here the objects are cut out of a page before botocore reads it, so the next page can be asked for
at once, and they are read while it is on its way.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from backup_pipeline.engine.store import ObjectInfo
from backup_pipeline.errors import StoreError

_UNREAD = "UnreadContents"
_FIRST, _LAST = b"<Contents>", b"</Contents>"
# Some stores name the type of an owner with this prefix, declared further up.
_ROOT = b'<Listed xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">%b</Listed>'


def cut_listings(client: Any) -> None:
    """Let a botocore client leave the objects of `ListObjectsV2` to `objects_of`."""

    def cut(
        response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
    ) -> None:
        if response_dict["status_code"] == 200:
            response_dict["body"], customized_response_dict[_UNREAD] = split(response_dict["body"])

    client.meta.events.register("before-parse.s3.ListObjectsV2", cut)


def split(body: bytes) -> tuple[bytes, bytes]:
    """A page without its objects, and the objects; a page of an unusual form stays whole."""
    start, end = body.find(_FIRST), body.rfind(_LAST) + len(_LAST)
    if not 0 <= start < end:
        return body, b""
    rest = body[:start] + body[end:]
    usual = b"IsTruncated>false<" in rest or b"<NextContinuationToken>" in rest
    return (rest, body[start:end]) if usual else (body, b"")


def objects_of(page: Any, read_time: Callable[[Any], datetime]) -> Iterator[ObjectInfo]:
    """The objects of a page, by whomever they have to be read; raises `StoreError`."""
    for entry in page.get("Contents", ()):
        yield _info(entry["Key"], entry["Size"], entry["ETag"], entry["LastModified"])
    unread = page.get(_UNREAD)
    if not unread:
        return
    # S3 encodes the keys because botocore always asks for it: XML can't hold every character.
    decoded = unquote_plus if page.get("EncodingType") == "url" else str
    try:
        for element in ET.fromstring(_ROOT % unread):  # noqa: S314 - the parser of botocore
            fields = {field.tag: field.text or "" for field in element}
            yield _info(
                decoded(fields["Key"]),
                fields["Size"],
                fields["ETag"],
                read_time(fields["LastModified"]),
            )
    except (ET.ParseError, KeyError, ValueError) as error:
        raise StoreError("the store's listing of the bucket can't be read") from error


def _info(key: str, size: str | int, etag: str, modified_at: datetime) -> ObjectInfo:
    return ObjectInfo(key, int(size), etag.strip('"'), modified_at.astimezone(UTC))
