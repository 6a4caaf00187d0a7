"""Take out the guards one by one: a test has to fail each time.

`python -m backup_pipeline_tests.faults.mutations [WORD ...]` does it in a copy, and names those
that no test noticed; words choose by the guard's sentence or its file.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backup_pipeline_tests.faults.catalogue import TESTS
from backup_pipeline_tests.faults.guards import MUTATIONS, Mutation

ROOT = TESTS.parent
COPIED = ("backup_pipeline", "backup_pipeline_tests", "docs", "pyproject.toml")
TESTS_FAILED = 1
"""pytest's exit code; any other one but 0 is trouble of its own, and no proof."""


@contextmanager
def a_copy() -> Iterator[Path]:
    """The project in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory:
        for name in COPIED:
            source, target = ROOT / name, Path(directory, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(directory)


@contextmanager
def taken_out(mutation: Mutation, copy: Path) -> Iterator[None]:
    """The copy is without the guard while the block lasts."""
    path = copy / mutation.path
    before = path.read_text()
    assert before.count(mutation.old) == 1, f"{mutation.guard}: {mutation.file} has changed"
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        path.write_text(before)


def run_tests(copy: Path, tests: Sequence[str], *options: str) -> int:
    """Run tests of the copy; gives pytest's exit code."""
    command = [
        *(sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
        *options,
        *(str(copy / "backup_pipeline_tests" / test) for test in tests),
    ]
    # The commands that tests start shall find the copy as well.
    env = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, check=False).returncode


def main(words: Sequence[str]) -> int:
    """Give 0 if a test noticed the absence of each guard."""
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not words or any(word in f"{mutation.file} {mutation.guard}" for word in words)
    ]
    with a_copy() as copy:
        survivors = [mutation.guard for mutation in chosen if not _is_noticed(mutation, copy)]
        # A test that fails anyway proves nothing.
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        whole = run_tests(copy, tests)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} guards can not be taken out unnoticed")  # noqa: T201
    for guard in survivors:
        print(f"NOT NOTICED: {guard}")  # noqa: T201
    if whole:
        print("the tests fail with every guard in place")  # noqa: T201
    return int(bool(survivors) or whole != 0)


def _is_noticed(mutation: Mutation, copy: Path) -> bool:
    with taken_out(mutation, copy):
        noticed = run_tests(copy, mutation.tests) == TESTS_FAILED
    said = "noticed" if noticed else "NOT"
    print(f"{said:<7}  {mutation.file:<14} {mutation.guard}", flush=True)  # noqa: T201
    return noticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
