"""What the tests of faults share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.relay import Relay
from backup_pipeline_tests.faults.s3_proxy import FaultyS3
from backup_pipeline_tests.store_contract import connection_to

FaultyStore = Callable[..., S3Store]


@pytest.fixture
def chance(outside: Mapping[str, str]) -> Chance:
    """Dice whose seed is shown where the test fails."""
    return Chance(outside)


@pytest.fixture
def faulty_s3(s3_server: S3Access) -> Iterator[FaultyS3]:
    """A proxy in front of the S3 server; without a rule it lets everything through."""
    with FaultyS3(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def faulty_store(s3_server: S3Access, bucket: str, faulty_s3: FaultyS3) -> FaultyStore:
    """The bucket as seen through the proxy; `faulty_store(read_timeout=1)` sets a connection up."""

    def make(**options: object) -> S3Store:
        connection = connection_to(s3_server, bucket)
        return S3Store(replace(connection, endpoint_url=faulty_s3.url, **options))  # type: ignore[arg-type]  # fields of S3Connection

    return make


@pytest.fixture
def relay(postgres18: EmbeddedPostgres) -> Iterator[Relay]:
    """A relay in front of PostgreSQL 18."""
    with Relay(postgres18.port) as relay:
        yield relay
