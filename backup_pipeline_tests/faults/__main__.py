"""Run the tests of every fault, with all repetitions, and print what became of each row.

`python -m backup_pipeline_tests.faults [NUMBER ...] [-- OPTION OF PYTEST ...]`
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from backup_pipeline_tests.faults.catalogue import TESTS, Fault, read_catalogue

Outcomes = dict[str, Counter[str]]


def main(arguments: Sequence[str]) -> int:
    """Give 0 if every row that is asked for is shown, skipped or not built."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    numbers, options = set(map(int, arguments[:split])), list(arguments[split + 1 :])
    rows = [fault for fault in read_catalogue() if not numbers or fault.number in numbers]
    outcomes, code = run(sorted({test for fault in rows for test in fault.tests}), options)
    verdicts = [verdict(fault, outcomes) for fault in rows]
    for fault, said in zip(rows, verdicts, strict=True):
        print(f"{fault.number:>3}  {fault.fault[:70]:<70}  {said}")  # noqa: T201
    return code or int(any("FAILED" in said for said in verdicts))


def run(tests: Sequence[str], options: Sequence[str]) -> tuple[Outcomes, int]:
    """How each test ended, its parameters counted together; and pytest's exit code."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [
            *(
                sys.executable,
                "-m",
                "pytest",
                f"--junitxml={report}",
                "-o",
                "faulthandler_timeout=0",
            ),
            *options,
            *(str(TESTS / test) for test in tests),
        ]
        env = {**os.environ, "BACKUP_TEST_REPETITIONS": "full"}
        code = subprocess.run(command, cwd=TESTS.parent, env=env, check=False).returncode
        return (outcomes_of(report) if report.is_file() else {}), code


def outcomes_of(report: Path) -> Outcomes:
    """What a report of JUnit's form says; it is our own pytest's."""
    outcomes: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  # written a moment ago by pytest
        bad = {each.tag for each in case} & {"failure", "error", "skipped"}
        how = "failed" if bad - {"skipped"} else "skipped" if bad else "passed"
        outcomes.setdefault(test_of(case.attrib), Counter())[how] += 1
    return outcomes


def test_of(case: dict[str, str]) -> str:
    """The test as the page names it, out of the dotted name of its module and its own."""
    steps = case["classname"].split(".")[1:]
    file = next(i for i, step in enumerate(steps) if step.startswith("test_"))
    name = case["name"].partition("[")[0]
    return "::".join(["/".join(steps[: file + 1]) + ".py", *steps[file + 1 :], name])


def verdict(fault: Fault, outcomes: Outcomes) -> str:
    """What became of a row, in a few words."""
    ends = sum((outcomes.get(test, Counter(missing=1)) for test in fault.tests), Counter())
    counted = ", ".join(f"{count} {how}" for how, count in sorted(ends.items()))
    bad = ends["failed"] or ends["missing"] or not ends["passed"]
    return f"{'FAILED' if bad else 'shown'}  ({counted})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
