"""A script of pg_dump -> a server, without psql: SQL as it stands, COPY data as COPY data."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from psycopg import errors as pg

from backup_pipeline.engine.model import Member
from backup_pipeline.engine.script import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    Event,
    ScriptReader,
    Statement,
    copy_begin,
    encoded,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_SET = re.compile(rb"SET \w+ = [^;]*;")


def execute(connection: "psycopg.Connection[TupleRow]", events: Iterable[Event]) -> Iterator[int]:
    """Send a script to the server; yields how many of its bytes have gone so far.

    Raises `VerificationFailed` for a psql meta-command or a COPY that is not pg_dump's, and
    psycopg's errors at the first statement that the server refuses.
    """
    events, sent = iter(events), 0
    for event in events:
        if isinstance(event, Statement):
            _run(connection, event)
            sent += len(event.sql)
            yield sent
        elif isinstance(event, CopyBegin):
            for length in copy_in(connection.cursor(), event, events):
                sent += length
                yield sent


def events_of(chunks: Iterable[bytes]) -> Iterator[Event]:
    """What a script consists of; raises as `ScriptReader` does."""
    reader = ScriptReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.close()


def events_of_member(member: Member, chunks: Iterable[bytes], encoding: str) -> Iterator[Event]:
    """What a member consists of, as if the rows that it shares with others were whole in it.

    `encoding` is the database's.
    """
    if member.continues is not None:
        yield copy_begin(encoded(member.continues, encoding))
    reader = ScriptReader(in_rows=member.continues is not None)
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.close(unfinished=member.unfinished)
    if member.unfinished:
        yield CopyEnd()


def copy_in(
    cursor: "psycopg.Cursor[TupleRow]", begin: CopyBegin, events: Iterator[Event]
) -> Iterator[int]:
    """Send the rows that follow `begin`, up to their end; yields the bytes of each piece.

    Afterwards `cursor.rowcount` is what the server has taken.
    """
    with cursor.copy(begin.sql) as copy:
        for rows in events:
            if not isinstance(rows, CopyRows):
                break
            copy.write(rows.data)
            yield len(rows.data)


def _run(connection: "psycopg.Connection[TupleRow]", statement: Statement) -> None:
    try:
        connection.execute(statement.sql)
    except pg.UndefinedObject:
        # A pg_dump newer than the server sets parameters that the server does not know yet.
        if not _SET.fullmatch(statement.bare):
            raise
