"""The embedded S3 server: real, private, lasting, and gone when its owner is."""

import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

from backup_pipeline.embedded import server as embedded_server
from backup_pipeline.embedded.ports import LOOPBACK, choose_ports
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.errors import Refused
from backup_pipeline_tests.embedded.owners import (
    children_named,
    descendants,
    line_of,
    listening_addresses,
    owner,
    survivors,
)

SOCKETS = Path("/tmp")  # noqa: S108 - where weed makes them
OWNER = """
import sys, time
from pathlib import Path
from backup_pipeline.embedded.s3 import EmbeddedS3
with EmbeddedS3(Path(sys.argv[1])) as server:
    print(*server.ports, flush=True)
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    with EmbeddedS3(tmp_path_factory.mktemp("s3") / "s3") as server:
        yield server


def weed() -> list[psutil.Process]:
    """The servers that this process runs."""
    return children_named("weed")


def sockets_of(ports: tuple[int, ...]) -> list[Path]:
    numbers = {str(port + offset) for port in ports for offset in (0, 10_000)}
    return [
        path for path in SOCKETS.glob("seaweedfs-*.sock") if path.stem.split("-")[-1] in numbers
    ]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nothing_but_the_loopback_address_listens(running: EmbeddedS3) -> None:
    assert listening_addresses(weed()) == {LOOPBACK}


def test_it_talks_to_nobody_outside(running: EmbeddedS3) -> None:
    for process in weed():
        assert "-master.telemetry=false" in process.cmdline()
        peers = {connection.raddr[:1] for connection in process.net_connections("inet")}
        assert peers <= {(), (LOOPBACK,)}


def test_unsigned_requests_are_refused(running: EmbeddedS3) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403") as raised:
        urllib.request.urlopen(running.endpoint_url)  # noqa: S310 - our own URL
    raised.value.close()


def test_another_secret_is_refused(running: EmbeddedS3) -> None:
    client = replace(running.access, secret_key=running.secret_key[::-1]).client()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client.list_buckets()


def test_secrets_are_nobody_elses_to_read(running: EmbeddedS3) -> None:
    assert mode(running.beside(".json")) == 0o600
    assert mode(running.data_dir) == 0o700
    assert running.secret_key not in repr(running) + repr(running.access)
    for process in weed():
        assert running.secret_key not in " ".join(process.cmdline())


def test_a_bucket_is_made_once_and_never_by_accident(running: EmbeddedS3) -> None:
    running.create_bucket("made")
    running.create_bucket("made")
    client = running.access.client()
    assert "made" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.put_object(Bucket="never-made", Key="k", Body=b"v")


def test_the_environment_is_all_that_boto3_needs(
    running: EmbeddedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    client = boto3.session.Session().client("s3")
    assert client.list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_the_next_start_finds_the_objects_the_keys_and_the_port(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path / "s3") as server:
        before = server.access
        server.create_bucket("kept")
        before.client().put_object(Bucket="kept", Key="k", Body=b"v" * 100_000)
        ports = server.ports
        processes = weed()
    assert len(survivors(processes, 0)) == len(processes) - 1
    assert sockets_of(ports) == []
    with EmbeddedS3(tmp_path / "s3") as again:
        assert again.access == before
        body = again.access.client().get_object(Bucket="kept", Key="k")["Body"].read()
        assert body == b"v" * 100_000


def test_a_second_server_on_the_same_data_is_refused(running: EmbeddedS3) -> None:
    second = EmbeddedS3(running.data_dir)
    second.lock_timeout = 0
    with pytest.raises(Refused, match="another process"):
        second.start()


def test_an_owner_that_is_killed_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    with owner(OWNER, tmp_path / "s3") as process:
        ports = tuple(map(int, line_of(process).split()))
        started = descendants(process)
        assert sockets_of(ports)
        process.kill()
        assert survivors(started) == []
    assert sockets_of(ports) == []


def test_a_server_that_is_killed_leaves_no_socket(tmp_path: Path) -> None:
    before = weed()
    with EmbeddedS3(tmp_path / "s3") as server:
        ports = server.ports
        (process,) = (each for each in weed() if each not in before)
        process.kill()
    assert sockets_of(ports) == []


def test_a_port_that_is_taken_at_the_last_moment_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as rival:
        taken = rival.getsockname()[1]
        choose = choose_ports
        first = [(*choose(3, tmp_path / "x", offset=10_000), taken, *choose(1, tmp_path / "y"))]
        monkeypatch.setattr(
            embedded_server,
            "choose_ports",
            lambda *args, **options: first.pop() if first else choose(*args, **options),
        )
        with EmbeddedS3(tmp_path / "s3") as server:
            assert taken not in server.ports
            assert not first
            server.create_bucket("works")
