"""A pattern means what it means to pg_dump."""

import pytest

from backup_pipeline.engine.patterns import qualified, splits


@pytest.mark.parametrize(
    ("pattern", "schema", "table"),
    [
        ("analytics.x", "analytics", "x"),
        ("Analytics.X", "analytics", "x"),
        ('"Analytics"."X"', "Analytics", "X"),
        ("*.x", "anything", "x"),
        ("a.quotes_*", "a", "quotes_2025_07"),
        ("a.quotes_2025_??", "a", "quotes_2025_07"),
        ('"a.b"."c*"', "a.b", "c*"),
        ('"say ""so"""."it\'s"', 'say "so"', "it's"),
        ("a.b+(c)", "a", "b+(c)"),
        ("größe.Ä", "größe", "ä"),
    ],
)
def test_a_pattern_means_a_schema_and_a_table(pattern: str, schema: str, table: str) -> None:
    names = qualified(pattern)
    assert names is not None
    assert names[0].fullmatch(schema)
    assert names[1].fullmatch(table)


@pytest.mark.parametrize(
    ("pattern", "schema", "table"),
    [
        ("a.x", "a", "xy"),
        ("a.x", "ba", "x"),
        ('"A".x', "a", "x"),
        ("a.quotes_?", "a", "quotes_12"),
        ('a."x*"', "a", "xy"),
        ("a.b+", "a", "bb"),
    ],
)
def test_it_means_no_other(pattern: str, schema: str, table: str) -> None:
    names = qualified(pattern)
    assert names is not None
    assert not (names[0].fullmatch(schema) and names[1].fullmatch(table))


@pytest.mark.parametrize("pattern", ["", "x", "*", ".", "a.", ".x", "d.a.x", 'a."x', '"a.x"'])
def test_what_is_not_two_names_is_no_pattern(pattern: str) -> None:
    assert qualified(pattern) is None


def test_blanks_may_belong_to_any_name() -> None:
    assert list(splits("a b o")) == [("a", "b")]
    assert list(splits("a b c o")) == [("a", "b"), ("a", "b c"), ("a b", "c")]
    assert list(splits("a")) == []
