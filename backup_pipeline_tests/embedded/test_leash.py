"""A command on a leash ends with its owner, however that ends."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from backup_pipeline.embedded.leash import Command, Leashed
from backup_pipeline_tests.embedded.owners import descendants, line_of, owner, survivors

GREETING = "echo started; "
OWNER = """
import sys, time
from pathlib import Path
from backup_pipeline.embedded.leash import Command, Leashed
directory = Path(sys.argv[1])
script = "sleep 300 & echo started; wait"
command = Command(["sh", "-c", script], {"PATH": "/bin:/usr/bin"}, directory)
leashed = Leashed(command, directory / "log")
while "started" not in (directory / "log").read_text():
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def shell(script: str, log: Path, *, grace: float = 5, litter: Path | None = None) -> Leashed:
    """A shell script on a leash that has got past its greeting."""
    command = Command(
        ["sh", "-c", GREETING + script],
        {"PATH": os.defpath},
        log.parent,
        grace=grace,
        litter=[litter] if litter else [],
    )
    leashed = Leashed(command, log)
    await_text(log, "started")
    return leashed


def await_text(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_that_ends_by_itself_is_seen_to_have_ended(log: Path) -> None:
    leashed = shell("exit 3", log)
    deadline = time.monotonic() + 10
    while leashed.running():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert leashed.stop() == 3


def test_stop_sends_the_signal_and_waits(log: Path) -> None:
    leashed = shell("trap 'sleep 0.2; echo bye; exit 7' TERM; echo armed; sleep 300 & wait", log)
    await_text(log, "armed")
    assert leashed.running()
    assert leashed.stop() == 7
    assert log.read_text().endswith("bye\n")


def test_stop_may_be_asked_for_twice(log: Path) -> None:
    leashed = shell("sleep 300", log)
    assert leashed.stop() == leashed.stop()


def test_a_command_that_ignores_the_signal_is_killed_after_the_grace(log: Path) -> None:
    leashed = shell("trap '' TERM; echo armed; while :; do sleep 300; done", log, grace=0.2)
    await_text(log, "armed")
    asked = time.monotonic()
    assert leashed.stop() == 128 + signal.SIGKILL
    assert time.monotonic() - asked < 5


def test_what_the_command_started_ends_with_it(log: Path) -> None:
    child = "(trap '' TERM; touch armed; exec sleep 300) & echo pid $!.; "
    leashed = shell(child + "until [ -e armed ]; do sleep 0.01; done", log)
    await_text(log, ".")
    pid = int(log.read_text().split("pid ")[1].split(".")[0])
    while leashed.running():
        time.sleep(0.01)
    assert not psutil.pid_exists(pid) or survivors([psutil.Process(pid)], 5) == []
    leashed.stop()


def test_files_that_a_killed_command_leaves_are_removed(log: Path, tmp_path: Path) -> None:
    litter = tmp_path / "some.sock"
    leashed = shell(f"touch {litter}; echo made; kill -9 $$", log, litter=litter)
    await_text(log, "made")
    leashed.stop()
    assert not litter.exists()


def test_the_log_begins_anew(log: Path) -> None:
    log.write_text("old")
    shell("exit 0", log).stop()
    assert log.read_text() == "started\n"


def test_an_owner_that_is_killed_takes_the_command_along(tmp_path: Path) -> None:
    with owner(OWNER, tmp_path) as process:
        assert line_of(process) == "ready"
        started = descendants(process)
        assert len(started) >= 3  # the leash, the shell, the sleep
        process.kill()
        assert survivors(started) == []


def test_a_leash_that_is_asked_to_end_takes_the_command_along(tmp_path: Path) -> None:
    with owner(OWNER, tmp_path) as process:
        assert line_of(process) == "ready"
        started = descendants(process)
        (leash,) = psutil.Process(process.pid).children()
        leash.terminate()
        assert survivors(started) == []


def test_ctrl_c_on_the_terminal_does_not_reach_the_command(tmp_path: Path) -> None:
    with owner(OWNER, tmp_path) as process:
        assert line_of(process) == "ready"
        sessions = {os.getsid(child.pid) for child in descendants(process)}
        assert os.getsid(process.pid) not in sessions
