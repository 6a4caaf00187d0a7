"""Compare, in one run on servers of its own: `python -m benchmarks`.

Results go into a directory, where later runs add to them; a `performance.md` there that marks
places for tables gets them.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console

from benchmarks import (
    backups,
    encryption,
    growth,
    listing,
    plots,
    projection,
    restores,
    results,
    tables,
    verification,
)
from benchmarks.measure import Comparison
from benchmarks.servers import Servers, started

_GROUPS = tuple(tables.SIZES)
_WIDTH = 160
_QUICK = ["--sizes=1", "--tables=10", "--backups=2", "--jobs=2", "--repetitions=1"]


def main(arguments: list[str]) -> None:
    """Measure what was asked for, by default all of it, and show it."""
    if "--quick" in arguments:
        arguments = [*arguments, *_QUICK]
    given = _parser().parse_args(arguments)
    given.output.mkdir(exist_ok=True)
    path = given.output / "performance.json"
    kept = results.read(path)
    if not given.draw:
        with started() as servers:
            machine = results.machine(servers)
            for comparison in _compare(servers, given):
                kept = results.with_new(kept, comparison)
                results.write(path, machine, kept)
                Console(width=_WIDTH).print(tables.on_terminal(*tables.rows([comparison])))
    _draw(given.output, kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_GROUPS, default=_GROUPS)
    parser.add_argument("--draw", action="store_true", help="measure nothing, show what there is")
    parser.add_argument("--sizes", type=int, nargs="+", default=[60, 600], help="MB of SQL")
    parser.add_argument("--tables", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--backups", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small and once: does it still run?")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    return parser


def _compare(servers: Servers, given: argparse.Namespace) -> Iterator[Comparison]:
    repetitions, sizes, jobs = given.repetitions, given.sizes, given.jobs
    comparisons = {
        "backups": lambda: backups.run(servers, repetitions, sizes, jobs),
        "restores": lambda: restores.run(servers, repetitions, sizes, jobs),
        "verification": lambda: verification.run(servers, repetitions, sizes, jobs),
        "encryption": lambda: encryption.run(servers, repetitions, sizes),
        "sizes": lambda: growth.run_sizes(servers, repetitions, sizes),
        "tables": lambda: growth.run_tables(servers, repetitions, given.tables),
        "listing": lambda: listing.run(servers, repetitions, given.backups),
    }
    for group in given.only:
        yield from comparisons[group]()


def _draw(output: Path, kept: list[Comparison]) -> None:
    shown = {}
    for group, found in groupby(kept, key=lambda each: each.group):
        comparisons = list(found)
        plots.draw(output / f"performance-{group}.svg", comparisons)
        shown[group] = tables.rows(comparisons)
        if group == "sizes":
            shown["projection"] = projection.rows(comparisons)
            Console(width=_WIDTH).print(tables.on_terminal(*shown["projection"]))
    document = output / "performance.md"
    if document.exists():
        text = document.read_text()
        for name, rows in shown.items():
            text = tables.fill(text, name, tables.in_document(*rows))
        document.write_text(text)


main(sys.argv[1:])
