"""pg_dump's plain SQL, taken apart without interpreting it: statements, and rows of COPY data.

This is what makes psql unnecessary.
SQL goes to the server as it stands, one statement at a time; COPY data goes as COPY data; and a
backslash outside of both, which psql would take for one of its own commands, is an error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backup_pipeline.errors import VerificationFailed

CLOSING_LINE = b"-- PostgreSQL database dump complete"
CLOSING_LINE_OF_GLOBALS = b"-- PostgreSQL database cluster dump complete"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with its semicolon, and the comments in front of it."""

    sql: bytes
    start: int = 0
    """Where the comments end."""

    @property
    def bare(self) -> bytes:
        """The statement without the comments in front."""
        return self.sql[self.start :]


@dataclass(frozen=True, slots=True)
class CopyBegin:
    """A `COPY ... FROM stdin` statement; its rows follow."""

    sql: bytes
    schema: bytes
    table: bytes

    @property
    def columns(self) -> tuple[bytes, ...]:
        """Those whose values a row has, in their order."""
        match = _COPY.fullmatch(self.sql)
        listed = match["columns"] if match else None
        return tuple(unquoted(each) for each in _ONE_NAME.findall(listed or b""))


@dataclass(frozen=True, slots=True)
class CopyRows:
    """Some of a table's rows in COPY's text format, newlines and all."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """The rows of the table are complete."""


Event = Statement | CopyBegin | CopyRows | CopyEnd

# The lexical rules are those of psql's scanner (PostgreSQL manual, 4.1 "Lexical Structure").
# Possessive, so that a literal without an end costs one pass and no backtracking.
_TOKEN = re.compile(
    rb"""
      (?P<space>   (?:\s | --[^\n]*+\n)++ )
    | (?P<comment> --[^\n]*+ )
    | (?P<block>   /\* )
    | (?P<string>  [eE]'(?:[^'\\]++|\\.|'')*+' | '(?:[^']++|'')*+' )
    | (?P<quoted>  "(?:[^"]++|"")*+" )
    | (?P<open>    [eE]?'|" )
    | (?P<dollar>  \$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$ )
    | (?P<half>    \$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\Z )
    | (?P<word>    [A-Za-z0-9_\x80-\xff][A-Za-z0-9_$\x80-\xff]* )
    | (?P<meta>    \\[^\n]* )
    | (?P<other>   . )
    """,
    re.DOTALL | re.VERBOSE,
)
_RESTRICT = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+")
_NAME = rb'(?:"(?:[^"]++|"")++"|[^"\'().,;\s]++)'
# Nothing but names in the list: `FROM PROGRAM ... WHERE x IS DISTINCT FROM stdin` ends alike.
_COPY = re.compile(
    rb"COPY (?P<schema>%(name)b)\.(?P<table>%(name)b) "
    rb"(?:\((?P<columns>%(name)b(?:, %(name)b)*+)\))? FROM stdin;" % {b"name": _NAME}
)
_ONE_NAME = re.compile(_NAME)
_BLOCK_EDGE = re.compile(rb"/\*|\*/")
_END_OF_ROWS = b"\\.\n"
_LAST_ROWS = b"\n" + _END_OF_ROWS
_NEWLINE = ord("\n")
_MOST_BACKSLASHES = 500


class _Incomplete(Exception):
    """The token goes on beyond what has been read."""


class ScriptReader:
    """Takes a script apart, chunk by chunk; what it keeps is one statement or one row at most."""

    def __init__(self, *, in_rows: bool = False) -> None:
        """With `in_rows` the script begins among the rows of a table."""
        self._buffer = b""
        self.fed = 0
        """How many bytes of the script there were so far."""
        self._start = 0  # of the statement or row that is being read
        self._at = 0  # how far that statement has been read
        self._in_rows = in_rows
        self._begin_statement()

    @property
    def position(self) -> int:
        """How many bytes of the script the events so far were made of."""
        return self.fed - len(self._buffer) + self._start

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end within what has been fed so far.

        Raises `VerificationFailed` for a psql meta-command.
        """
        self._buffer = self._buffer[self._start :] + chunk
        self.fed += len(chunk)
        self._at -= self._start
        self._first -= self._start
        self._start = 0
        yield from self._events(final=False)

    def close(self, *, unfinished: bool = False) -> Iterator[Event]:
        """The last events; raises `VerificationFailed` where the script stops in the middle.

        With `unfinished` it has to stop behind a row, and the next rows are elsewhere.
        """
        yield from self._events(final=True)
        if unfinished:
            if not self._in_rows or self._start < len(self._buffer):
                raise VerificationFailed("the script does not end between the rows of a table")
            return
        if self._in_rows:
            raise VerificationFailed("the script ends in the middle of a table's rows")
        if self._words:
            raise VerificationFailed("the script ends in the middle of a statement")

    def _events(self, *, final: bool) -> Iterator[Event]:
        while event := (self._rows() if self._in_rows else self._statement(final=final)):
            yield event

    # --- rows

    def _rows(self) -> CopyRows | CopyEnd | None:
        buffer, start = self._buffer, self._start
        if buffer.startswith(_END_OF_ROWS, start):
            self._in_rows = False
            self._start = self._at = start + len(_END_OF_ROWS)
            return CopyEnd()
        end = _end_of_rows(buffer, start)
        if end < 0:
            end = buffer.rfind(b"\n", start)
        if end < 0:
            return None
        self._start = end + 1
        return CopyRows(buffer[start : end + 1])

    # --- statements

    def _begin_statement(self) -> None:
        self._words: list[bytes] = []
        self._first = 0  # where the first word stands
        self._before = b""  # the last word, unless a symbol stands behind it
        self._parentheses = 0
        self._bodies = 0

    def _statement(self, *, final: bool) -> Statement | CopyBegin | None:
        try:
            while self._at < len(self._buffer):
                if self._take_token(final=final):
                    return self._cut()
        except _Incomplete:
            if final:
                raise VerificationFailed("the script ends in the middle of a statement") from None
        return None

    def _take_token(self, *, final: bool) -> bool:
        """Step over one token; true where it ended the statement."""
        match = _TOKEN.match(self._buffer, self._at)
        assert match is not None
        kind, text, end = match.lastgroup, match[0], match.end()
        if kind == "block":
            end = self._end_of_block_comment()
        elif kind == "dollar":
            end = self._end_of_dollar_quote(text, end)
        elif kind == "open" or (end == len(self._buffer) and not final):
            raise _Incomplete
        elif kind == "meta":
            self._skip_restrict(text)
        elif kind == "word":
            # With ten thousand tables, taking these apart word by word takes seconds.
            copy = _COPY.match(self._buffer, self._at) if not self._words else None
            if copy and copy.end() < len(self._buffer):
                self._note_word(text)
                self._at = copy.end()
                return True
            self._note_word(text.upper())
        elif kind == "other":
            self._note_symbol(text)
        self._at = end
        return text == b";" and not self._parentheses and not self._bodies

    def _cut(self) -> Statement | CopyBegin:
        is_copy = self._words[:1] == [b"COPY"]
        statement = Statement(
            self._buffer[self._start : self._at], max(self._first - self._start, 0)
        )
        self._start = self._at
        self._begin_statement()
        return self._cut_copy(statement.bare) if is_copy else statement

    def _cut_copy(self, sql: bytes) -> CopyBegin:
        if not self._buffer.startswith(b"\n", self._start):
            raise VerificationFailed("a COPY statement is not of the form that pg_dump writes")
        begin = copy_begin(sql)
        self._start += 1
        self._in_rows = True
        return begin

    def _note_word(self, word: bytes) -> None:
        # A routine with a SQL-standard body has semicolons inside: BEGIN ATOMIC ...; ...; END.
        # An argument or a column may be called `begin` as well; CASE and END are quoted as names.
        if self._is_routine():
            begins = word == b"ATOMIC" and self._before == b"BEGIN" and not self._parentheses
            if begins or (word == b"CASE" and self._bodies):
                self._bodies += 1
            elif word == b"END" and self._bodies:
                self._bodies -= 1
        self._before = word
        if not self._words:
            self._first = self._at
        if len(self._words) < 4:
            self._words.append(word)

    def _is_routine(self) -> bool:
        words = [word for word in self._words if word not in (b"OR", b"REPLACE")]
        return words[:1] == [b"CREATE"] and words[1:2] in ([b"FUNCTION"], [b"PROCEDURE"])

    def _note_symbol(self, symbol: bytes) -> None:
        self._before = b""
        if symbol == b"(":
            self._parentheses += 1
        elif symbol == b")" and self._parentheses:
            self._parentheses -= 1

    def _skip_restrict(self, line: bytes) -> None:
        # pg_dump's own \restrict and \unrestrict guard psql against the rest; here nothing needs
        # guarding, and the line is made into a comment that the server ignores.
        if self._words or not _RESTRICT.fullmatch(line):
            shown = line[:40].decode(errors="replace")
            raise VerificationFailed(f"the script holds a psql meta-command: {shown!r}")
        start = self._at
        self._buffer = self._buffer[:start] + b"-" * len(line) + self._buffer[start + len(line) :]

    def _end_of_block_comment(self) -> int:
        depth, at = 0, self._at
        while edge := _BLOCK_EDGE.search(self._buffer, at):
            depth += 1 if edge[0] == b"/*" else -1
            at = edge.end()
            if not depth:
                return at
        raise _Incomplete

    def _end_of_dollar_quote(self, tag: bytes, start: int) -> int:
        end = self._buffer.find(tag, start)
        if end < 0:
            raise _Incomplete
        return end + len(tag)


def _end_of_rows(buffer: bytes, start: int) -> int:
    """Where the last row ends whose table's end is in the buffer, else -1.

    Every byte of a database goes through here: a lone backslash is found many times as fast as a
    longer text, so it is looked for as long as there are few.
    """
    at = start
    for _ in range(_MOST_BACKSLASHES):
        at = buffer.find(b"\\", at)
        if at < 0:
            return -1
        # One byte before all of them: NULLs are backslashes as well, and most of these.
        if buffer[at - 1] == _NEWLINE and at > start and buffer.startswith(_LAST_ROWS, at - 1):
            return at - 1
        at += 1
    return buffer.find(_LAST_ROWS, at)


def copy_begin(sql: bytes) -> CopyBegin:
    """Read a COPY statement; raises `VerificationFailed` unless it is just what pg_dump writes."""
    match = _COPY.fullmatch(sql)
    if match is None:
        raise VerificationFailed("a COPY statement is not of the form that pg_dump writes")
    return CopyBegin(sql, unquoted(match["schema"]), unquoted(match["table"]))


class Tail:
    """Keeps the end of a text, to see that pg_dump, or pg_dumpall, closed it."""

    def __init__(self, closing_line: bytes = CLOSING_LINE) -> None:
        self._closing = b"\n" + closing_line + b"\n"
        self._end = b""

    def feed(self, chunk: bytes) -> None:
        """Go on with the next bytes."""
        self._end = (self._end + chunk[-512:])[-512:]

    @property
    def closed(self) -> bool:
        """Whether the text ends with the closing line, and nothing but comments behind it."""
        _, found, behind = self._end.rpartition(self._closing)
        lines = [line for line in behind.splitlines() if line.strip()]
        return bool(found) and all(
            line.startswith(b"--") or _RESTRICT.fullmatch(line) for line in lines
        )


def unquoted(identifier: bytes) -> bytes:
    """The name that a quoted or bare SQL identifier stands for."""
    if identifier.startswith(b'"'):
        return identifier[1:-1].replace(b'""', b'"')
    return identifier


def quoted(name: bytes) -> bytes:
    """The SQL identifier that stands for a name, whatever it holds."""
    return b'"' + name.replace(b'"', b'""') + b'"'


def decoded(name: bytes, encoding: str) -> str:
    """A name as text; of encodings other than UTF-8 each byte stays one character.

    That is lossless in both directions whatever the encoding, and exact for LATIN1.
    """
    return name.decode("utf-8" if encoding == "UTF8" else "latin-1")


def encoded(name: str, encoding: str) -> bytes:
    """The inverse of `decoded`."""
    return name.encode("utf-8" if encoding == "UTF8" else "latin-1")
