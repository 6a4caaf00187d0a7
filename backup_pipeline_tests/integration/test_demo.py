"""`backup-pipeline dev` serves Dagster's UI, and whatever it started ends with it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.embedded.ports import choose_ports
from backup_pipeline_tests.embedded.owners import descendants, survivors

CLI = Path(sys.executable).with_name("backup-pipeline")
PATIENCE = 120


@pytest.fixture
def port(tmp_path: Path) -> int:
    return choose_ports(1, tmp_path / "port")[0]


@pytest.fixture
def dev(scratch: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [str(CLI), "dev", f"--directory={scratch}", "--megabytes=2", f"--port={port}"]
    process = subprocess.Popen(command, cwd=scratch, stdout=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_dev_serves_the_ui_and_leaves_no_process(
    dev: subprocess.Popen[str], port: int, sign: signal.Signals
) -> None:
    page = answer(f"http://127.0.0.1:{port}/server_info", dev)
    assert b"dagster_webserver_version" in page
    started = descendants(dev)
    assert len(started) > 5
    os.kill(dev.pid, sign)
    assert dev.wait(timeout=30) == (130 if sign is signal.SIGTERM else -signal.SIGKILL)
    assert survivors(started, timeout=30) == []


def answer(url: str, server: subprocess.Popen[str]) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert server.poll() is None
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # ours, on loopback
                page: bytes = reply.read()
                return page
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
