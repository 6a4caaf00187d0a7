"""Long listings, read several times faster than botocore reads them.

The client's own parser looks every field of every object up in S3's model; over 40,000 objects
that takes most of the time of a listing.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET


def read_quickly(client: Any, read_time: Callable[[Any], datetime]) -> None:
    """Let a botocore client read the objects of `ListObjectsV2` with the function below."""

    def read(
        response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
    ) -> None:
        if response_dict["status_code"] == 200:
            body, contents = split_listing(response_dict["body"], read_time)
            response_dict["body"] = body
            customized_response_dict.update({"Contents": contents} if contents else {})

    client.meta.events.register("before-parse.s3.ListObjectsV2", read)


def split_listing(
    body: bytes, read_time: Callable[[Any], datetime]
) -> tuple[bytes, list[dict[str, Any]]]:
    """A `ListBucketResult` without its objects, and the objects in botocore's own form.

    What can't be read so stays as it is, and botocore says what is wrong with it.
    """
    try:
        root = ET.fromstring(body)  # noqa: S314 - the parser that botocore itself uses
        namespace = root.tag.partition("ListBucketResult")[0]
        entries = root.findall(f"{namespace}Contents")
        contents = [_object(entry, namespace, read_time) for entry in entries]
    except (ET.ParseError, KeyError, TypeError, ValueError):
        return body, []
    root[:] = [each for each in root if each.tag != f"{namespace}Contents"]
    return ET.tostring(root), contents


def _object(
    entry: ET.Element, namespace: str, read_time: Callable[[Any], datetime]
) -> dict[str, Any]:
    fields = {field.tag: field.text for field in entry}
    return {
        "Key": fields[f"{namespace}Key"] or "",
        "Size": int(fields[f"{namespace}Size"] or ""),
        "ETag": fields[f"{namespace}ETag"] or "",
        "LastModified": read_time(fields[f"{namespace}LastModified"]),
    }
