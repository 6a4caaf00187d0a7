"""Names and keys read back to exactly what they were made of, and nothing else reads as one."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.errors import InvalidInput

KEYS = Keys("backups/postgres/")
NAME = BackupName.of("ahold_options", datetime(2025, 12, 16, 23, 0, 0))  # noqa: DTZ001 - a label has no zone
HOSTILE = (
    "--version",
    "-x",
    "-f/x",
    "a=b",
    "postgresql://host/db?sslmode=disable",
    "..",
    "../../etc/passwd",
    "/absolute",
    "with space",
    "new\nline",
    "tab\t",
    "per%cent",
    "%2F",
    "'single'",
    '"double"',
    "$(id)",
    "`id`",
    "back\\slash",
    "ünïcödé",
    "数据库",
    "😀",
    "2025-12-16_230000",
    "a_2025-12-16_230000",
    "a_2025-12-16_230000.sql.gz",
    "x" * 63,
)

# PostgreSQL allows every character but NUL, and 63 bytes of them.
databases = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .filter(lambda text: len(text.encode()) <= 63)
    .filter(bool)
)
labels = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - a label has no zone
    max_value=datetime(9999, 12, 31),  # noqa: DTZ001 - a label has no zone
)


def test_a_name_is_the_database_and_its_label() -> None:
    assert str(NAME) == "ahold_options_2025-12-16_230000"


def test_keys_are_prefix_name_and_kind() -> None:
    assert [KEYS.of(NAME, kind) for kind in Kind] == [
        "backups/postgres/ahold_options_2025-12-16_230000.globals.sql.gz",
        "backups/postgres/ahold_options_2025-12-16_230000.globals.sql.gz.age",
        "backups/postgres/ahold_options_2025-12-16_230000.sql.gz",
        "backups/postgres/ahold_options_2025-12-16_230000.sql.zst",
        "backups/postgres/ahold_options_2025-12-16_230000.sql.gz.age",
        "backups/postgres/ahold_options_2025-12-16_230000.sql.zst.age",
        "backups/postgres/ahold_options_2025-12-16_230000.schema.dump",
        "backups/postgres/ahold_options_2025-12-16_230000.schema.dump.age",
        "backups/postgres/ahold_options_2025-12-16_230000.manifest.json",
        "backups/postgres/ahold_options_2025-12-16_230000.verified.json",
        "backups/postgres/ahold_options_2025-12-16_230000.kept.json",
    ]


def test_a_label_keeps_neither_zone_nor_fraction() -> None:
    summer = timezone(timedelta(hours=2))
    taken = datetime(2025, 6, 1, 23, 0, 0, 999_999, tzinfo=summer)
    assert BackupName.of("a", taken) == BackupName.parse("a_2025-06-01_230000")


@given(databases, labels)
@example("..", NAME.label)
@example("/", NAME.label)
@example("%", NAME.label)
@example("-x", NAME.label)
@example("_", NAME.label)
def test_every_database_name_reads_back(database: str, label: datetime) -> None:
    name = BackupName.of(database, label)
    assert BackupName.parse(str(name)) == name
    assert BackupName.parse(str(name)).database == database


@pytest.mark.parametrize("database", HOSTILE)
def test_a_hostile_database_name_becomes_one_harmless_segment(database: str) -> None:
    name = BackupName.of(database, NAME.label)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", str(name))
    assert str(name) not in (".", "..")
    assert BackupName.parse(str(name)).database == database


@given(databases, labels, st.sampled_from(Kind))
def test_every_key_reads_back(database: str, label: datetime, kind: Kind) -> None:
    name = BackupName.of(database, label)
    assert KEYS.parse(KEYS.of(name, kind)) == (name, kind)


@given(databases, databases, labels, st.sampled_from(Kind))
def test_different_databases_never_share_a_key(
    one: str, other: str, label: datetime, kind: Kind
) -> None:
    keys = {KEYS.of(BackupName.of(database, label), kind) for database in (one, other)}
    assert len(keys) == len({one, other})


@given(st.text())
def test_only_what_str_would_give_is_a_name(text: str) -> None:
    try:
        name = BackupName.parse(text)
    except InvalidInput:
        return
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ahold_options",
        "_2025-12-16_230000",
        "2025-12-16_230000",
        "ahold_options_2025-12-16",
        "ahold_options_2025-12-16_230000.sql.gz",
        "ahold_options_2025-12-16_230000 ",
        "ahold_options_2025-12-16_230000\n",
        " ahold_options_2025-12-16_230000",
        "ahold_options_2025-13-16_230000",
        "ahold_options_2025-02-30_230000",
        "ahold_options_2025-12-16_240000",
        "ahold_options_２025-12-16_230000",  # noqa: RUF001 - a digit that only looks like one
        "../ahold_options_2025-12-16_230000",
        "backups/postgres/ahold_options_2025-12-16_230000",
        "$(id)_2025-12-16_230000",
        "a b_2025-12-16_230000",
        "%61_2025-12-16_230000",
        "%2f_2025-12-16_230000",
        "%_2025-12-16_230000",
        "%FF_2025-12-16_230000",
        "--version",
    ],
)
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BackupName.parse(text)
    assert repr(text) in str(caught.value)
    assert "list" in caught.value.hint


@pytest.mark.parametrize(
    "key",
    [
        "",
        "backups/postgres/",
        "backups/postgres",
        "backups/postgres/ahold_options_2025-12-16_230000",
        "backups/postgres/ahold_options_2025-12-16_230000.sql",
        "backups/postgres/ahold_options_2025-12-16_230000.sql.gz.part",
        "backups/postgres/ahold_options_2025-12-16_230000.SQL.GZ",
        "backups/postgres/notes.txt",
        "backups/postgres/.sql.gz",
        "backups/postgres/dump.sql.gz",
        "backups/postgres/2025/ahold_options_2025-12-16_230000.sql.gz",
        "backups/postgres//ahold_options_2025-12-16_230000.sql.gz",
        "backups/mysql/ahold_options_2025-12-16_230000.sql.gz",
        "other/backups/postgres/ahold_options_2025-12-16_230000.sql.gz",
        "Backups/postgres/ahold_options_2025-12-16_230000.sql.gz",
        "ahold_options_2025-12-16_230000.sql.gz",
    ],
)
def test_foreign_keys_are_none_of_ours(key: str) -> None:
    assert KEYS.parse(key) is None


@pytest.mark.parametrize("prefix", ["", "a", "a/", "with space/100%/", "é/"])
def test_any_prefix_will_do(prefix: str) -> None:
    keys = Keys(prefix)
    assert keys.parse(keys.of(NAME, Kind.DUMP)) == (NAME, Kind.DUMP)


def test_names_sort_by_database_and_then_by_label() -> None:
    later = BackupName.of("ahold_options", NAME.label + timedelta(seconds=1))
    other = BackupName.of("zebra", NAME.label - timedelta(days=1))
    assert sorted([other, later, NAME]) == [NAME, later, other]


@pytest.mark.parametrize("database", ["-x", "--version", "-"])
def test_no_name_begins_like_an_option(database: str) -> None:
    name = BackupName.of(database, NAME.label)
    assert str(name).startswith("%2D")
    assert BackupName.parse(str(name)) == name
    assert Keys("p/").of(name, Kind.DUMP).startswith(Keys("p/").under(database))
