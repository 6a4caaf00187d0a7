"""The table of `docs/reliability.md`: each fault, and the tests that show what becomes of it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
_CONTRACT = "StoreContract"
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


def read_catalogue() -> tuple[Fault, ...]:
    """Every row of the page, in its order."""
    found = []
    for row in _ROW.finditer(PAGE.read_text()):
        fault, promised, _, tests = (cell.strip() for cell in row[2].split(" | ", 3))
        found.append(Fault(int(row[1]), fault, promised, tuple(_TEST.findall(tests))))
    return tuple(found)


def defined_tests(path: Path) -> Iterator[str]:
    """The tests that a file defines, as `test_this` or `TestThat::test_this`.

    What a class inherits from the contract of stores counts too.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{name}" for name in _methods(node))
            if any(isinstance(base, ast.Name) and base.id == _CONTRACT for base in node.bases):
                contract = defined_tests(TESTS / "store_contract.py")
                yield from (name.replace(_CONTRACT, node.name) for name in contract)


def is_defined(test: str) -> bool:
    """Whether there is such a test, whatever its parameters."""
    path, _, name = test.partition("[")[0].partition("::")
    return (TESTS / path).is_file() and name in defined_tests(TESTS / path)


def _methods(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_"):
            yield each.name
