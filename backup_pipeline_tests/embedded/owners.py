"""Processes that own servers, to be killed; and what they leave behind."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def owner(script: str, *arguments: Path) -> Iterator["subprocess.Popen[str]"]:
    """A Python process of its own that runs `script`; killed at the end if it still lives."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """All that a process has started, and what those have."""
    return psutil.Process(process.pid).children(recursive=True)


def kill_with_children(process: "subprocess.Popen[str]") -> None:
    """Kill what still runs: a pg_dump would outlive its parent, and spoil the next test."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()


def children_named(*names: str) -> list[psutil.Process]:
    """What this process runs under one of these names.

    Its servers' processes are among those that are looked at, and come and go meanwhile.
    """
    return [each for each in psutil.Process().children(recursive=True) if name_of(each) in names]


def name_of(process: psutil.Process) -> str | None:
    """The name of a process, or `None` where it is gone."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return None


def survivors(processes: list[psutil.Process], timeout: float = 15) -> list[psutil.Process]:
    """Those that have not ended within some seconds."""
    deadline = time.monotonic() + timeout
    while (alive := [each for each in processes if _lives(each)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended stays a zombie until its parent looks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    """The addresses on which processes accept TCP connections."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
