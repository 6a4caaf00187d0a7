"""The policies of docs/security.md, and a server on which somebody has each of them."""

import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backup_pipeline.embedded.s3 import EmbeddedS3, S3Access

SECURITY = Path(__file__).parents[1] / "docs" / "security.md"
_BLOCK = re.compile(r"^### `(\w+)`\n(?:(?!#|```).*\n)*```json\n((?:(?!```).*\n)*)```", re.MULTILINE)
_DOCUMENTED = "options-data"


def documented() -> dict[str, str]:
    """The policies by their names, each as the page has it."""
    return dict(_BLOCK.findall(SECURITY.read_text()))


@dataclass(frozen=True)
class Guarded:
    """A bucket, who may do everything there, and who may do what a policy says."""

    bucket: str
    admin: S3Access
    holders: Mapping[str, S3Access]


@contextmanager
def on_seaweedfs(directory: Path) -> Iterator[Guarded]:
    """A server of its own; its configuration names everybody, which the embedded one's does not."""
    keys = {name: (secrets.token_hex(10), secrets.token_hex(20)) for name in ("", *documented())}
    identities = [
        {
            "name": name or "admin",
            "credentials": [{"accessKey": access, "secretKey": secret}],
            **({"policyNames": [name]} if name else {"actions": ["Admin"]}),
        }
        for name, (access, secret) in keys.items()
    ]
    policies = [{"name": name, "content": text} for name, text in documented().items()]
    server = EmbeddedS3(directory / "s3")
    configuration = server.beside(".json")
    configuration.touch(mode=0o600)
    configuration.write_text(json.dumps({"identities": identities, "policies": policies}))
    with server:
        server.create_bucket(_DOCUMENTED)
        holders = {name: S3Access(server.endpoint_url, *keys[name]) for name in documented()}
        yield Guarded(_DOCUMENTED, server.access, holders)


@contextmanager
def on_minio(admin: S3Access, client: str, bucket: str) -> Iterator[Guarded]:
    """The server that was named from outside, where MinIO's own client makes the users."""
    host = admin.endpoint_url.replace("://", f"://{admin.access_key}:{admin.secret_key}@")
    holders = {}
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory:
        env = {"PATH": os.defpath, "HOME": directory, "MC_HOST_test": host}

        def mc(*arguments: str, typed: str = "") -> None:
            subprocess.run(
                [client, "admin", *arguments],
                env=env,
                input=typed,
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )

        for name, text in documented().items():
            file, user = Path(directory, name), f"{name}-{secrets.token_hex(4)}"
            file.write_text(text.replace(_DOCUMENTED, bucket))
            secret = secrets.token_hex(20)
            mc("policy", "create", "test", user, str(file))
            mc("user", "add", "test", user, secret)
            mc("policy", "attach", "test", user, "--user", user)
            holders[name] = S3Access(admin.endpoint_url, user, secret, admin.region)
        yield Guarded(bucket, admin, holders)
        for holder in holders.values():
            mc("user", "remove", "test", holder.access_key)
            mc("policy", "remove", "test", holder.access_key)


def require_client(outside: Mapping[str, str]) -> str:
    """MinIO's client as `BACKUP_TEST_MC` names it; skips without it."""
    client = outside.get("BACKUP_TEST_MC")
    if not client:
        pytest.skip("BACKUP_TEST_MC names no client that could make users on that server")
    return client
