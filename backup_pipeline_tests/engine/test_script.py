"""pg_dump's text is taken apart exactly as psql would take it, whatever the chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.engine.inventory import Inventory
from backup_pipeline.engine.model import SequenceValue, TableRows
from backup_pipeline.engine.script import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    Event,
    ScriptReader,
    Statement,
    Tail,
)
from backup_pipeline.errors import VerificationFailed


def take_apart(script: bytes, size: int = 1 << 20) -> list[Event]:
    reader = ScriptReader()
    events: list[Event] = []
    for start in range(0, len(script), size):
        events += reader.feed(script[start : start + size])
    return [*events, *reader.close()]


def statements(script: bytes, size: int = 1 << 20) -> list[bytes]:
    return [e.sql.strip() for e in take_apart(script, size) if isinstance(e, Statement)]


SIMPLE = [
    b"SELECT 1;",
    b"SELECT ';', ';;', 'it''s;';",
    rb"SELECT E'\';\\';",
    rb"SELECT 'a\';",
    b'CREATE TABLE "semi;colon" ("a""b;" int);',
    b"COMMENT ON TABLE t IS 'COPY a.b (c) FROM stdin;\n1\n';",
    b"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2; $$;",
    b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $_$ SELECT '$$;'; $_$;",
    b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END;",
    b"CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO a.b VALUES (1); END;",
    b"CREATE FUNCTION f(begin date, fin date) RETURNS int LANGUAGE sql AS 'SELECT 1';",
    b"CREATE FUNCTION f() RETURNS TABLE(begin atomic) LANGUAGE sql AS $$ SELECT 1; $$;",
    b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT b.begin FROM a.begin b; END;",
    b"CREATE FUNCTION f(begin int) RETURNS int\n    BEGIN ATOMIC\n SELECT begin;\nEND;",
    b"CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM u; DELETE FROM v;);",
    b"SELECT /* ; /* nested ; */ ' */ 1;",
    b"SELECT 1 -- ; not here\n ;",
    b"BEGIN;",
    "SELECT 'é', \"größe;\";".encode(),
    b"SELECT U&'d\\0061t;', B'1', 1.5e3, $1;",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_statements_end_where_the_server_would_end_them(size: int) -> None:
    assert statements(b"\n".join(SIMPLE) + b"\n", size) == SIMPLE


@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
def test_rows_go_to_their_tables(size: int) -> None:
    script = (
        b"SET x = 1;\n\n"
        b"COPY public.a (id, name) FROM stdin;\n1\tone\n2\t\\\\.\n\\.\n\n\n"
        b'COPY "odd "".""schema"."new\nline (x) FROM stdin;" ("c;") FROM stdin;\n\\.\n\n'
        b"COPY public.nocolumns  FROM stdin;\n\n\n\\.\n\n"
        b"SELECT pg_catalog.setval('public.s', 3, true);\n"
    )
    events = take_apart(script, size)
    begun = [(e.schema, e.table) for e in events if isinstance(e, CopyBegin)]
    assert begun == [
        (b"public", b"a"),
        (b'odd "."schema', b"new\nline (x) FROM stdin;"),
        (b"public", b"nocolumns"),
    ]
    assert b"".join(e.data for e in events if isinstance(e, CopyRows)) == b"1\tone\n2\t\\\\.\n\n\n"
    assert sum(isinstance(e, CopyEnd) for e in events) == 3
    counter = Inventory("UTF8")
    for start in range(0, len(script), size):
        counter.feed(script[start : start + size])
    counter.close()
    assert [table.rows for table in counter.take_tables()] == [2, 0, 2]


@given(
    st.lists(st.sampled_from([b"a", b"\\", b"\\N", b"\\.", b".", b"\t"]), max_size=30), st.data()
)
def test_the_end_of_rows_is_found_among_any_backslashes(
    fields: list[bytes], data: st.DataObject
) -> None:
    # The reader looks for few backslashes in one way, and for many in another.
    row = b"".join(fields) + b"x\n"
    count = data.draw(st.sampled_from([0, 1, 2, 100, 1000]))
    script = b"COPY a.b (c) FROM stdin;\n" + row * count + b"\\.\nSELECT 1;\n"
    events = take_apart(script, data.draw(st.integers(1, len(script))))
    assert b"".join(e.data for e in events if isinstance(e, CopyRows)) == row * count
    assert sum(e.data.count(b"\n") for e in events if isinstance(e, CopyRows)) == count
    assert isinstance(events[-1], Statement)


@given(st.lists(st.sampled_from(SIMPLE), max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_chunks_make_no_difference(chosen: list[bytes], sizes: list[int]) -> None:
    script = b"\n".join(chosen) + b"\nCOPY a.b (c) FROM stdin;\nx\n\\.\n"
    reader, at = ScriptReader(), 0
    events: list[Event] = []
    while at < len(script):
        size = sizes[at % len(sizes)]
        events += reader.feed(script[at : at + size])
        at += size
    events += reader.close()
    assert [e.sql.strip() for e in events if isinstance(e, Statement)] == chosen


@pytest.mark.parametrize(
    "line",
    [
        b"\\! touch /tmp/canary",
        b"\\copy t from program 'id'",
        b"\\connect other",
        b"\\restrict",
        b"\\restrict key\\! id",
        b"\\unrestrict $(id)",
        b"SELECT 1 \\gexec\n",
        b"SELECT \\restrict abc\n1;",
    ],
)
def test_a_meta_command_is_an_error_and_never_a_statement(line: bytes) -> None:
    with pytest.raises(VerificationFailed, match="meta-command"):
        take_apart(b"SELECT 1;\n" + line + b"\nSELECT 2;\n")


def test_the_lines_with_which_pg_dump_restricts_psql_become_comments() -> None:
    script = b"--\n\n\\restrict aB3\n\nSELECT 1;\n\n\\unrestrict aB3\n\n"
    assert [s.split()[-2:] for s in statements(script)] == [[b"SELECT", b"1;"]]
    assert b"\\" not in b"".join(statements(script))


@pytest.mark.parametrize(
    "cut",
    [
        b"COPY a.b (c) FROM stdin;\n1\n",
        b"COPY a.b (c) FROM stdin;\n1\n\\.",
        b"SELECT 'open",
        b"SELECT 1",
        b"CREATE FUNCTION f() AS $$ SELECT 1;",
        b"/* never closed",
        b"COPY a.b (c) FROM stdin;",
    ],
)
def test_a_script_that_stops_in_the_middle_is_an_error(cut: bytes) -> None:
    with pytest.raises(VerificationFailed):
        take_apart(cut)


@pytest.mark.parametrize(
    "statement",
    [
        b"COPY a.b FROM PROGRAM 'id';\n",
        b"COPY a.b (c) FROM '/etc/passwd';\n",
        b"COPY a.b (c) FROM stdin; SELECT 1;\n",
    ],
)
def test_any_other_copy_than_pg_dumps_is_an_error(statement: bytes) -> None:
    with pytest.raises(VerificationFailed, match="COPY"):
        take_apart(statement)


def test_a_table_whose_name_looks_like_a_copy_statement_counts_for_itself_alone() -> None:
    script = (
        b"-- Data for Name: COPY x.y (z) FROM stdin; Type: TABLE DATA\n\n"
        b'COPY public."COPY x.y (z) FROM stdin;" (c) FROM stdin;\n1\n\\.\n'
    )
    counter = Inventory("UTF8")
    counter.feed(script)
    counter.close()
    assert counter.take_tables() == (TableRows("public", "COPY x.y (z) FROM stdin;", 1),)


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        (b"x\n--\n-- PostgreSQL database dump complete\n--\n\n", True),
        (b"x\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict aB3\n\n", True),
        (b"x\n--\n-- PostgreSQL database dump complete\n--\n\nSELECT 1;\n", False),
        (b"x\n-- PostgreSQL database dump comp", False),
        (b"", False),
    ],
)
def test_the_closing_line_must_be_the_last(text: bytes, closed: bool) -> None:
    tail = Tail()
    for index in range(0, len(text), 5):
        tail.feed(text[index : index + 5])
    assert tail.closed is closed


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        (b"'public.trades_id_seq', 42, true", SequenceValue("public", "trades_id_seq", 42, True)),
        (b"'public.s', -1, false", SequenceValue("public", "s", -1, False)),
        (b'\'"a.b"."it\'\'s""x"\', 7, true', SequenceValue("a.b", "it's\"x", 7, True)),
    ],
)
def test_where_a_sequence_stands_is_taken_down(statement: bytes, value: SequenceValue) -> None:
    inventory = Inventory("UTF8")
    inventory.feed(b"-- Name: x\nSELECT pg_catalog.setval(" + statement + b");\n")
    inventory.close()
    assert inventory.sequences == [value]


def test_a_comment_sets_no_sequence() -> None:
    inventory = Inventory("UTF8")
    inventory.feed(b"-- SELECT pg_catalog.setval('a.b', 1, true);\nSELECT 1;\n")
    inventory.close()
    assert inventory.sequences == []


@pytest.mark.parametrize("size", [1, 3, 10, 1 << 20])
def test_a_section_may_be_cut_where_rows_or_a_statement_end(size: int) -> None:
    script = b"SET a = b;\nCOPY a.b (c) FROM stdin;\n1\n2\n\\.\n\n\nSELECT 1;\n-- end\n"
    inventory = Inventory("UTF8")
    cuts: list[tuple[int, str | None]] = [(0, None)]
    for start in range(0, len(script), size):
        chunk = script[start : start + size]
        cuts += [(start + end, inventory.copying) for end in inventory.ends(chunk)]
    inventory.close()
    assert len(cuts) > 5
    rows = 0
    for (start, continues), (end, goes_on) in pairwise([*cuts, (len(script), None)]):
        piece = Inventory("UTF8", continues)
        piece.feed(script[start:end])
        piece.close(unfinished=goes_on is not None)
        rows += sum(table.rows for table in piece.take_tables())
    assert rows == 2


def test_a_cut_within_a_row_is_found() -> None:
    piece = Inventory("UTF8", "COPY a.b (c) FROM stdin;")
    piece.feed(b"1\n2")
    with pytest.raises(VerificationFailed, match="between the rows"):
        piece.close(unfinished=True)


def test_a_piece_that_should_end_among_rows_and_does_not_is_found() -> None:
    piece = Inventory("UTF8", "COPY a.b (c) FROM stdin;")
    piece.feed(b"1\n\\.\n")
    with pytest.raises(VerificationFailed, match="between the rows"):
        piece.close(unfinished=True)


@pytest.mark.parametrize("hostile", ["COPY a.b FROM PROGRAM 'id';", "DROP TABLE a.b;", ""])
def test_only_a_copy_from_stdin_can_go_on(hostile: str) -> None:
    with pytest.raises(VerificationFailed, match="COPY"):
        Inventory("UTF8", hostile)
