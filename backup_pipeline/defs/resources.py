"""What assets need of the outside: a PostgreSQL server, a bucket, and somebody to tell.

Nothing connects and no secret is read before a step asks for it.
"""

from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg
from pydantic import Field

from backup_pipeline.defs.database import Database
from backup_pipeline.engine.names import Keys
from backup_pipeline.errors import InvalidInput
from backup_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dagster_aws.s3 import S3Resource

    from backup_pipeline.engine.dump import DumpSource
    from backup_pipeline.engine.notify import Heartbeat, Outcome
    from backup_pipeline.engine.postgres import Server
    from backup_pipeline.engine.store import ObjectStore
else:
    # dagster_aws takes as long to import as Dagster itself, so it is left to the steps.
    S3Resource = Any


class Databases(Protocol):
    """A server whose databases can be dumped, and that takes restored ones."""

    def dump_source(self, database: str) -> "DumpSource":
        """One of its databases as something that can be dumped."""

    def server(self, database: str) -> "Server":
        """Itself, connected to one of its databases."""

    def drill_server(self, database: str) -> "Server":
        """The server on which backups of a database are restored for a trial."""

    def bin_dirs(self) -> "Sequence[Path]":
        """Where to look for PostgreSQL's client tools."""


class Bucket(Protocol):
    """A bucket with backups under a prefix."""

    def store(self, *, in_haste: bool = False) -> "ObjectStore":
        """The bucket; nothing is sent yet, and `in_haste` no limit on the rate counts."""

    def backup_keys(self) -> Keys:
        """The keys under the prefix."""

    def uri(self, key: str) -> str:
        """Where an object is, without credentials."""


class Notifier(Protocol):
    """Somebody who is told what became of a backup."""

    def send(self, outcome: "Outcome") -> tuple[str, ...]:
        """Tell them; gives the names of the services that did not take it."""

    def beat(self) -> "Heartbeat":
        """Tell a dead man's switch that a backup was verified."""


class PostgresResource(dg.ConfigurableResource[Any]):
    """A PostgreSQL server, found as libpq finds one (`PG*`, a service, a password file)."""

    dsn: str | None = Field(
        default=None,
        description="libpq's connection string, as an EnvVar because it may hold a password; "
        "without it BACKUP_DSN and libpq's own variables decide.",
    )

    recipients: list[str] | None = Field(
        default=None,
        description="Public keys of age for which backups are encrypted, where BACKUP_RECIPIENTS "
        "does not say so: an encrypted dump is read by one pg_dump.",
    )

    def dump_source(self, database: str) -> "DumpSource":
        """A database as something that can be dumped; raises `InvalidInput`."""
        return self._settings(database).source()

    def server(self, database: str) -> "Server":
        """The server, connected to a database; raises `InvalidInput`."""
        return self._settings(database).server()

    def drill_server(self, database: str) -> "Server":
        """As BACKUP_DRILL_DSN says, else the server itself; raises `InvalidInput`."""
        return self._settings(database).drill_server()

    def bin_dirs(self) -> "Sequence[Path]":
        """As BACKUP_PG_BIN_DIRS says, else the usual places; raises `InvalidInput`."""
        return load_settings().clients_dirs()

    def _settings(self, database: str) -> Settings:
        return load_settings(dsn=self.dsn, database=database, recipients=self.recipients)

    def __repr__(self) -> str:
        return "PostgresResource()"

    __str__ = __repr__


class BucketResource(dg.ConfigurableResource[Any]):
    """A bucket, reached as dagster-aws' `S3Resource` says: endpoint, region and credentials.

    Whatever that leaves open comes from boto3's own chain (`AWS_*`, profiles, roles); what it has
    no field for, such as timeouts, comes from the settings (`BACKUP_S3_*`).
    """

    s3: dg.ResourceDependency[S3Resource]
    bucket: str = Field(description="The bucket's name.")
    prefix: str = Field(default="backups/postgres/", description="What its keys begin with.")

    def store(self, *, in_haste: bool = False) -> "ObjectStore":
        """The bucket; raises `InvalidInput` where the `S3Resource` asks for what it can't do.

        `in_haste` it is read without the limit of `BACKUP_LIMIT_RATE`.
        """
        from backup_pipeline.engine.s3 import S3Store
        from backup_pipeline.engine.s3_client import S3Connection

        if self.s3.use_unsigned_session or not self.s3.use_ssl or self.s3.verify is False:
            raise InvalidInput(
                "backups need signed requests, and TLS that is verified or none at all",
                hint="Remove use_unsigned_session, use_ssl and verify from the S3Resource; an "
                "http:// endpoint goes without TLS, and BACKUP_S3_CA_BUNDLE names whom to trust.",
            )
        settings = load_settings()
        return S3Store(
            S3Connection(
                bucket=self.bucket,
                endpoint_url=self.s3.endpoint_url,
                region=self.s3.region_name,
                access_key=self.s3.aws_access_key_id,
                secret_key=self.s3.aws_secret_access_key,
                session_token=self.s3.aws_session_token,
                profile=self.s3.profile_name,
                max_attempts=self.s3.max_attempts,
                ca_bundle=str(settings.s3_ca_bundle) if settings.s3_ca_bundle else None,
                addressing_style=settings.s3_addressing_style,
                request_checksums=settings.s3_checksums,
                connect_timeout=settings.s3_connect_timeout,
                read_timeout=settings.s3_read_timeout,
            ),
            None if in_haste else settings.rate(),
        )

    # Not `keys`, because Dagster calls `dict()` on a resource, which would take it for a mapping.
    def backup_keys(self) -> Keys:
        """The keys under the prefix."""
        return Keys(self.prefix)

    def uri(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{key}"

    def __repr__(self) -> str:
        return f"BucketResource({self.uri(self.prefix)})"

    __str__ = __repr__


class ConfiguredServices:
    """The services of BACKUP_NOTIFY_URLS, whose addresses are secrets and read when used."""

    def send(self, outcome: "Outcome") -> tuple[str, ...]:
        """Tell every service; gives the names of those that did not take it."""
        from backup_pipeline.engine.notify import notify

        urls = [url.get_secret_value() for url in load_settings().notify_urls]
        return notify(urls, outcome)

    def beat(self) -> "Heartbeat":
        """Ping BACKUP_HEARTBEAT_URL."""
        from backup_pipeline.engine.notify import beat

        url = load_settings().heartbeat_url
        return beat(url.get_secret_value() if url else None)


def resources(database: Database, dsn_variable: str | None = None) -> dict[str, Any]:
    """The real resources of a database, by the keys under which its definitions ask for them.

    `dsn_variable` names the environment variable with the connection string, if not `BACKUP_DSN`.
    """
    dsn = dg.EnvVar(dsn_variable) if dsn_variable else None
    settings = database.settings
    bucket = BucketResource(s3=_s3(settings), bucket=settings.bucket, prefix=settings.prefix)
    return {
        database.own("postgres"): PostgresResource(
            dsn=dsn, recipients=list(settings.recipients) or None
        ),
        database.own("bucket"): bucket,
        database.own("notifier"): ConfiguredServices(),
    }


def _s3(settings: Settings) -> dg.ResourceDefinition:
    def s3_resource(_: dg.InitResourceContext) -> "S3Resource":
        from dagster_aws.s3 import S3Resource

        return S3Resource(
            endpoint_url=settings.s3_endpoint_url,
            region_name=settings.s3_region,
            max_attempts=settings.s3_max_attempts,
        )

    return dg.ResourceDefinition(s3_resource)
