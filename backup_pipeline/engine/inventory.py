"""What a data section holds, taken down as it streams by: on its way to the store, or back."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter

from xxhash import xxh3_64, xxh3_64_intdigest

from backup_pipeline.engine.model import (
    Contents,
    LargeObjects,
    SequenceValue,
    TableContents,
    TableRows,
)
from backup_pipeline.engine.script import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    Event,
    ScriptReader,
    Statement,
    copy_begin,
    decoded,
    encoded,
    unquoted,
)

_ALGORITHM = "xxh3-64"
_LARGE_OBJECT = (b"SELECT pg_catalog.lo_open(", b"SELECT pg_catalog.lowrite(")
_SETVAL = re.compile(
    rb"""SELECT[ ]pg_catalog\.setval\('(?P<name>(?:[^']++|'')++)',[ ]
         (?P<value>-?\d+),[ ](?P<called>true|false)\);""",
    re.VERBOSE,
)
_EXTENSION = re.compile(
    rb"""CREATE[ ]EXTENSION[ ]IF[ ]NOT[ ]EXISTS[ ](?P<name>"(?:[^"]++|"")++"|[^"\s;]++)""",
    re.VERBOSE,
)
_QUALIFIED = re.compile(
    rb"""(?P<schema>"(?:[^"]++|"")++"|[^".]++)\.(?P<name>"(?:[^"]++|"")++"|[^".]++)"""
)


class Inventory:
    """Takes down what a data section holds as it streams by."""

    def __init__(
        self,
        encoding: str,
        continues: str | None = None,
        *,
        digests: bool = False,
        columns: Mapping[tuple[str, str], Sequence[str]] | None = None,
    ) -> None:
        """`encoding` is the database's, by PostgreSQL's name; `continues` is `Member`'s.

        Without `digests` only rows, sequences and extensions are taken down.
        The digest of a table is that of its rows with their `columns` in this order.
        """
        self._encoding = encoding
        self._columns = columns or {}
        self._in_order: Callable[[bytes], bytes] | None = None
        self._digests: dict[tuple[bytes, bytes], int] | None = {} if digests else None
        self._counted: dict[tuple[bytes, bytes], int] = {}
        self._objects = _LargeObjects()
        self._reader = ScriptReader(in_rows=continues is not None)
        self._rows: dict[tuple[bytes, bytes], int] = {}
        self._begin: CopyBegin | None = None
        if continues is not None:
            self._take(copy_begin(encoded(continues, encoding)))
        self.sequences: list[SequenceValue] = []
        self.extensions: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Go on with the next bytes; raises `VerificationFailed` as `ScriptReader.feed` does."""
        for _ in self.ends(chunk):
            pass

    def ends(self, chunk: bytes) -> Iterator[int]:
        """Go on, and give where in the chunk rows or a statement end.

        What has been taken down meanwhile is what stands before that place.
        """
        before = self._reader.fed
        for event in self._reader.feed(chunk):
            self._take(event)
            yield self._reader.position - before

    def close(self, *, unfinished: bool = False) -> None:
        """Raises `VerificationFailed` where the section stops in the middle.

        With `unfinished` it has to stop behind a row.
        """
        for event in self._reader.close(unfinished=unfinished):
            self._take(event)

    @property
    def copying(self) -> str | None:
        """The COPY statement whose rows are not complete yet."""
        return decoded(self._begin.sql, self._encoding) if self._begin else None

    @property
    def holds_rows(self) -> bool:
        """Whether there was a table since `take_tables` was asked last."""
        return bool(self._rows)

    def take_tables(self) -> tuple[TableRows, ...]:
        """The rows of each table since this was asked last, in the order of the section."""
        taken = tuple(
            TableRows(decoded(schema, self._encoding), decoded(table, self._encoding), rows)
            for (schema, table), rows in self._rows.items()
        )
        self._rows.clear()
        if self._begin:
            self._rows[self._begin.schema, self._begin.table] = 0
        return taken

    def contents(self) -> Contents:
        """All that was taken down."""
        digests = self._digests
        tables = (
            TableContents(
                schema=decoded(table[0], self._encoding),
                table=decoded(table[1], self._encoding),
                rows=rows,
                digest=None if digests is None else f"{_ALGORITHM}:{digests[table]:x}",
            )
            for table, rows in self._counted.items()
        )
        return Contents(
            tables=tuple(sorted(tables)),
            sequences=tuple(sorted(self.sequences)),
            large_objects=None if digests is None else self._objects.taken(),
        )

    def _take(self, event: Event) -> None:
        if isinstance(event, CopyRows):
            self._take_rows(event)
        elif isinstance(event, CopyBegin):
            self._begin = event
            self._rows.setdefault((event.schema, event.table), 0)
            self._counted.setdefault((event.schema, event.table), 0)
            if self._digests is not None:
                self._digests.setdefault((event.schema, event.table), 0)
                self._in_order = self._reordering(event)
        elif isinstance(event, CopyEnd):
            self._begin = None
        elif isinstance(event, Statement):
            self._take_statement(event.bare)

    def _take_rows(self, event: CopyRows) -> None:
        assert self._begin is not None
        table = (self._begin.schema, self._begin.table)
        if self._digests is None:
            # Taking the newlines out is two to three times as fast as counting them.
            rows = len(event.data) - len(event.data.replace(b"\n", b""))
        else:
            lines = event.data.split(b"\n")
            lines.pop()
            rows = len(lines)
            if self._in_order:
                lines = list(map(self._in_order, lines))
            # A sum of 64-bit hashes: the order of rows does not matter, and equal rows still count.
            self._digests[table] += sum(map(xxh3_64_intdigest, lines))
        self._rows[table] += rows
        self._counted[table] += rows

    def _reordering(self, begin: CopyBegin) -> Callable[[bytes], bytes] | None:
        """What puts the columns of a row in their order, where they come in another one."""
        name = (decoded(begin.schema, self._encoding), decoded(begin.table, self._encoding))
        if name not in self._columns:
            return None
        wanted = [encoded(column, self._encoding) for column in self._columns[name]]
        written = begin.columns
        order = [written.index(column) for column in wanted if column in written]
        if order == sorted(order):
            return None
        places = itemgetter(*order)
        return lambda row: b"\t".join(places(row.split(b"\t")))

    def _take_statement(self, statement: bytes) -> None:
        if self._digests is not None and statement.startswith(_LARGE_OBJECT):
            self._objects.take(statement)
        elif value := _sequence(statement, self._encoding):
            self.sequences.append(value)
        elif found := _EXTENSION.match(statement):
            self.extensions.append(decoded(unquoted(found["name"]), self._encoding))


def added(one: TableContents, other: TableContents) -> TableContents:
    """What two streams hold of a table, together."""
    digests = [each.digest for each in (one, other) if each.digest is not None]
    sums = [int(each.removeprefix(f"{_ALGORITHM}:"), 16) for each in digests]
    digest = f"{_ALGORITHM}:{sum(sums):x}" if sums else None
    return TableContents(one.schema, one.table, one.rows + other.rows, digest)


def _sequence(statement: bytes, encoding: str) -> SequenceValue | None:
    found = _SETVAL.fullmatch(statement)
    name = found and _QUALIFIED.fullmatch(found["name"].replace(b"''", b"'"))
    if not found or not name:
        return None
    schema, sequence = (decoded(unquoted(part), encoding) for part in name.group("schema", "name"))
    return SequenceValue(schema, sequence, int(found["value"]), found["called"] == b"true")


class _LargeObjects:
    """A digest of the statements that write each large object, from its opening on."""

    def __init__(self) -> None:
        self._count = 0
        self._digest = 0
        self._open: xxh3_64 | None = None

    def take(self, statement: bytes) -> None:
        """Go on with a statement that opens an object or writes to the open one."""
        if statement.startswith(_LARGE_OBJECT[0]):
            self._close()
            self._count += 1
            self._open = xxh3_64()
        if self._open:
            self._open.update(statement)

    def taken(self) -> LargeObjects:
        """All of them together, in whatever order."""
        self._close()
        return LargeObjects(self._count, f"{_ALGORITHM}:{self._digest:x}")

    def _close(self) -> None:
        if self._open:
            self._digest += self._open.intdigest()
        self._open = None
