"""The table of `docs/reliability.md`: each fault, and the tests that show what becomes of it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NOT_BUILT = "not built yet"

_ROW = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py(?:::\w+)+)`")


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table."""

    number: int
    fault: str
    promised: str
    tests: tuple[str, ...]
    """As pytest names them, below the directory of the tests, without parameters."""

    @property
    def is_built(self) -> bool:
        """Whether there is anything that could be shown."""
        return not self.promised.startswith(NOT_BUILT)


def read_catalogue() -> tuple[Fault, ...]:
    """Every row of the page, in its order."""
    found = []
    for row in _ROW.finditer(PAGE.read_text()):
        fault, promised, _, tests = (cell.strip() for cell in row[2].split(" | ", 3))
        found.append(Fault(int(row[1]), fault, promised, tuple(_TEST.findall(tests))))
    return tuple(found)


def defined_tests(path: Path) -> Iterator[str]:
    """The tests that a file defines, as `test_this` or `TestThat::test_this`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
                    yield f"{node.name}::{each.name}"
