"""Where the command line speaks: tables on a terminal, plain lines elsewhere, or one JSON document.

Results go to stdout; everything else goes to stderr.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate

import click

if TYPE_CHECKING:
    from backup_pipeline.engine.model import Progress, Report

# Rich takes half a millisecond for each row.
_MOST_STYLED = 500
_STYLES = {
    "verified": "green",
    "ok": "green",
    "keep": "green",
    "unverified": "yellow",
    "warn": "yellow",
    "expire": "yellow",
    "failed": "red",
    "fail": "red",
}


@dataclass(frozen=True)
class Table:
    """Rows for people, and the same for programs."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]
    """Read once, and only on a terminal; so it may be a generator."""
    plain: Iterable[Sequence[str]] | None = None
    """What goes between tabs where nobody looks; without it the rows themselves."""
    right: frozenset[str] = field(default_factory=frozenset)
    """The columns whose cells are aligned to the right."""


class Output:
    """One command's output."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty() and not as_json

    def document(self, content: object) -> None:
        """The result for programs, if they asked for it."""
        if self.as_json:
            click.echo(json.dumps(content, indent=2, ensure_ascii=False))

    def say(self, *lines: str) -> None:
        """A result for people; beside a JSON document it goes to stderr."""
        for line in lines:
            click.echo(printable(line), err=self.as_json)

    def warn(self, *lines: str) -> None:
        """What people must know although the command goes on."""
        for line in lines:
            click.echo(f"warning: {printable(line)}", err=True)

    def table(self, table: Table) -> None:
        """Rows: drawn on a terminal, between tabs elsewhere, nothing beside a JSON document."""
        if self.as_json:
            return
        if not self.terminal:
            rows = table.rows if table.plain is None else table.plain
            _print("\t".join(map(printable, row)) for row in rows)
            return
        rows = list(table.rows)
        if len(rows) > _MOST_STYLED:
            _print(_columns([table.columns, *rows]))
        else:
            _print_styled(table, rows)

    @contextmanager
    def progress(self) -> "Iterator[Report]":
        """Bars on a terminal's stderr, one for each stage; silence elsewhere."""
        from backup_pipeline.engine.model import silent

        if self.as_json or not sys.stderr.isatty():
            yield silent
            return
        with _bars() as report:
            yield report


def command(run: Callable[Concatenate[Output, ...], None]) -> Callable[..., None]:
    """Add `--json`, and hand the command its output."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @functools.wraps(run)
    def wrapped(*args: Any, as_json: bool, **options: Any) -> None:
        run(Output(as_json=as_json), *args, **options)

    return wrapped


def printable(text: str) -> str:
    """Text that moves no cursor and starts no line, whatever a bucket's keys may hold."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _print(lines: Iterable[str]) -> None:
    if text := "\n".join(lines):
        click.echo(text)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _print_styled(table: Table, rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        drawn.add_column(
            column,
            justify="right" if column in table.right else "left",
            overflow="fold",
            no_wrap=column in table.right,
        )
    for row in rows:
        drawn.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)


@contextmanager
def _bars() -> "Iterator[Report]":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    tasks: dict[str, Any] = {}
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def report(progress: "Progress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total)
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total)

        yield report
