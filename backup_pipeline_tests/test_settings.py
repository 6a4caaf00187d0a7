"""Settings: where they come from, what they refuse, and what they build."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.model import Codec, RetentionPolicy
from backup_pipeline.engine.names import Keys
from backup_pipeline.errors import InvalidInput
from backup_pipeline.settings import Settings, load_settings

CANARY = "canary-4711"
AMSTERDAM = ZoneInfo("Europe/Amsterdam")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, and an environment without anybody's settings."""
    import os

    for variable in list(os.environ):
        if variable.startswith(("BACKUP_", "PG", "AWS_")):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_reference_deployment() -> None:
    settings = load_settings()
    assert settings == Settings(
        database="ahold_options",
        bucket="options-data",
        prefix="backups/postgres/",
        timezone="Europe/Amsterdam",
        schedule="0 23 * * *",
    )
    assert settings.policy() == RetentionPolicy(days=7, minimum=3, zone=AMSTERDAM)
    assert settings.keys() == Keys("backups/postgres/")
    assert settings.stale_after == timedelta(hours=24)
    assert settings.notify_urls == ()


def test_a_variable_wins_over_the_file_and_an_argument_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("backup.yaml").write_text("bucket: filed\nretention_days: 1\nretention_minimum: 2\n")
    monkeypatch.setenv("BACKUP_RETENTION_DAYS", "14")
    monkeypatch.setenv("BACKUP_RETENTION_MINIMUM", "5")
    settings = load_settings(retention_minimum=9, bucket=None)
    assert settings.bucket == "filed"
    assert settings.policy() == RetentionPolicy(days=14, minimum=9, zone=AMSTERDAM)


def test_the_calendar_of_retention_is_that_of_the_zone() -> None:
    settings = load_settings(
        retention_daily=1, retention_weekly=2, retention_monthly=3, retention_yearly=4,
        timezone="Pacific/Auckland",
    )  # fmt: skip
    assert settings.policy(days=0) == RetentionPolicy(
        0, 3, daily=1, weekly=2, monthly=3, yearly=4, zone=ZoneInfo("Pacific/Auckland")
    )


@pytest.mark.parametrize("rule", ["daily", "weekly", "monthly", "yearly"])
def test_a_calendar_never_keeps_less_than_nothing(rule: str) -> None:
    with pytest.raises(InvalidInput, match=f"BACKUP_RETENTION_{rule.upper()} can't be used"):
        load_settings(**{f"retention_{rule}": -1})


def test_the_file_may_lie_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("bucket: elsewhere\n")
    monkeypatch.setenv("BACKUP_CONFIG", str(other))
    assert load_settings().bucket == "elsewhere"
    other.write_text("")
    assert load_settings().bucket == "options-data"


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_CONFIG", "nowhere.yaml")
    with pytest.raises(InvalidInput, match=r"BACKUP_CONFIG names nowhere\.yaml, and there is no"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"dsn: {CANARY}: [", "is not YAML near line 1"),
        (f"- {CANARY}", "is no list of settings"),
        (f"1: {CANARY}", "is no list of settings"),
        (f"buckett: {CANARY}", "there is no setting `buckett`"),
        (f"dsn: [{CANARY}]", "BACKUP_DSN can't be used"),
        (f"dsn: {CANARY} password", "BACKUP_DSN can't be used: the connection string is not one"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_without_showing_what_it_holds(
    text: str, said: str
) -> None:
    Path("backup.yaml").write_text(text)
    with pytest.raises(InvalidInput) as raised:
        load_settings()
    assert said in raised.value.message
    assert CANARY not in repr(raised.value) + raised.value.hint
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RETENTION_DAYS", "a week", "input should be a valid integer"),
        ("RETENTION_DAYS", "-1", "greater than or equal to 0"),
        ("RETENTION_MINIMUM", "0", "greater than or equal to 1"),
        ("COMPRESSION_LEVEL", "9", "with BACKUP_CODEC=gzip it is a level from 0 to 3"),
        ("COMPRESSION_LEVEL", "-1", "with BACKUP_CODEC=gzip it is a level from 0 to 3"),
        ("CODEC", "bzip2", "'gzip' or 'zstd'"),
        ("TIMEZONE", "Europe/Atlantis", "this machine knows no such time zone"),
        ("TIMEZONE", "../etc/passwd", "this machine knows no such time zone"),
        ("SCHEDULE", "daily", "five fields of cron"),
        ("PREFIX", "../x", "a prefix is no path"),
        ("BUCKET", "a/b", "should match pattern"),
        ("DATABASE", "x" * 64, "1 to 63 bytes"),
        ("S3_CHECKSUMS", "never", "'when_supported' or 'when_required'"),
        ("S3_ENDPOINT_URL", f"http://user:{CANARY}@nas:9000", "should match pattern"),
        ("NOTIFY_URLS", f'["{CANARY}"', "delimiter"),
        ("LOCK_TIMEOUT", "0", "greater than 0"),
        ("POSTGRES_TIMEOUT", "0.5", "greater than or equal to 1"),
        ("CLIENT_MINIMUMS", "18.4 newest", "look like 17.12"),
    ],
)
def test_a_value_that_can_not_be_used_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"BACKUP_{variable}", value)
    with pytest.raises(InvalidInput) as raised:
        load_settings()
    assert raised.value.message.startswith(f"BACKUP_{variable} can't be used: ")
    assert said in raised.value.message
    assert CANARY not in str(raised.value)


def test_the_level_goes_by_the_codec() -> None:
    chosen = [load_settings(), load_settings(codec="zstd"), load_settings(compression_level=3)]
    assert [(each.codec, each.compression_level) for each in chosen] == [
        (Codec.GZIP, 1),
        (Codec.ZSTD, 3),
        (Codec.GZIP, 3),
    ]
    assert load_settings(codec="zstd", compression_level=19).compression_level == 19


@pytest.mark.parametrize(
    ("field", "most"),
    [("retention_days", 36_500), ("stale_upload_hours", 8_760), ("s3_max_attempts", 20)],
)
def test_what_no_calendar_and_no_patience_holds_is_refused(field: str, most: int) -> None:
    """A century of days, a year of hours: what lies far beyond is no date any more."""
    assert getattr(load_settings(**{field: most}), field) == most
    with pytest.raises(InvalidInput, match=f"BACKUP_{field.upper()} can't be used"):
        load_settings(**{field: most + 1})


@pytest.mark.parametrize("level", [0, 20])
def test_a_level_that_the_codec_has_not_is_refused_naming_both(level: int) -> None:
    said = "BACKUP_COMPRESSION_LEVEL can't be used: with BACKUP_CODEC=zstd it is a level from 1 to"
    with pytest.raises(InvalidInput, match=said):
        load_settings(codec="zstd", compression_level=level)


@pytest.mark.parametrize(
    ("environment", "database"),
    [
        ({"PGDATABASE": "named"}, "named"),
        ({"PGDATABASE": "named", "BACKUP_DATABASE": "ours"}, "ours"),
        ({"PGDATABASE": "named", "BACKUP_DSN": "postgresql://postgres@nas/postgres"}, "postgres"),
        ({"PGDATABASE": "named", "BACKUP_DSN": "postgresql://nas"}, "named"),
        ({"PGUSER": "postgres"}, "ahold_options"),
        ({"BACKUP_DSN": "host=nas"}, "ahold_options"),
    ],
)
def test_libpq_names_the_database_where_we_do_not(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], database: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.database == database
    assert settings.server().database == database


@pytest.mark.parametrize(
    ("given", "normal"),
    [("/a/b", "a/b/"), ("a//b/", "a/b/"), ("a", "a/"), ("/", ""), ("backups/x/", "backups/x/")],
)
def test_a_prefix_ends_with_a_slash_and_does_not_begin_with_one(given: str, normal: str) -> None:
    assert load_settings(prefix=given).prefix == normal


def test_lists_are_written_as_in_a_shell_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", "/a/bin:/b/bin")
    monkeypatch.setenv("BACKUP_NOTIFY_URLS", "json://a mailto://b?to=c,d\nslack://e")
    settings = load_settings()
    assert settings.clients_dirs() == (Path("/a/bin"), Path("/b/bin"))
    urls = [url.get_secret_value() for url in settings.notify_urls]
    assert urls == ["json://a", "mailto://b?to=c,d", "slack://e"]
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", '["/c d/bin"]')
    assert load_settings().clients_dirs() == (Path("/c d/bin"),)


def test_a_minimum_of_the_client_tools_takes_the_place_of_the_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = load_settings().minimums
    assert known == {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}
    monkeypatch.setenv("BACKUP_CLIENT_MINIMUMS", "18.4 13.22")
    assert load_settings().minimums == {**known, 18: 4, 13: 22}


def test_no_representation_shows_a_secret() -> None:
    settings = load_settings(
        dsn=f"postgresql://u:{CANARY}@nas/db", notify_urls=[f"slack://{CANARY}"]
    )
    shown = f"{settings!r} {settings} {settings.server()!r} {settings.server().describe()}"
    shown += f"{settings.source()!r} {settings.store()!r} {settings.model_dump_json()}"
    assert CANARY not in shown


def test_client_tools_are_looked_for_on_the_path_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/mine/bin:")
    directories = load_settings().clients_dirs()
    assert directories[0] == Path("/mine/bin")
    assert Path() not in directories


def test_the_source_and_the_store_are_as_configured() -> None:
    settings = load_settings(
        database="ours",
        lock_timeout=5,
        postgres_timeout=7,
        s3_endpoint_url="http://nas:9000",
        s3_region="eu-west-1",
    )
    assert settings.source().server.database == "ours"
    assert settings.source().lock_timeout == 5
    assert (settings.server().patience, settings.drill_server().patience) == (7, 7)
    assert settings.store().describe() == "s3://options-data at http://nas:9000"


@pytest.mark.parametrize(
    ("now", "name"),
    [
        (datetime(2025, 12, 16, 22, 0, 1, 999, tzinfo=UTC), "ahold_options_2025-12-16_230001"),
        (datetime(2025, 6, 30, 22, 30, tzinfo=UTC), "ahold_options_2025-07-01_003000"),
    ],
)
def test_a_name_carries_local_time(now: datetime, name: str) -> None:
    assert str(load_settings().name(now)) == name


def test_a_name_may_carry_another_day() -> None:
    now = datetime(2025, 12, 18, 9, 8, 7, tzinfo=UTC)
    name = load_settings().name(now, date(2025, 12, 16))
    assert str(name) == "ahold_options_2025-12-16_100807"


def test_public_keys_are_separated_by_blanks_and_make_a_dump_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = Identity.made().recipient, Identity.made().recipient
    monkeypatch.setenv("BACKUP_RECIPIENTS", f"{one} {other}")
    settings = load_settings(jobs=4)
    assert settings.public_keys() == [one, other]
    assert (settings.source().jobs, settings.jobs) == (1, 4)
    assert load_settings(recipients=[str(one)], jobs=4).public_keys() == [one]


def test_a_private_key_among_the_public_ones_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = Identity.made().secret
    monkeypatch.setenv("BACKUP_RECIPIENTS", secret)
    with pytest.raises(InvalidInput, match="BACKUP_RECIPIENTS can't be used") as error:
        load_settings()
    assert secret not in error.value.message


def test_private_keys_come_from_a_file_that_is_named_where_it_can_not_be_read() -> None:
    assert load_settings().identities() == ()
    identities = [Identity.made(), Identity.made()]
    Path("keys").write_text("".join(f"# one\n{each.secret}\n" for each in identities))
    assert [*load_settings(identity_file="keys").identities()] == identities
    with pytest.raises(InvalidInput, match="nowhere can't be read: No such file"):
        load_settings(identity_file="nowhere").identities()
    Path("keys").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="keys can't be read: it is no text"):
        load_settings(identity_file="keys").identities()
