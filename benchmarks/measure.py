"""What a command takes: a process of its own from start to end, in time, CPU and memory.

Contenders are compared in one run, one after the other, again and again: a machine that changes
its pace meets all of them alike.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from benchmarks.servers import Servers

_LAUNCH = (sys.executable, "-I", "-S", Path(__file__).with_name("launch.py"))
_SAMPLED_EVERY = 0.25
_SETTLING = 0.2
"""Seconds until the server has waited for the backends whose clients are gone."""


@dataclass(frozen=True, slots=True)
class Run:
    """One finished command, and what the servers did for it meanwhile."""

    seconds: float
    cpu_seconds: float
    """Of the process and all of its children."""
    peak_mib: float
    """Of the largest single process, by the operating system's account."""
    tree_mib: float
    """Of all of its processes at once, shared memory counted once; looked at 4 times a second."""
    postgres_cpu_seconds: float
    s3_cpu_seconds: float
    others_cpu_seconds: float
    """Of everything else on the machine, the benchmark included: how far to trust the rest."""


@dataclass(frozen=True)
class Contender:
    """A command that takes part in a comparison."""

    name: str
    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside the servers'."""
    clean_up: Callable[[], object] = lambda: None
    """Makes room for the next; not measured."""


@dataclass(frozen=True)
class Comparison:
    """What came out of one: the runs of each contender, in the order of repetitions."""

    group: str
    size: int
    """MB of SQL, or how many tables or backups there were."""
    runs: Mapping[str, Sequence[Run]]
    baselines: Sequence[str] = ()
    """Contenders that the others are measured by."""
    facts: Mapping[str, float] = field(default_factory=dict)


def compare(
    servers: Servers, database: str, contenders: Sequence[Contender], repetitions: int
) -> dict[str, list[Run]]:
    """Run the contenders in turn, in every second repetition from the last to the first."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for repetition in range(repetitions):
        for contender in contenders[:: -1 if repetition % 2 else 1]:
            env = {**servers.environment(database), **contender.env}
            measured = measure(contender.argv, env, servers)
            contender.clean_up()
            runs[contender.name].append(measured)
            print(f"{repetition + 1} {database} {contender.name}: {measured}", file=sys.stderr)
    return runs


def measure(argv: Sequence[str | Path], env: Mapping[str, str], servers: Servers) -> Run:
    """Run a command to its end; ends the benchmark where it fails."""
    before = _Clocks.read(servers)
    with tempfile.NamedTemporaryFile() as took, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*_LAUNCH, took.name, *argv], env=dict(env), stdout=output, stderr=output
        )
        with _Sampler(process.pid) as sampler:
            process.wait()
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{argv}: {output.read().decode()}")
        seconds, cpu_seconds, peak_mib = map(float, took.read().split())
    time.sleep(_SETTLING)
    after = _Clocks.read(servers)
    postgres, s3 = after.postgres - before.postgres, after.s3 - before.s3
    return Run(
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        peak_mib=round(peak_mib, 1),
        tree_mib=round(max(sampler.peak_mib, peak_mib), 1),
        postgres_cpu_seconds=round(postgres, 2),
        s3_cpu_seconds=round(s3, 2),
        others_cpu_seconds=round(after.all - before.all - cpu_seconds - postgres - s3, 2),
    )


def median(runs: Sequence[Run], what: str) -> float:
    """The median of one figure."""
    return float(statistics.median(getattr(run, what) for run in runs))


def ratio(runs: Sequence[Run], baseline: Sequence[Run]) -> float:
    """The median over the repetitions of time over the baseline's time in the same repetition."""
    pairs = zip(runs, baseline, strict=True)
    return float(statistics.median(run.seconds / base.seconds for run, base in pairs))


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU seconds so far: of each server, and of the whole machine."""

    postgres: float
    s3: float
    all: float

    @classmethod
    def read(cls, servers: Servers) -> Self:
        times = psutil.cpu_times()
        return cls(*servers.cpu_seconds(), sum(times) - times.idle - times.iowait - times.guest)


class _Sampler:
    """Looks at the memory of what a process has started while the block lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLED_EVERY):
            self.peak_mib = max(self.peak_mib, _pss(self._pid) / (1 << 20))


def _pss(pid: int) -> int:
    """Bytes of all descendants of a process; what has just ended counts nothing."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(map(_own_pss, psutil.Process(pid).children(recursive=True)))
    return 0


def _own_pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0
