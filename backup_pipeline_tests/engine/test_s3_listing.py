"""The quick reader of listings gives exactly what botocore's own reader gives."""

from datetime import datetime
from typing import Any

import botocore.session
import pytest

from backup_pipeline.engine.s3_client import _read_time
from backup_pipeline.engine.s3_listing import split_listing

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def entry(key: str, *, extra: str = "") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2025-12-16T22:00:00.000Z</LastModified>"
        f"<ETag>&quot;0cc175b9-3&quot;</ETag><Size>1234</Size>{extra}"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def listing(*entries: str, namespace: str = NAMESPACE) -> bytes:
    return (
        f"{HEAD}<ListBucketResult{namespace}><Name>options-data</Name><Prefix>b/</Prefix>"
        "<KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>t</NextContinuationToken>{''.join(entries)}</ListBucketResult>"
    ).encode()


def read_by_botocore(body: bytes) -> dict[str, Any]:
    session = botocore.session.Session()
    shape = session.get_service_model("s3").operation_model("ListObjectsV2").output_shape
    parser = session.get_component("response_parser_factory").create_parser("rest-xml")
    parsed: dict[str, Any] = parser.parse({"body": body, "headers": {}, "status_code": 200}, shape)
    return parsed


@pytest.mark.parametrize(
    "body",
    [
        listing(),
        listing(entry("b/a.sql.gz"), entry("b/%C3%A9+%25&amp;.sql.gz")),
        listing(entry("b/owned", extra="<Owner><ID>1</ID><DisplayName>n</DisplayName></Owner>")),
        listing(entry("b/plain"), namespace=""),
    ],
    ids=["empty", "two", "owner", "no namespace"],
)
def test_the_objects_and_the_rest_are_what_botocore_reads(body: bytes) -> None:
    expected = read_by_botocore(body)
    rest, contents = split_listing(body, _read_time)
    found = {**read_by_botocore(rest), **({"Contents": contents} if contents else {})}
    for each in expected.get("Contents", ()):
        for unused in ("StorageClass", "Owner"):
            each.pop(unused, None)
    assert found == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        listing(entry("b/x"))[:-20],
        listing("<Contents><Key>x</Key></Contents>"),
        listing(entry("b/x").replace("1234", "many")),
        listing(entry("b/x").replace("2025", "year")),
        b"<Error><Code>SlowDown</Code></Error>",
    ],
)
def test_what_can_not_be_read_is_left_to_botocore(body: bytes) -> None:
    def strictly(text: Any) -> datetime:
        return datetime.fromisoformat(text)

    rest, contents = split_listing(body, strictly)
    assert contents == []
    assert rest == body or b"SlowDown" in rest
