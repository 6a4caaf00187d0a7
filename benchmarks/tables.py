"""Results as tables: for a terminal and for a document."""

import re
from collections.abc import Sequence

from rich.table import Table

from benchmarks.measure import Comparison, Run, median, ratio

MEGABYTES = "SQL, MB"
SIZES = {
    "backups": MEGABYTES,
    "restores": MEGABYTES,
    "verification": MEGABYTES,
    "encryption": MEGABYTES,
    "sizes": MEGABYTES,
    "tables": "tables",
    "listing": "backups",
}
_MORE = {
    "CPU s": ("cpu_seconds", 1),
    "PostgreSQL CPU s": ("postgres_cpu_seconds", 1),
    "S3 CPU s": ("s3_cpu_seconds", 1),
    "largest process, MiB": ("peak_mib", 0),
    "all processes, MiB": ("tree_mib", 0),
    "others CPU s": ("others_cpu_seconds", 1),
}


def rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The heading and the rows of the table of one group."""
    first = comparisons[0]
    size = SIZES[first.group]
    speed = ["MB/s"] if size == MEGABYTES else []
    ratios = [f"of {name}" for name in first.baselines]
    return [
        [size, "command", "seconds", *speed, *ratios, *_MORE],
        *(
            _row(comparison, name, runs)
            for comparison in comparisons
            for name, runs in comparison.runs.items()
        ),
    ]


def _row(comparison: Comparison, name: str, runs: Sequence[Run]) -> list[str]:
    seconds = median(runs, "seconds")
    speed = [f"{comparison.size / seconds:.0f}"] if SIZES[comparison.group] == MEGABYTES else []
    ratios = [f"{ratio(runs, comparison.runs[base]):.2f}" for base in comparison.baselines]
    more = [f"{median(runs, what):.{digits}f}" for what, digits in _MORE.values()]
    return [f"{comparison.size:,}", name, f"{seconds:.2f}", *speed, *ratios, *more]


def on_terminal(heading: Sequence[str], *body: Sequence[str]) -> Table:
    """The rows for people who wait."""
    table = Table(*heading)
    for row in body:
        table.add_row(*row)
    return table


def in_document(heading: Sequence[str], *body: Sequence[str]) -> str:
    """The rows in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (heading, *body)]
    escaped.insert(1, ["---"] * len(heading))
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def fill(text: str, name: str, table: str) -> str:
    """A document with the table between its marks `<!-- name -->` and `<!-- / -->`."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- / -->)", re.DOTALL)
    return marked.sub(lambda found: found[1] + table + found[2], text)
