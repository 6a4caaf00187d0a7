"""A script of pg_dump -> a server, without psql: SQL as it stands, COPY data as COPY data."""

import re
from collections.abc import Iterable, Iterator, Sequence
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

_SET = re.compile(rb'SET (?P<name>\w+) = (?:"[^"]*"|[^;"])*;')


def execute(connection: "psycopg.Connection[TupleRow]", events: Iterable[Event]) -> Iterator[int]:
    """Send a script to the server; yields how many of its bytes have gone so far.

    Raises `VerificationFailed` for a psql meta-command or a COPY that is not pg_dump's, and
    psycopg's errors at the first statement that the server refuses.
    """
    events, sent = iter(events), 0
    for event in events:
        if isinstance(event, Statement):
            run(connection, event)
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


def events_of_members(
    members: Sequence[Member], chunks: Iterable[bytes], encoding: str
) -> Iterator[Event]:
    """What members that follow each other consist of, as if each table were whole in them.

    `encoding` is the database's.
    """
    first, last = members[0], members[-1]
    if first.continues is not None:
        yield copy_begin(encoded(first.continues, encoding))
    reader = ScriptReader(in_rows=first.continues is not None)
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.close(unfinished=last.unfinished)
    if last.unfinished:
        yield CopyEnd()


def copy_in(
    cursor: "psycopg.Cursor[TupleRow]",
    begin: CopyBegin,
    events: Iterator[Event],
    *,
    frozen: bool = False,
) -> Iterator[int]:
    """Send the rows that follow `begin`, up to their end; yields the bytes of each piece.

    Afterwards `cursor.rowcount` is what the server has taken.
    `frozen` says that the table was made or emptied in this very transaction, so its rows can be
    written as those that everybody sees (manual, COPY, FREEZE).
    """
    sql = begin.sql.removesuffix(b";") + b" WITH (FREEZE);" if frozen else begin.sql
    with cursor.copy(sql) as copy:
        for rows in events:
            if not isinstance(rows, CopyRows):
                break
            copy.write(rows.data)
            yield len(rows.data)


def run(connection: "psycopg.Connection[TupleRow]", statement: Statement) -> None:
    """Send one statement; raises as `execute` does."""
    is_set = _SET.fullmatch(statement.bare)
    if not is_set:
        connection.execute(statement.sql)
        return
    try:
        # What is refused must not take along the transaction that it may be in.
        with connection.transaction():
            connection.execute(statement.sql)
    except pg.UndefinedObject:
        # A pg_dump newer than the server sets parameters that the server does not know yet.
        pass
    except pg.InvalidParameterValue:
        if is_set["name"] != b"default_tablespace":
            raise
        # Where the server has no such tablespace, the database's own has room for everything.
        connection.execute("SET default_tablespace = ''")
