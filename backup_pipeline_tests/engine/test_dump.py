"""The drops of a section are found by comparing pg_dump's own texts."""

import pytest

from backup_pipeline.engine.dump import drops_of
from backup_pipeline.engine.script import Tail
from backup_pipeline.errors import PostgresFailed

HEAD = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict %s\n\nSET x = 1;\n\n"
BODY = b"SET default_tablespace = '';\n\nALTER TABLE ONLY a.b ADD CONSTRAINT c;\n\n"
CLOSING = b"--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict %s\n\n"
DROPS = b'ALTER TABLE a.b DROP CONSTRAINT c;\nDROP INDEX "new\nline";\n'


def text(key: bytes, drops: bytes = b"", body: bytes = BODY) -> bytes:
    return HEAD % key + drops + body + CLOSING % key


def test_the_drops_keep_pg_dumps_own_beginning_and_end() -> None:
    drops = drops_of(text(b"K1", DROPS), text(b"K2"))
    assert drops == HEAD % b"K1" + DROPS + CLOSING % b"K1"
    tail = Tail()
    tail.feed(drops)
    assert tail.closed


def test_a_section_that_creates_nothing_drops_nothing() -> None:
    drops = drops_of(text(b"K1", body=b""), text(b"K2", body=b""))
    assert drops == HEAD % b"K1" + CLOSING % b"K1"


@pytest.mark.parametrize(
    "other",
    [
        text(b"K2", body=BODY.replace(b"CONSTRAINT c", b"CONSTRAINT d")),
        text(b"K2", body=BODY + b"SELECT 1;\n" * 5),
    ],
)
def test_texts_that_differ_otherwise_are_refused(other: bytes) -> None:
    with pytest.raises(PostgresFailed, match="post-data"):
        drops_of(text(b"K1", DROPS), other)
