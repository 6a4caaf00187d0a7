"""A leash: runs a command in a session of its own and ends it when the owner does.

The owner holds the only writing end of a pipe; the leash reads the other one.  However the owner
ends, by returning, by an exception or by SIGKILL, the kernel closes the pipe, and the leash ends
the command.  Nothing but the standard library is imported here: the file is also run as a script.
"""

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STDIN = 0


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on a leash, and how to end it."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 30.0
    """Seconds between the stop signal and SIGKILL."""
    user: tuple[int, int] | None = None
    """The uid and gid to run as; only root may give them."""
    litter: Sequence[Path] = ()
    """Files that the command may leave behind, removed after its end."""


class Leashed:
    """A command that runs on a leash.

    The leash is held by this object; a child that the owner forks without exec holds it too.
    """

    def __init__(self, command: Command, log: Path, *, keep_open: Iterable[int] = ()) -> None:
        """Start `command`, its output written to `log`, which begins anew.

        `keep_open` are file descriptors, such as a lock's, that the leash keeps until the end of
        the command.
        """
        with log.open("wb") as output:
            self._leash = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    __file__,
                    *_options(command),
                    "--",
                    *command.arguments,
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(command.environment),
                cwd=command.directory,
                start_new_session=True,
                pass_fds=tuple(keep_open),
            )

    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._leash.poll() is None

    def wait(self) -> int:
        """Wait for the command to end by itself, and give its exit code."""
        return self._leash.wait()

    def stop(self) -> int:
        """End the command, wait for it, and give its exit code (128 + n after signal n)."""
        if self._leash.stdin:
            self._leash.stdin.close()
        return self._leash.wait()


def _options(command: Command) -> list[str]:
    options = [f"--signal={int(command.stop_signal)}", f"--grace={command.grace}"]
    if command.user:
        options.append("--user={}:{}".format(*command.user))
    return options + [f"--remove={path}" for path in command.litter]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("leash", description="Run COMMAND until stdin ends.")
    parser.add_argument("--signal", type=int, default=int(signal.SIGTERM))
    parser.add_argument("--grace", type=float, default=30.0)
    parser.add_argument("--user", type=lambda text: tuple(map(int, text.split(":"))))
    parser.add_argument("--remove", action="append", default=[], type=Path)
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def _listen_for_signals() -> int:
    """A descriptor on which the number of every signal that arrives can be read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    # Handlers, not SIG_IGN: the command would inherit a signal that is ignored.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reading


def _wait_for_reason(child: "subprocess.Popen[bytes]", signals: int) -> None:
    """Return when the command has ended or is to be ended."""
    while child.poll() is None:
        ready, _, _ = select.select([STDIN, signals], [], [])
        if STDIN in ready and not os.read(STDIN, 512):
            return
        if signals in ready and signal.SIGTERM in os.read(signals, 512):
            return


def _end(child: "subprocess.Popen[bytes]", stop_signal: int, grace: float) -> int:
    """End the command's whole process group, and wait for the command."""
    if child.poll() is None:
        _signal_group(child, stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal_group(child, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _signal_group(child: "subprocess.Popen[bytes]", number: int) -> None:
    # macOS answers EPERM instead of ESRCH for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def main(arguments: Sequence[str]) -> int:
    """Run a command until it ends, or until stdin reaches its end or SIGTERM arrives."""
    options = _parse(arguments)
    signals = _listen_for_signals()
    uid, gid = options.user or (None, None)
    child = subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=uid,
        group=gid,
        extra_groups=[] if options.user else None,
    )
    _wait_for_reason(child, signals)
    code = _end(child, options.signal, options.grace)
    for path in options.remove:
        path.unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
