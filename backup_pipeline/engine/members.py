"""SQL -> members of the dump object, each with what the manifest says of it."""

from collections.abc import Callable
from typing import Protocol

from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.dump import Stream, in_memory, read_stream
from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import Codec, Member, Section, TableRows

# A data member ends with a table once it holds so many bytes of SQL: all but tiny tables have one
# to themselves, so that a restore of one table need not read the others.
_ENOUGH = 1 << 16
# Larger tables are cut between rows, so that several can read them side by side.
_TOO_MUCH = 1 << 26


class Sink(Protocol):
    """Where compressed bytes go."""

    def write(self, data: bytes, /) -> None:
        """Append bytes."""


class Members:
    """Members that follow each other in one sink; `offset`s count from its beginning."""

    def __init__(self, sink: Sink, codec: Codec, level: int, told: Callable[[int], None]) -> None:
        """`told` gets the number of bytes of SQL as they go by."""
        self._sink = sink
        self._codec = codec
        self._level = level
        self._told = told
        self._writer = MemberWriter(codec, level)
        self._continues: str | None = None
        self.length = 0
        """Bytes in the sink, in members that are complete."""
        self.done: list[Member] = []

    def add_text(self, section: Section, text: bytes) -> None:
        """Write a section as one member; raises as `read_stream` does."""
        for chunk in read_stream(in_memory(text), section):
            self._write(chunk)
        self._end(section, ())

    def add_data(self, stream: Stream, inventory: Inventory) -> None:
        """Write data as one member or several; raises the errors of who made it."""
        for chunk in read_stream(stream, Section.DATA):
            self._add(chunk, inventory)
        inventory.close()
        self._end(Section.DATA, inventory.take_tables())

    def _add(self, chunk: bytes, inventory: Inventory) -> None:
        start = 0
        for end in inventory.ends(chunk):
            length = self._writer.raw_length + end - start
            enough = _TOO_MUCH if inventory.copying else _ENOUGH
            if inventory.holds_rows and length >= enough:
                self._write(chunk[start:end])
                self._end(Section.DATA, inventory.take_tables(), inventory.copying)
                start = end
        self._write(chunk[start:])

    def _write(self, raw: bytes) -> None:
        self._sink.write(self._writer.compress(raw))
        self._told(len(raw))

    def _end(
        self, section: Section, tables: tuple[TableRows, ...], going_on: str | None = None
    ) -> None:
        writer, self._writer = self._writer, MemberWriter(self._codec, self._level)
        continues, self._continues = self._continues, going_on
        self._sink.write(writer.finish())
        self.done.append(
            Member(
                section=section,
                offset=self.length,
                length=writer.length,
                raw_length=writer.raw_length,
                sha256=writer.sha256,
                tables=tables,
                continues=continues,
                unfinished=going_on is not None,
            )
        )
        self.length += writer.length
