"""The benchmarks still run, measure what they say, and show it; a small part of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKED = "before\n<!-- tables -->\nold\n<!-- / -->\nafter\n"


def test_a_quick_run_measures_draws_and_fills_in_the_document(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text(MARKED)
    bench("--quick", "--only", "verification", "tables", "--output", str(tmp_path))
    results = json.loads((tmp_path / "performance.json").read_text())
    gunzip, backup = run(results, "gunzip -t"), run(results, "backup")
    # The operating system counts what a process held before it became the command, and this
    # benchmark holds far more.
    assert gunzip["peak_mib"] < 20 < backup["peak_mib"]
    assert backup["cpu_seconds"] > gunzip["cpu_seconds"]
    assert backup["postgres_cpu_seconds"] > 0
    document = (tmp_path / "performance.md").read_text()
    assert document.startswith("before\n<!-- tables -->\n| tables | command | seconds |")
    assert document.endswith("|\n<!-- / -->\nafter\n")
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawn == ["performance-tables.svg", "performance-verification.svg"]


def bench(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


def run(results: dict[str, Any], contender: str) -> dict[str, float]:
    (found,) = (
        each["runs"][contender][0] for each in results["comparisons"] if contender in each["runs"]
    )
    return dict(found)
