"""How to reach a bucket, and the botocore client that does."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from backup_pipeline.engine.s3_listing import cut_listings
from backup_pipeline.errors import InvalidInput

if TYPE_CHECKING:
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class S3Connection:
    """How to reach a bucket; `None` leaves a value to boto3's own chain.

    That chain is boto3's as everywhere: `AWS_*` of the environment (`AWS_ENDPOINT_URL_S3` too),
    profiles, roles of the machine.
    """

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    ca_bundle: str | None = None
    """A file with the certificates to trust, for a store with a certificate of its own."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    request_checksums: Literal["when_supported", "when_required"] | None = None
    """`when_required` for stores that reject the checksums boto3 adds since version 1.36."""
    max_attempts: int = 5
    connect_timeout: float = 10
    """Seconds."""
    read_timeout: float = 60
    """Seconds without a single byte."""
    max_connections: int = 10


def connect(connection: S3Connection) -> "S3Client":
    """A client with a session of its own; nothing is sent yet."""
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session(profile=connection.profile)
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    # Listings are long, and botocore's own way of reading a date takes most of their time.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    options: dict[str, Any] = {}
    if connection.request_checksums:
        options["request_checksum_calculation"] = connection.request_checksums
        options["response_checksum_validation"] = connection.request_checksums
    try:
        client = session.create_client(
            "s3",
            region_name=connection.region,
            endpoint_url=connection.endpoint_url,
            verify=connection.ca_bundle,
            aws_access_key_id=connection.access_key,
            aws_secret_access_key=connection.secret_key,
            aws_session_token=connection.session_token,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": connection.max_attempts},
                connect_timeout=connection.connect_timeout,
                read_timeout=connection.read_timeout,
                max_pool_connections=connection.max_connections,
                s3={"addressing_style": connection.addressing_style},
                **options,
            ),
        )
    except ValueError as error:
        raise InvalidInput(
            f"the endpoint {connection.endpoint_url!r} is no URL",
            hint="AWS_ENDPOINT_URL_S3 looks like https://nas.example.org:9000.",
        ) from error
    if "@" in urlsplit(client.meta.endpoint_url).netloc:
        raise InvalidInput(
            "the URL of the store holds a user name or a password",
            hint="Give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead.",
        )
    cut_listings(client)
    return cast("S3Client", client)


@cache
def _models(path: str | None) -> "Loader":
    """S3's model and endpoints, read from the disk once for all clients of a process."""
    from botocore.loaders import create_loader

    return create_loader(path)


def read_time(value: Any) -> datetime:
    """A time as any store writes it; several times faster than botocore where it is ISO 8601."""
    from botocore.utils import parse_timestamp

    if isinstance(value, str) and value[4:5] == "-":
        return datetime.fromisoformat(value)
    return parse_timestamp(value)
