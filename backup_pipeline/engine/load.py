"""Load: the rows of a dump into a new database, by several connections side by side."""

import re
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from backup_pipeline.engine.crew import Crew, Tally, taken_from
from backup_pipeline.engine.execute import copy_in, events_of, events_of_members, execute, run
from backup_pipeline.engine.model import Member, Section
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.script import (
    CopyBegin,
    CopyRows,
    Event,
    Statement,
    encoded,
    quoted,
)
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.verify import read_members

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

Table = tuple[bytes, bytes]
"""Schema and name, as bytes of the database's encoding."""

_ENOUGH = 8 << 20
"""Bytes of SQL in neighbouring members that are worth a request of their own."""
_WORTH_FREEZING = 1 << 20
"""Bytes of SQL: emptying a table makes files anew, which takes longer than a small table's rows."""

# What pg_dump sets for a session, and where sequences stand: no matter who says it, and when.
_ARGUMENT = rb"(?:'(?:[^']++|'')*+'|-?\d+|true|false)"
_OF_THE_SESSION = re.compile(
    rb"SET \w+ = [^;]*;|SELECT pg_catalog\.set_config\(%(a)b, %(a)b, %(a)b\);" % {b"a": _ARGUMENT}
)
_OF_A_SEQUENCE = re.compile(
    rb"SELECT pg_catalog\.setval\(%(a)b, %(a)b, %(a)b\);" % {b"a": _ARGUMENT}
)


@dataclass(frozen=True, slots=True)
class Chain:
    """Members that follow each other, and from whose first to whose last the rows of tables go on.

    One that has been `cut` out of a longer one begins or ends among the rows of a table.
    """

    members: tuple[Member, ...]
    cut: bool = False

    @property
    def raw_length(self) -> int:
        """Bytes of SQL."""
        return sum(member.raw_length for member in self.members)

    @property
    def offset(self) -> int:
        """Where it begins in the object."""
        return self.members[0].offset


Piece = tuple[Chain, ...]
"""Neighbours that one connection loads one after the other."""


def pieces_of(members: Sequence[Member], jobs: int) -> list[Piece]:
    """Members divided among so many connections, the largest piece first.

    A table that is larger than the share of one connection is loaded by several, member by
    member, because it would be what all wait for; any other one is loaded by one.
    """
    chains = list(_chains(members))
    share = _share(chains, jobs)
    pieces: list[Piece] = []
    small: list[Chain] = []
    for each in chains:
        if each.raw_length > share and len(each.members) > 1:
            pieces += [(Chain((member,), cut=True),) for member in each.members]
        elif each.raw_length >= _ENOUGH:
            pieces.append((each,))
        else:
            if small and not _adjoin(small[-1], each):
                pieces.append(tuple(small))
                small = []
            small.append(each)
            if sum(one.raw_length for one in small) >= _ENOUGH:
                pieces.append(tuple(small))
                small = []
    if small:
        pieces.append(tuple(small))
    return sorted(pieces, key=lambda piece: -sum(each.raw_length for each in piece))


def _share(chains: Sequence[Chain], jobs: int) -> float:
    """What each of so many connections has to load, in bytes of SQL."""
    return sum(each.raw_length for each in chains) / jobs


def _chains(members: Sequence[Member]) -> Iterator[Chain]:
    chained: list[Member] = []
    for member in members:
        chained.append(member)
        if not member.unfinished:
            yield Chain(tuple(chained))
            chained = []
    if chained:
        yield Chain(tuple(chained))


def _adjoin(one: Chain, other: Chain) -> bool:
    return one.members[-1].offset + one.members[-1].length == other.offset


class Receiver:
    """An empty database that takes the script of a dump, by several connections."""

    def __init__(self, server: Server, encoding: str) -> None:
        self._server = server
        self._encoding = encoding
        self._session: list[Statement] = []
        self._fresh: set[Table] = set()
        self._lock = threading.Lock()
        self.done = Tally()
        """Bytes of SQL that the server has taken."""

    @contextmanager
    def connected(self) -> "Iterator[Connection]":
        """One more connection, whose session is what pg_dump makes its own."""
        with self._server.connect() as connection:
            set_up(connection)
            for statement in self._session:
                run(connection, statement)
            yield connection

    def make_tables(self, connection: "Connection", events: Iterable[Event], crew: Crew) -> None:
        """Take pre-data, and note what other sessions need; `connection` has been `set_up`."""
        self.take(connection, self._noting_the_session(events), crew)
        self._fresh.update(connection.execute(_PLAIN_TABLES).fetchall())

    def keep(self, tables: Iterable[Table]) -> None:
        """These tables get rows from several places, and are never emptied."""
        self._fresh.difference_update(tables)

    def take(self, connection: "Connection", events: Iterable[Event], crew: Crew) -> None:
        """Take all of it in its order."""
        before = 0
        with crew.stopping(connection.cancel):
            for sent in execute(connection, events):
                crew.go_on()
                self.done.add(sent - before)
                before = sent

    def take_statement(self, connection: "Connection", statement: Statement) -> None:
        """Take a statement."""
        run(connection, statement)
        self.done.add(len(statement.sql))

    def take_rows(
        self,
        connection: "Connection",
        begin: CopyBegin,
        events: Iterator[Event],
        crew: Crew,
        *,
        all_of_them: bool,
    ) -> None:
        """Take the rows behind `begin`, as those that everybody sees where that can be.

        It can be if they are `all_of_them`, and the table is a plain one that nobody has put rows
        into: it is emptied, and filled in the same transaction, if there are enough of them.
        """
        much = False
        if all_of_them:
            much, events = _much(events)
        if not (much and self._take_fresh(begin)):
            self._copy(connection, begin, events, crew, frozen=False)
            return
        with connection.transaction():
            table = quoted(begin.schema) + b"." + quoted(begin.table)
            connection.execute(b"TRUNCATE ONLY " + table)
            self._copy(connection, begin, events, crew, frozen=True)

    def _copy(
        self,
        connection: "Connection",
        begin: CopyBegin,
        events: Iterator[Event],
        crew: Crew,
        *,
        frozen: bool,
    ) -> None:
        for length in copy_in(connection.cursor(), begin, events, frozen=frozen):
            crew.go_on()
            self.done.add(length)

    def _take_fresh(self, begin: CopyBegin) -> bool:
        table = (begin.schema, begin.table)
        with self._lock:
            fresh = table in self._fresh
            self._fresh.discard(table)
        return fresh

    def _noting_the_session(self, events: Iterable[Event]) -> Iterator[Event]:
        noting = True
        for event in events:
            noting &= isinstance(event, Statement) and bool(_OF_THE_SESSION.fullmatch(event.bare))
            if noting and isinstance(event, Statement):
                self._session.append(event)
            yield event


def _much(events: Iterator[Event]) -> tuple[bool, Iterator[Event]]:
    """Whether there are rows enough to be worth emptying a table first; and all of them again."""
    begun: list[Event] = []
    size = 0
    for event in events:
        begun.append(event)
        if not isinstance(event, CopyRows):
            break
        size += len(event.data)
        if size >= _WORTH_FREEZING:
            break
    return size >= _WORTH_FREEZING, chain(begun, events)


def set_up(connection: "Connection") -> None:
    """Make a session ready to load."""
    connection.prepare_threshold = None
    # The switch commits synchronously, and with it everything that was written before.
    connection.execute("SET synchronous_commit = off")


class Loading:
    """A stored dump on its way into an empty database.

    `connection` is there from the beginning to the end; while rows are loaded, `jobs` less one
    others of `server` are beside it.
    Each step is done by a thread of a crew.
    """

    def __init__(
        self,
        connection: "Connection",
        server: Server,
        backup: StoredBackup,
        jobs: int,
    ) -> None:
        self._connection = connection
        self._manifest = backup.manifest
        self._encoding = self._manifest.source.encoding
        # The server counts them.
        self._read = partial(read_members, backup, counting=False)
        self._jobs = jobs
        self._receiver = Receiver(server, self._encoding)
        self._in_order: list[tuple[Chain, int]] = []
        self.done = self._receiver.done
        """Bytes of SQL that the server has taken."""

    @property
    def alike(self) -> bool:
        """Whether no table is larger than the share of one connection."""
        chains = list(_chains(self._of(Section.DATA)))
        share = _share(chains, self._jobs)
        return all(each.raw_length <= share for each in chains)

    def pre_data(self, crew: Crew) -> None:
        """Make what tables need, and the tables."""
        set_up(self._connection)
        events = events_of(self._chunks(Section.PRE_DATA))
        self._receiver.make_tables(self._connection, events, crew)
        parts = Counter(
            (encoded(schema, self._encoding), encoded(table, self._encoding))
            for each in _chains(self._of(Section.DATA))
            for schema, table in {(t.schema, t.table) for m in each.members for t in m.tables}
        )
        self._receiver.keep(table for table, number in parts.items() if number > 1)

    def data(self, crew: Crew) -> None:
        """Load the rows, in this thread and in others of the crew."""
        members = self._of(Section.DATA)
        if self._manifest.adopted:
            # Nobody knows where what is in it begins and ends.
            self._in_order.append((Chain(tuple(members)), 0))
            return
        pieces = deque(pieces_of(members, self._jobs))
        for _ in range(min(self._jobs, len(pieces)) - 1):
            crew.start(lambda: self._load_beside(pieces, crew))
        self._load_pieces(self._connection, pieces, crew)

    def rest_of_data(self, crew: Crew) -> None:
        """What depends on what stands before it, such as large objects; when all rows are in."""
        for one, seen in sorted(self._in_order, key=lambda pair: pair[0].offset):
            events = next(self._events((one,), self._read(one.members)))
            self._receiver.take(self._connection, _behind(seen, events), crew)

    def post_data(self, crew: Crew) -> None:
        """Make indexes, keys and all that comes behind the rows, statement by statement."""
        events = events_of(self._chunks(Section.POST_DATA))
        self._receiver.take(self._connection, events, crew)

    def post_data_text(self, crew: Crew) -> bytes:
        """The statements that `post_data` would send."""
        taken = []
        for chunk in self._chunks(Section.POST_DATA):
            crew.go_on()
            taken.append(chunk)
        return b"".join(taken)

    def _load_beside(self, pieces: "deque[Piece]", crew: Crew) -> None:
        with self._receiver.connected() as connection:
            self._load_pieces(connection, pieces, crew)

    def _load_pieces(self, connection: "Connection", pieces: "deque[Piece]", crew: Crew) -> None:
        with crew.stopping(connection.cancel):
            for piece in taken_from(pieces):
                left = piece
                while left:
                    left = self._load_piece(connection, left, crew)

    def _load_piece(self, connection: "Connection", piece: Piece, crew: Crew) -> Piece:
        """Load chains by one request, and give those that take another one."""
        read = self._read([member for each in piece for member in each.members])
        for number, (each, events) in enumerate(zip(piece, self._events(piece, read), strict=True)):
            if not self._load_chain(connection, each, events, crew):
                return piece[number + 1 :]
        return ()

    def _events(
        self, piece: Piece, read: Iterator[tuple[Member, Iterator[bytes]]]
    ) -> Iterator[Iterator[Event]]:
        for each in piece:
            chunks = chain.from_iterable(c for _, c in islice(read, len(each.members)))
            yield events_of_members(each.members, chunks, self._encoding)

    def _load_chain(
        self, connection: "Connection", loaded: Chain, events: Iterator[Event], crew: Crew
    ) -> bool:
        """Load one up to the first statement that needs those before it; whether there was none."""
        # Counted are statements and tables: the rows behind these are taken out meanwhile.
        for seen, event in enumerate(events):
            if isinstance(event, CopyBegin):
                self._receiver.take_rows(
                    connection, event, events, crew, all_of_them=not loaded.cut
                )
            elif isinstance(event, Statement):
                if not _is_for_anybody(event):
                    self._in_order.append((loaded, seen))
                    return False
                self._receiver.take_statement(connection, event)
        return True

    def _chunks(self, section: Section) -> Iterator[bytes]:
        return chain.from_iterable(chunks for _, chunks in self._read(self._of(section)))

    def _of(self, section: Section) -> list[Member]:
        return [member for member in self._manifest.members if member.section is section]


# The rows of extensions' tables are theirs, and a dump only adds to them.
_PLAIN_TABLES = b"""
    SELECT convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND pg_class.oid >= 16384
      AND NOT EXISTS (
          SELECT FROM pg_depend
          WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""


def _is_for_anybody(statement: Statement) -> bool:
    bare = statement.bare
    return bool(_OF_THE_SESSION.fullmatch(bare) or _OF_A_SEQUENCE.fullmatch(bare))


def _behind(seen: int, events: Iterator[Event]) -> Iterator[Event]:
    """What is left after so many statements and tables."""
    for _ in range(seen):
        if isinstance(next(events), CopyBegin):
            while isinstance(next(events), CopyRows):
                pass
    return events
