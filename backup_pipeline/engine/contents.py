"""What a database holds, as its dump tells it, in a form in which two databases can be compared."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.crew import Crew, taken_from
from backup_pipeline.engine.dump import Dump, read_stream
from backup_pipeline.engine.inventory import Inventory, added
from backup_pipeline.engine.model import Contents, Section, SequenceValue, TableContents
from backup_pipeline.errors import PostgresFailed

if TYPE_CHECKING:
    from backup_pipeline.engine.plan import Table


def read_contents(dump: Dump) -> Contents:
    """What a snapshot holds, with digests, read in as many streams at once as the dump allows."""
    streams, found = deque(dump.data()), list[Contents]()

    def read() -> None:
        for stream in taken_from(streams):
            inventory = inventory_of(dump)
            for chunk in read_stream(stream, Section.DATA):
                inventory.feed(chunk)
            inventory.close()
            found.append(inventory.contents())

    with Crew() as crew:
        for _ in range(dump.jobs):
            crew.start(read)
        crew.wait()
    return together(dump, found)


def inventory_of(dump: Dump, *, digests: bool = True) -> Inventory:
    """What takes down one of the streams of a dump."""
    return Inventory(dump.source.encoding, digests=digests, columns=dump.inheritance.columns)


def together(dump: Dump, streams: Iterable[Contents]) -> Contents:
    """What the streams of a dump hold, less what comes with an extension.

    A table is what pg_dump names in front of its rows: of partitions it may be their root.
    Raises `PostgresFailed` where pg_dump left out a table.
    """
    parts = [*streams, dump.not_here]
    tables: dict[Table, TableContents] = {}
    for each in chain.from_iterable(part.tables for part in parts):
        name = (each.schema, each.table)
        tables[name] = added(tables[name], each) if name in tables else each
    expected = {(each.schema, each.table) for each in dump.not_here.tables}
    for table in dump.tables:
        name = table if table in tables else dump.inheritance.roots.get(table, table)
        if name not in tables:
            raise PostgresFailed(
                f"pg_dump wrote no rows of {'.'.join(table)}",
                hint="Is a wrapper round pg_dump in the way?",
            )
        expected.add(name)
    objects = [part.large_objects for part in parts if part.large_objects]
    return Contents(
        tables=tuple(tables[table] for table in sorted(expected)),
        sequences=tuple(sorted(value for part in parts for value in part.sequences)),
        # Only one of the streams has them.
        large_objects=max(objects, key=lambda each: each.count) if objects else None,
    )


def under_roots(found: Contents, expected: Contents, roots: "Mapping[Table, Table]") -> Contents:
    """The same, with the rows of partitions under the name of their root where it is expected.

    A dump made with `--load-via-partition-root` has them there.
    """
    named = {(each.schema, each.table) for each in expected.tables}
    tables: dict[Table, TableContents] = {}
    for each in found.tables:
        name = (each.schema, each.table)
        if name not in named and roots.get(name) in named:
            name = roots[name]
        placed = replace(each, schema=name[0], table=name[1])
        tables[name] = added(tables[name], placed) if name in tables else placed
    return replace(found, tables=tuple(tables[name] for name in sorted(tables)))


def differences(expected: Contents, found: Contents) -> Iterator[str]:
    """A sentence for each thing in which a database differs from what it should hold.

    Digests count where both have them.
    """
    yield from _differ(
        "table",
        {(t.schema, t.table): t for t in expected.tables},
        {(t.schema, t.table): t for t in found.tables},
    )
    yield from _differ(
        "sequence",
        {(s.schema, s.sequence): s for s in expected.sequences},
        {(s.schema, s.sequence): s for s in found.sequences},
    )
    objects, there = expected.large_objects, found.large_objects
    if objects and there and objects != there:
        yield (
            f"the {objects.count:,} large objects are not those that were dumped"
            if objects.count == there.count
            else f"there are {there.count:,} large objects where {objects.count:,} were dumped"
        )


def _differ(
    kind: str, expected: Mapping[tuple[str, str], Any], found: Mapping[tuple[str, str], Any]
) -> Iterator[str]:
    for key in sorted({*expected, *found}):
        mine, theirs, name = expected.get(key), found.get(key), ".".join(key)
        if mine is None:
            yield f"{kind} {name} was not dumped"
        elif theirs is None:
            yield f"{kind} {name} is missing"
        elif said := _difference(mine, theirs):
            yield f"{kind} {name} {said}"


def _difference(
    expected: TableContents | SequenceValue, found: TableContents | SequenceValue
) -> str | None:
    if isinstance(expected, TableContents) and isinstance(found, TableContents):
        if expected.rows != found.rows:
            return f"has {found.rows:,} rows where {expected.rows:,} were dumped"
        if None not in (expected.digest, found.digest) and expected.digest != found.digest:
            return f"has {found.rows:,} rows as it should, but not those that were dumped"
        return None
    return None if expected == found else f"stands at {_stands(found)}, not {_stands(expected)}"


def _stands(sequence: Any) -> str:
    return f"{sequence.value}{'' if sequence.called else ' (not given out yet)'}"
