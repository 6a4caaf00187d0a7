"""The quick reader of listings gives exactly what botocore's own reader gives."""

from typing import Any

import botocore.session
import pytest

from backup_pipeline.engine.s3_client import read_time
from backup_pipeline.engine.s3_listing import objects_of, split
from backup_pipeline.errors import StoreError

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
        listing(entry("b/a.sql.gz"), entry("b/+%25&amp;.sql.gz")),
        listing(entry("b/owned", extra="<Owner><ID>1</ID><DisplayName>n</DisplayName></Owner>")),
        listing(
            entry("b/typed", extra='<Owner xsi:type="CanonicalUser"><ID>1</ID></Owner>'),
            namespace=f'{NAMESPACE} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"',
        ),
        listing(entry("b/plain"), namespace=""),
        listing(entry("b/ünïcödé")),
    ],
    ids=["empty", "two", "owner", "typed owner", "no namespace", "not ASCII"],
)
def test_the_objects_and_the_rest_are_what_botocore_reads(body: bytes) -> None:
    expected = read_by_botocore(body)
    whole = list(objects_of(expected, read_time))
    rest, objects = split(body)
    page = read_by_botocore(rest)
    assert list(objects_of({**page, "UnreadContents": objects}, read_time)) == whole
    assert page == {name: each for name, each in expected.items() if name != "Contents"}


def test_keys_are_decoded_where_the_store_encoded_them() -> None:
    rest, objects = split(listing(entry("b/%C3%A9+%2B%0A")))
    page = {**read_by_botocore(rest), "UnreadContents": objects, "EncodingType": "url"}
    assert [info.key for info in objects_of(page, read_time)] == ["b/é +\n"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<Error><Code>SlowDown</Code></Error>",
        listing(entry("b/x")).replace(b"Contents>", b"s3:Contents>"),
        listing(entry("b/x"), "<NextContinuationToken>u</NextContinuationToken>", entry("b/y"))
        .replace(b"<NextContinuationToken>t</NextContinuationToken>", b""),
    ],
    ids=["empty", "no XML", "error", "prefixed", "scattered"],
)  # fmt: skip
def test_a_page_of_an_unusual_form_is_left_to_botocore(body: bytes) -> None:
    assert split(body) == (body, b"")


@pytest.mark.parametrize(
    ("good", "bad"),
    [("1234", "many"), ("2025", "year"), ("<Size>", "<Sise>"), ("<Key>b/x</Key>", "")],
)
def test_objects_that_can_not_be_read_are_an_error(good: str, bad: str) -> None:
    _, objects = split(listing(entry("b/x").replace(good, bad)))
    with pytest.raises(StoreError, match="can't be read"):
        list(objects_of({"UnreadContents": objects}, read_time))
