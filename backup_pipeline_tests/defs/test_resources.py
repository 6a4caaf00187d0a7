"""The real resources, as far as they go without a server."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_aws.s3 import S3Resource

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.resources import BucketResource, PostgresResource, resources
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.s3_client import S3Connection
from backup_pipeline.errors import InvalidInput
from backup_pipeline.settings import Settings, load_settings

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
# Dagster itself calls what it deprecates where a resource is nested in another.
nested = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated")


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("BACKUP_DSN", "BACKUP_CONFIG", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)


def connection_of(bucket: BucketResource) -> S3Connection:
    connection = bucket.store()._connection  # type: ignore[attr-defined]
    assert isinstance(connection, S3Connection)
    return connection


def seen_by_a_step(**given: Any) -> Any:
    """The resource `it`, as Dagster hands it to a step."""
    seen = []

    @dg.asset(required_resource_keys={"it"})
    def step(context: dg.AssetExecutionContext) -> None:
        seen.append(context.resources.it)

    assert dg.materialize([step], resources=given).success
    return seen[0]


def test_a_dump_that_the_component_encrypts_is_read_by_one_pg_dump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUP_JOBS", "4")

    def jobs_of(**given: Any) -> int:
        database = Database(load_settings(**given))
        source = seen_by_a_step(it=resources(database)["postgres"]).dump_source("orders")
        assert isinstance(source, PostgresDumpSource)
        return source.jobs

    assert (jobs_of(), jobs_of(recipients=[RECIPIENT])) == (4, 1)


@nested
def test_a_bucket_is_reached_as_its_s3_resource_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_STORE", "canary")
    s3 = S3Resource(
        endpoint_url="http://nas:9000",
        region_name="eu-west-1",
        aws_access_key_id="backup",
        aws_secret_access_key=dg.EnvVar("SECRET_OF_THE_STORE"),
        max_attempts=3,
    )

    bucket = seen_by_a_step(it=BucketResource(s3=s3, bucket="options-data", prefix="db/"))

    connection = connection_of(bucket)
    assert (connection.bucket, connection.endpoint_url) == ("options-data", "http://nas:9000")
    assert (connection.region, connection.max_attempts) == ("eu-west-1", 3)
    assert (connection.access_key, connection.secret_key) == ("backup", "canary")
    assert bucket.backup_keys().prefix == "db/"
    assert bucket.uri("db/x") == "s3://options-data/db/x"
    assert "canary" not in f"{bucket!r} {bucket}"


def test_the_projects_own_bucket_follows_the_settings_and_boto3s_chain() -> None:
    settings = Settings(bucket="elsewhere", s3_endpoint_url="http://nas:9000", s3_max_attempts=2)

    connection = connection_of(seen_by_a_step(it=resources(Database(settings))["bucket"]))

    assert (connection.bucket, connection.endpoint_url) == ("elsewhere", "http://nas:9000")
    assert connection.max_attempts == 2
    assert connection.access_key is connection.secret_key is connection.region is None


def test_what_an_s3_resource_has_no_field_for_comes_from_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUP_S3_CHECKSUMS", "when_required")
    monkeypatch.setenv("BACKUP_S3_READ_TIMEOUT", "7")
    connection = connection_of(seen_by_a_step(it=resources(Database(Settings()))["bucket"]))
    assert (connection.request_checksums, connection.read_timeout) == ("when_required", 7)


@nested
@pytest.mark.parametrize(
    "unsafe", [{"use_unsigned_session": True}, {"use_ssl": False}, {"verify": False}], ids=str
)
def test_an_s3_resource_that_switches_security_off_is_refused(unsafe: dict[str, bool]) -> None:
    s3 = S3Resource(**unsafe)  # type: ignore[arg-type]  # one field of three
    bucket = seen_by_a_step(it=BucketResource(s3=s3, bucket="options-data"))
    with pytest.raises(InvalidInput, match="signed requests"):
        bucket.store()


def test_a_server_is_found_by_its_own_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSN_OF_ORDERS", "host=db1 port=5433 user=backup password=canary")
    postgres = seen_by_a_step(it=PostgresResource(dsn=dg.EnvVar("DSN_OF_ORDERS")))
    assert postgres.server("orders").describe() == "backup@db1:5433/orders"
    assert postgres.dump_source("orders").server.describe() == "backup@db1:5433/orders"
    assert "canary" not in f"{postgres!r} {postgres}"


def test_a_server_is_else_found_by_settings_read_when_the_step_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgres = PostgresResource()
    monkeypatch.setenv("BACKUP_DSN", "host=db2 port=5434 user=backup")
    assert postgres.server("orders").describe() == "backup@db2:5434/orders"
