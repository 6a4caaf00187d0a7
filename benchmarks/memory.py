"""Peak memory of a backup, a verification and a restore: the same whatever the size?

Each is a run of the command line in a process of its own, as an operator would start it; the
operating system's account of the finished process tells its peak.
Sizes alternate, so that a machine that changes its pace meets both alike.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.embedded.sample import load_sample

BUCKET = "benchmarks"
VERBS = ("backup", "verify", "restore")
CLI = (str(Path(sys.executable).with_name("backup-pipeline")),)


RESTORED = "restored"
ARGUMENTS = {
    "backup": ("backup", "--json"),
    "verify": ("verify", "--latest", "--json"),
    "restore": ("restore", "--latest", "--into", RESTORED, "--no-confirm", "--json"),
}


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(repetitions: int, small: int, large: int, verbs: Sequence[str] = VERBS) -> None:
    """Back up, verify and restore databases of two sizes (MB of SQL), and compare the peaks."""
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as scratch,
        EmbeddedPostgres(Path(scratch) / "postgres", durable=False) as postgres,
        EmbeddedS3(Path(scratch) / "s3") as s3,
    ):
        s3.create_bucket(BUCKET)
        env = {**os.environ, **postgres.environment(), **s3.environment(), "BACKUP_BUCKET": BUCKET}
        for size in (small, large):
            load_sample(postgres.dsn(f"sample_{size}"), megabytes=size)
        for repetition in range(repetitions):
            for size in (small, large):
                database = {**env, "PGDATABASE": f"sample_{size}"}
                for verb in verbs:
                    measured = measure([*CLI, *ARGUMENTS[verb]], database)
                    runs[verb, size].append(measured)
                    print(f"{repetition} {verb} {size} MB: {measured}", file=sys.stderr)
                drop(postgres, RESTORED)
    show(runs, small)


def measure(command: list[str], env: Mapping[str, str]) -> Run:
    """Run a command to its end; raises where it fails."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(output.read().decode())
    # Linux counts in KiB.
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def drop(postgres: EmbeddedPostgres, database: str) -> None:
    """Make room for the next repetition."""
    import psycopg

    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{database}"')


def show(runs: Mapping[tuple[str, int], list[Run]], small: int) -> None:
    """Medians, and the larger one's peak over the smaller one's."""
    table = Table("verb", "SQL, MB", "seconds", "CPU seconds", "peak MiB", "peak / smaller's")
    for (verb, size), measured in runs.items():
        peak = median(measured, "peak_mib")
        table.add_row(
            verb,
            str(size),
            f"{median(measured, 'seconds'):.1f}",
            f"{median(measured, 'cpu_seconds'):.1f}",
            f"{peak:.0f}",
            f"{peak / median(runs[verb, small], 'peak_mib'):.2f}",
        )
    Console(width=100).print(table)
    print(json.dumps({f"{verb} {size}": [vars(r) for r in m] for (verb, size), m in runs.items()}))


def median(measured: list[Run], what: str) -> float:
    """The median of one figure."""
    return float(statistics.median(getattr(each, what) for each in measured))
