"""Patterns: `schema.table` as pg_dump's `--table` has it."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(r'(?P<quoted>"(?:[^"]|"")*")|(?P<wild>[*?])|(?P<dot>\.)|(?P<other>[^"*?.]+)')


def qualified(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
    """What schema and table have to be; `None` unless the pattern is two names with a dot between.

    As in pg_dump, `*` is any characters, `?` any one, letters are made small, and within double
    quotes everything stands for itself (manual, psql, "Patterns").
    """
    parts, at = [""], 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            return None
        at = token.end()
        if token["dot"]:
            parts.append("")
        else:
            parts[-1] += _expression(token)
    if len(parts) != 2 or not all(parts):
        return None
    schema, table = (re.compile(part, re.DOTALL) for part in parts)
    return schema, table


def _expression(token: re.Match[str]) -> str:
    if token["quoted"]:
        return re.escape(token[0][1:-1].replace('""', '"'))
    if token["wild"]:
        return {"*": ".*", "?": "."}[token[0]]
    return re.escape(token[0].lower())


def splits(text: str) -> Iterator[tuple[str, str]]:
    """What schema and table may be of `schema table owner`, whose blanks may be any of a name's."""
    words = text.split(" ")
    for first in range(1, len(words) - 1):
        for second in range(first + 1, len(words)):
            yield " ".join(words[:first]), " ".join(words[first:second])
