"""The command line: parsing, output for people and for programs, errors and exit codes."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup_pipeline import errors
from backup_pipeline.cli import commands, output, run, words
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.choice import named_backup, new_database, parse_moment
from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.model import Act, Manifest, Section, State
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.engine.notify import Outcome
from backup_pipeline.engine.store import ObjectInfo, Part, UploadInfo
from backup_pipeline.errors import ChildFailed, InvalidInput
from backup_pipeline.settings import Settings
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakePostgres, globals_sql
from backup_pipeline_tests.made_backups import KEYS, make_backup, make_evidence

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
CANARY = "canary-4711"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """An empty directory, and an environment without anybody's settings."""
    for variable in list(os.environ):
        if variable.startswith(("BACKUP_", "PG", "AWS_")):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The bucket that every command of this process gets."""
    memory = MemoryStore()
    monkeypatch.setattr(Settings, "store", lambda _: memory)
    return memory


def ago(**span: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(**span)


class Ran:
    """What a command said and ended with."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Ran:
        code = run(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def test_help_names_every_command_and_says_what_it_does(cli: Any) -> None:
    ran = cli("--help")
    assert ran.code == 0
    for name in commands.commands:
        assert f"\n  {name} " in ran.out
    # A sentence that does not fit is cut.
    assert "..." not in ran.out.partition("Commands:")[2]


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_command_explains_itself(cli: Any, name: str) -> None:
    ran = cli(name, "--help")
    assert ran.code == 0
    assert f"Usage: backup-pipeline {name}" in ran.out


def test_help_loads_nothing_heavy() -> None:
    heavy = ("rich", "pydantic", "psycopg", "botocore", "dagster", "apprise")
    code = f"""
import sys
from backup_pipeline.cli import run
assert run(["--help"]) == 0
assert run(["restore", "--help"]) == 0
assert not [name for name in {heavy!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["list", "--frobnicate"], "--frobnicate"),
        (["backup", "--date", "yesterday"], "'yesterday' does not match the format"),
        (["backup", "--date", "2025-02-30"], "does not match the format"),
        (["backup", "--retention-days", "-1"], "-1 is not in the range"),
        (["prune", "--retention-days", "36501"], "36501 is not in the range"),
        (["verify"], "Give one of NAME, --latest and --all."),
        (["verify", "x", "--all"], "Give one of NAME, --latest and --all."),
        (["restore"], "Give one of --list, --latest, --at and --backup."),
        (["restore", "--latest", "--list"], "Give one of --list, --latest, --at and --backup."),
        (["restore", "--latest", "--disconnect"], "--wait and --disconnect go with --replace."),
        (["restore", "--latest", "--wait", "5"], "--wait and --disconnect go with --replace."),
        (["restore", "--latest", "--replace", "--wait", "-1"], "-1.0 is not in the range"),
        (["restore", "--latest", "--since", "2025-12-16"], "--since and --until go with --list."),
        (
            ["restore", "--latest", "--table", "t", "--replace"],
            "A part of a backup can't --replace",
        ),
        (["list", "--since", "noon"], "'noon' is no time"),
        (["list", "--until", ""], "'' is no time"),
        (["restore", "--at", "noon"], "'noon' is no time"),
        (["restore", "--latest", "--into", ""], "can't be the name of a database"),
        (["restore", "--latest", "--into", "x" * 64], "can't be the name of a database"),
        (["backup", "--globals", "some"], "'some' is not one of"),
        (["globals"], "Give one of --latest, --at and --backup."),
        (["globals", "--latest", "--at", "noon"], "Give one of --latest, --at and --backup."),
        (["globals", "--at", "noon"], "'noon' is no time"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    cli: Any, store: MemoryStore, arguments: list[str], said: str
) -> None:
    make_backup(store, ago(hours=1))
    ran = cli(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err
    assert "\nhint: " in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "name",
    ["", "--version", "-f/x", "a=b", "../x_2025-12-16_230000", "$(id)_2025-12-16_230000", "x\ny",
     "postgresql://nas/x", "x_2025-13-16_230000", "ahold_options_2025-12-16_230000.sql.gz"],
)  # fmt: skip
@pytest.mark.parametrize(
    "command", [["show"], ["verify"], ["keep"], ["unkeep"], ["restore", "--backup"]]
)
def test_a_hostile_name_is_refused(
    cli: Any, store: MemoryStore, command: list[str], name: str
) -> None:
    separator = ["--"] if command[-1] != "--backup" else []
    ran = cli(*command, *separator, name)
    assert ran.code == 2
    assert f"{name!r} is not the name of a backup" in ran.err
    assert not store.objects


@pytest.mark.usefixtures("store")
def test_a_backup_that_does_not_exist_ends_with_4(cli: Any) -> None:
    name = "ahold_options_2025-12-16_230000"
    for command in (
        ["show", name],
        ["verify", name],
        ["keep", name],
        ["unkeep", name],
        ["restore", "--backup", name],
    ):
        ran = cli(*command)
        assert ran.code == 4
        assert f"there is no backup {name}" in ran.err
    for command in (["verify", "--latest"], ["restore", "--latest"]):
        assert cli(*command).code == 4


def test_a_bad_setting_ends_with_2(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_RETENTION_DAYS", "soon")
    ran = cli("list")
    assert ran.code == 2
    assert ran.err.startswith("error: BACKUP_RETENTION_DAYS can't be used: ")


def test_an_error_is_one_document_for_programs(cli: Any, store: MemoryStore) -> None:
    ran = cli("show", "--json", "ahold_options_2025-12-16_230000")
    assert ran.document == {
        "error": "NotFound",
        "message": "there is no backup ahold_options_2025-12-16_230000 in s3://memory in memory",
        "hint": "`backup-pipeline list` shows what there is.",
        "notes": [],
        "exit_code": 4,
    }
    assert ran.err == ""
    assert cli("list", "--json", "--no").document["error"] == "InvalidInput"
    store.bucket_exists = False
    assert cli("list", "--json").document["exit_code"] == 6


def test_an_unforeseen_error_ends_with_1_and_shows_its_trace_only_when_asked(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Settings) -> MemoryStore:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(Settings, "store", broken)
    ran = cli("list")
    assert ran.code == 1
    assert ran.err.startswith("error: RuntimeError: out of cheese\nhint: ")
    monkeypatch.setenv("BACKUP_DEBUG", "1")
    assert "Traceback" in cli("list").err


def test_an_interruption_ends_with_130(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Settings) -> MemoryStore:
        raise KeyboardInterrupt

    monkeypatch.setattr(Settings, "store", interrupted)
    assert cli("list").code == 130
    assert cli("list", "--json").document["error"] == "Interrupted"


@pytest.mark.parametrize("error", [errors.StoreUnreachable("gone"), KeyboardInterrupt()])
def test_what_an_error_left_behind_is_told_with_it(
    cli: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    error.add_note("a part was left")

    def failing(_: Settings) -> MemoryStore:
        raise error

    monkeypatch.setattr(Settings, "store", failing)
    assert "note: a part was left" in cli("list").err.splitlines()
    assert cli("list", "--json").document["notes"] == ["a part was left"]


@pytest.mark.parametrize("error", errors.BackupPipelineError.__subclasses__())
def test_every_error_ends_with_its_own_code(
    cli: Any, monkeypatch: pytest.MonkeyPatch, error: type[errors.BackupPipelineError]
) -> None:
    def failing(_: Settings) -> MemoryStore:
        raise error("it failed")

    monkeypatch.setattr(Settings, "store", failing)
    ran = cli("list")
    assert ran.code == error.exit_code
    assert ran.err == f"error: it failed\nhint: {error.default_hint}\n"


def test_list_prints_stable_lines_where_nobody_looks(cli: Any, store: MemoryStore) -> None:
    taken_at = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
    name = make_backup(store, taken_at)
    size = store.head(KEYS.of(name, Kind.DUMP)).size
    assert cli("list").out == f"{name}\t2025-12-16T22:00:00Z\t{size}\t42\tverified\t\n"


def test_list_is_newest_first_and_of_one_database_if_asked(cli: Any, store: MemoryStore) -> None:
    old, new = (make_backup(store, ago(days=days)) for days in (2, 1))
    other = make_backup(store, ago(days=3), database="other", verified=False)
    listed = [line.split("\t")[0] for line in cli("list").out.splitlines()]
    assert listed == [str(new), str(old), str(other)]
    (backup,) = cli("list", "--database", "other", "--json").document["backups"]
    assert (backup["name"], backup["state"]) == (str(other), "failed")
    assert cli("restore", "--list").out == cli("list").out


def test_list_is_of_a_span_of_time_if_asked_both_ends_included(
    cli: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_TIMEZONE", "Europe/Amsterdam")
    first, second, third = (
        make_backup(store, datetime(2025, 12, day, 22, 0, tzinfo=UTC)) for day in (14, 15, 16)
    )

    def listed(*options: str) -> list[str]:
        lines = cli("list", *options).out.splitlines()
        assert cli("restore", "--list", *options).out.splitlines() == lines
        return [line.split("\t")[0] for line in lines]

    assert listed("--since", "2025-12-15T23:00") == [str(third), str(second)]
    assert listed("--since", "2025-12-15T23:00:01") == [str(third)]
    assert listed("--until", "2025-12-15T22:00Z") == [str(second), str(first)]
    assert listed("--since", "2025-12-15", "--until", "2025-12-16") == [str(second)]
    assert listed("--since", "2026-01-01") == []
    document = cli("list", "--json", "--until", "2025-12-15").document
    assert [backup["name"] for backup in document["backups"]] == [str(first)]


def test_metrics_are_printed_or_written_into_a_file(
    cli: Any, store: MemoryStore, tmp_path: Path
) -> None:
    make_backup(store, ago(days=1))
    printed = cli("metrics")
    assert printed.code == 0
    assert '\nbackup_pipeline_newest_rows{database="ahold_options"} 42.0\n' in printed.out
    written = cli("metrics", "--output", "backup_pipeline.prom")
    assert (written.code, written.out, written.err) == (0, "", "")
    assert (tmp_path / "backup_pipeline.prom").read_text() == printed.out
    assert [each.name for each in tmp_path.iterdir()] == ["backup_pipeline.prom"]
    assert {
        "name": "backup_pipeline_newest_rows",
        "labels": {"database": "ahold_options"},
        "value": 42.0,
    } in cli("metrics", "--json").document


def test_metrics_of_the_database_that_is_set_are_told_before_it_has_a_backup(
    cli: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(store, ago(days=1))
    monkeypatch.setenv("BACKUP_DATABASE", "orders")
    said = cli("metrics").out
    assert 'newest_verified_timestamp_seconds{database="orders"} 0.0\n' in said
    assert 'newest_verified_timestamp_seconds{database="ahold_options"} 1' in said


@pytest.mark.usefixtures("store")
def test_metrics_that_can_not_be_written_end_with_1_and_leave_nothing(
    cli: Any, tmp_path: Path
) -> None:
    ran = cli("metrics", "--output", "nowhere/backup_pipeline.prom")
    assert ran.code == 1
    assert ran.err.startswith("error: nowhere/backup_pipeline.prom can't be written: No such file")
    assert [*tmp_path.iterdir()] == []


def test_metrics_of_a_store_that_can_not_be_read_leave_the_old_file_as_it_was(
    cli: Any, store: MemoryStore, tmp_path: Path
) -> None:
    (tmp_path / "backup_pipeline.prom").write_text("old\n")
    store.bucket_exists = False
    assert cli("metrics", "--output", "backup_pipeline.prom").code == 6
    assert (tmp_path / "backup_pipeline.prom").read_text() == "old\n"


def test_list_names_what_belongs_to_no_backup(cli: Any, store: MemoryStore) -> None:
    store.put(f"{KEYS.prefix}evil\x1b[2Jname", b"1234")
    ran = cli("list")
    assert ran.out == ""
    assert "evil\\x1b[2Jname (4 B) belongs to no backup: not an object of this software" in ran.err
    (stray,) = cli("list", "--json").document["strays"]
    assert stray["size"] == 4


def test_show_tells_all_that_is_known(cli: Any, store: MemoryStore) -> None:
    name = make_backup(store, ago(hours=5))
    make_evidence(store, name, passed=False)
    ran = cli("show", str(name))
    assert ran.code == 0
    for said in (
        str(name),
        "42 rows",
        "one bit is flipped",
        "public\tquotes\t42",
        "verify: passed",
    ):
        assert said in ran.out
    document = cli("show", str(name), "--json").document
    assert document["manifest"]["source"]["server_version"] == "18.1"
    assert [entry["passed"] for entry in document["evidence"]] == [True, False]


def test_show_survives_damaged_evidence(cli: Any, store: MemoryStore) -> None:
    name = make_backup(store, ago(hours=5))
    store.put(KEYS.of(name, Kind.EVIDENCE), b"{", overwrite=True)
    ran = cli("show", str(name))
    assert ran.code == 0
    assert "is damaged" in ran.out


def test_show_of_a_forged_manifest_ends_with_7(cli: Any, store: MemoryStore) -> None:
    name = make_backup(store, ago(hours=5))
    key = KEYS.of(name, Kind.MANIFEST)
    manifest = from_json(Manifest, store.objects[key].body, key)
    store.put(key, to_json(replace(manifest, name="other_2025-12-16_230000")), overwrite=True)
    assert cli("show", str(name)).code == 7


def test_verify_ends_with_7_when_any_backup_fails(cli: Any, store: MemoryStore) -> None:
    """The made backups are no gzip files, so all of them fail."""
    names = [make_backup(store, ago(days=days)) for days in (1, 2)]
    forged = make_backup(store, ago(days=3))
    store.put(KEYS.of(forged, Kind.MANIFEST), b"{", overwrite=True)
    ran = cli("verify", "--all")
    assert ran.code == 7
    assert "3 of 3 backups failed" in ran.err
    assert [line.split(": ")[0] for line in ran.out.splitlines()] == [*map(str, names), str(forged)]
    assert "1 of 1 backups failed" in cli("verify", "--latest").err
    assert cli("verify", "--json", str(names[1])).document["error"] == "VerificationFailed"


def test_verify_all_passes_over_what_a_prune_has_taken_meanwhile(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pruned(MemoryStore):
        """One backup goes as soon as another has been looked at."""

        def put(self, key: str, body: bytes, *, overwrite: bool = False) -> ObjectInfo:
            if key == KEYS.of(first, Kind.EVIDENCE):
                self.delete(KEYS.of(second, Kind.MANIFEST))
            return super().put(key, body, overwrite=overwrite)

    memory = Pruned()
    monkeypatch.setattr(Settings, "store", lambda _: memory)
    moments = [ago(days=days) for days in (1, 2, 3)]
    first, second, third = (BackupName.of("ahold_options", moment) for moment in moments)
    for moment in moments:
        make_backup(memory, moment, verified=None)
    ran = cli("verify", "--all")
    assert ran.code == 7
    assert "2 of 2 backups failed" in ran.err
    assert f"warning: there is no backup {second} in" in ran.err
    assert [line.split(": ")[0] for line in ran.out.splitlines()] == [str(first), str(third)]
    assert cli("verify", str(second)).code == 4


PLAIN_DUMP = b"""--
-- PostgreSQL database dump
--

-- Dumped from database version 16.4
-- Dumped by pg_dump version 16.4

COPY public.quotes (price) FROM stdin;
2.50
\\.


--
-- PostgreSQL database dump complete
--

"""


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_adopt_all_passes_over_what_can_not_be_adopted(
    cli: Any, store: MemoryStore, options: tuple[str, ...]
) -> None:
    expiring, good = (BackupName.of("ahold_options", ago(days=days)) for days in (3, 1))
    for name in (expiring, good):
        store.put(KEYS.of(name, Kind.DUMP), gzip.compress(PLAIN_DUMP))
    make_evidence(store, expiring, act=Act.EXPIRE)
    ran = cli("adopt", "--all", *options)
    assert ran.code == 0
    assert [line.split(": ")[0] for line in ran.out.splitlines()] == [str(good)]
    assert f"warning: {expiring} is passed over: the deletion of {expiring} was begun" in ran.err
    assert cli("adopt", str(expiring), *options).code == 3


@pytest.mark.parametrize("error", [errors.ObjectExists, errors.NotFound, errors.ObjectMissing])
def test_adopt_all_passes_over_what_somebody_else_took_meanwhile(
    cli: Any,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    error: type[errors.BackupPipelineError],
) -> None:
    def taken(*_: object, **__: object) -> None:
        raise error("somebody was quicker")

    name = BackupName.of("ahold_options", ago(days=1))
    store.put(KEYS.of(name, Kind.DUMP), gzip.compress(PLAIN_DUMP))
    monkeypatch.setattr("backup_pipeline.engine.adopt.adopt", taken)
    ran = cli("adopt", "--all")
    assert (ran.code, ran.err) == (0, f"warning: {name} is passed over: somebody was quicker\n")
    assert cli("adopt", str(name)).code == error.exit_code


def test_show_needs_no_other_backup(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryStore):
        def read(
            self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
        ) -> Iterator[bytes]:
            if key == KEYS.of(other, Kind.MANIFEST):
                raise errors.StoreUnreachable(f"no answer for {key!r}")
            return super().read(key, start, length, etag=etag)

    memory = Broken()
    monkeypatch.setattr(Settings, "store", lambda _: memory)
    name, other = (make_backup(memory, ago(days=days), verified=None) for days in (1, 2))
    assert cli("show", str(name)).code == 0
    assert named_backup(memory, KEYS, name).name == name
    assert cli("show", str(other)).code == 6


def test_prune_tells_each_decision(cli: Any, store: MemoryStore) -> None:
    kept, expired = (make_backup(store, ago(days=days)) for days in (1, 30))
    made = [make_backup(store, ago(days=days)) for days in (2, 3)]
    ran = cli("prune", "--dry-run")
    assert ran.code == 0
    assert f"{kept}\tkeep\tyounger than 7 days\n" in ran.out
    assert f"{expired}\texpire\t30 days old, and 3 newer verified ones stay\n" in ran.out
    assert "3 backups kept, would delete 1 (" in ran.out
    assert KEYS.of(expired, Kind.DUMP) in store.objects
    document = cli("prune", "--json", "--retention-days", "2").document
    assert (document["deleted"], document["dry_run"]) == ([str(expired)], False)
    assert KEYS.of(expired, Kind.DUMP) not in store.objects
    assert all(KEYS.of(name, Kind.DUMP) in store.objects for name in made)


def test_keep_pins_a_backup_and_unkeep_lets_go_of_it(cli: Any, store: MemoryStore) -> None:
    kept, pinned, *_ = (make_backup(store, ago(days=days)) for days in (1, 50, 2, 3))
    ran = cli("keep", str(pinned), "--reason", "before the migration")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{pinned} is kept until `backup-pipeline unkeep {pinned}`\n"
    pins = {line.split("\t")[0]: line.split("\t")[5] for line in cli("list").out.splitlines()}
    assert (pins[str(kept)], pins[str(pinned)]) == ("", "pinned")
    listed = {each["name"]: each["pin"] for each in cli("list", "--json").document["backups"]}
    assert (listed[str(kept)], listed[str(pinned)]) == (None, "before the migration")
    assert "pin         before the migration\n" in cli("show", str(pinned)).out
    assert "pin         none\n" in cli("show", str(kept)).out
    assert f"{pinned}\tkeep\tpinned: before the migration\n" in cli("prune").out
    assert cli("unkeep", str(pinned)).code == 0
    assert cli("prune", "--json").document["deleted"] == [str(pinned)]


def test_a_pin_needs_no_reason_and_is_a_document_for_programs(cli: Any, store: MemoryStore) -> None:
    name = make_backup(store, ago(days=50))
    document = cli("keep", "--json", str(name)).document
    assert (document["name"], document["pin"]) == (str(name), "")
    assert datetime.fromisoformat(document["at"]) > ago(minutes=5)
    assert "pin         pinned\n" in cli("show", str(name)).out
    assert cli("unkeep", "--json", str(name)).document == {"name": str(name), "pin": None}
    ran = cli("keep", str(name), "--reason", "two\nlines")
    assert (ran.code, KEYS.of(name, Kind.PIN) in store.objects) == (2, False)


def test_prune_obeys_the_calendar_that_is_set(
    cli: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(store, ago(days=1))
    for year, month in ((2019, 6), (2019, 5), (2018, 1), (2017, 1)):
        make_backup(store, datetime(year, month, 1, tzinfo=UTC))
    monkeypatch.setenv("BACKUP_RETENTION_MINIMUM", "1")
    monkeypatch.setenv("BACKUP_RETENTION_YEARLY", "3")
    ran = cli("prune", "--dry-run")
    assert ran.out.count("(yearly, ") == 2
    assert ran.out.count("\texpire\t") == 2


def test_prune_ends_with_3_while_the_newest_is_not_verified(cli: Any, store: MemoryStore) -> None:
    make_backup(store, ago(days=30))
    make_backup(store, ago(days=1), verified=None)
    ran = cli("prune")
    assert ran.code == 3
    assert "hint: Run `backup-pipeline verify --latest`, then prune again." in ran.err
    assert cli("prune", "--dry-run").code == 0


@pytest.fixture
def fake_postgres(monkeypatch: pytest.MonkeyPatch) -> FakePostgres:
    """The server whose databases the commands of this process back up."""
    server = FakePostgres()
    monkeypatch.setattr(Settings, "source", lambda settings: server.dump_source(settings.database))
    return server


@pytest.mark.usefixtures("fake_postgres")
def test_backup_makes_verifies_and_prunes(cli: Any, store: MemoryStore) -> None:
    expired = make_backup(store, ago(days=30))
    for days in (1, 2):
        make_backup(store, ago(days=days))
    ran = cli("backup")
    name, made, verified, pruned = ran.out.splitlines()
    assert ran.code == 0
    assert ran.err == ""
    assert BackupName.parse(name).database == "ahold_options"
    assert "1 tables, 3 rows" in made
    assert verified.startswith("verified: ")
    assert pruned.startswith("3 backups kept, deleted 1 (")
    assert KEYS.of(expired, Kind.DUMP) not in store.objects
    assert f"{name}\t" in cli("list").out


@pytest.mark.usefixtures("store", "fake_postgres")
def test_backup_warns_of_client_tools_without_security_fixes(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_CLIENT_MINIMUMS", "18.8")
    ran = cli("backup")
    assert ran.code == 0
    assert ran.err == "warning: pg_dump 18.7 is older than 18.8, the security minimum\n"


@pytest.mark.usefixtures("fake_postgres")
def test_backup_without_verification_reads_nothing_and_deletes_nothing(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WriteOnly(MemoryStore):
        def _denied(self, *_: object, **__: object) -> Any:
            raise errors.StoreDenied("only writing is allowed")

        head = read = list = delete = list_uploads = _denied

    memory = WriteOnly()
    monkeypatch.setattr(Settings, "store", lambda _: memory)
    document = cli("backup", "--no-verify", "--json").document
    assert document["verification"] is None
    assert "prune" not in document
    assert len(memory.objects) == 3
    ran = cli("backup", "--no-verify", "--date", "2001-02-03")
    assert (ran.code, ran.err) == (0, "")
    assert "not verified" in ran.out
    assert cli("backup", "--date", "2001-02-04").code == 6


@pytest.mark.usefixtures("store", "fake_postgres")
def test_backup_carries_another_date_in_its_name_and_the_true_time_in_its_manifest(
    cli: Any,
) -> None:
    document = cli("backup", "--date", "2001-02-03", "--json").document
    assert document["name"].startswith("ahold_options_2001-02-03_")
    assert datetime.fromisoformat(document["taken_at"]) > ago(minutes=5)
    assert document["verification"]["passed"] is True
    assert document["prune"]["deleted"] == []


@pytest.mark.usefixtures("fake_postgres")
def test_backup_can_leave_everything_where_it_is(cli: Any, store: MemoryStore) -> None:
    expired = [make_backup(store, ago(days=days)) for days in (30, 31, 32, 33)]
    assert "prune" not in cli("backup", "--no-prune", "--json").document
    assert all(KEYS.of(name, Kind.DUMP) in store.objects for name in expired)


@pytest.mark.usefixtures("fake_postgres")
def test_a_backup_that_is_not_whole_ends_with_7_and_nothing_is_pruned(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaging(MemoryStore):
        def upload_part(
            self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
        ) -> Part:
            return super().upload_part(key, upload_id, number, bytes(body)[:-1] + b"?")

    memory = Damaging()
    monkeypatch.setattr(Settings, "store", lambda _: memory)
    expired = [make_backup(memory, ago(days=days)) for days in (30, 31, 32, 33)]
    ran = cli("backup")
    assert ran.code == 7
    assert "is not what was dumped" in ran.err
    assert all(KEYS.of(name, Kind.DUMP) in memory.objects for name in expired)


def test_a_dump_that_fails_leaves_nothing_and_ends_with_1(
    cli: Any, store: MemoryStore, fake_postgres: FakePostgres
) -> None:
    def fail(_: Section) -> None:
        raise ChildFailed("pg_dump ended with 1: out of cheese")

    fake_postgres.fail = fail
    ran = cli("backup")
    assert ran.code == 1
    assert ran.err.startswith("error: pg_dump ended with 1: out of cheese\n")
    assert not store.objects


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("store", "fake_postgres")
def test_a_notifier_that_fails_is_reported_and_never_fails_a_good_backup(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_NOTIFY_URLS", "nonsense://canary-4711")
    ran = cli("backup", "--json")
    assert ran.code == 0
    assert len(ran.document["notifications_failed"]) == 1
    assert "warning: notification service 1" in ran.err
    assert "canary" not in ran.out + ran.err


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """What people are told."""
    outcomes: list[Outcome] = []

    def notify(_: object, outcome: Outcome) -> tuple[str, ...]:
        outcomes.append(outcome)
        return ()

    monkeypatch.setenv("BACKUP_NOTIFY_URLS", "json://nowhere")
    monkeypatch.setattr("backup_pipeline.engine.notify.notify", notify)
    return outcomes


# --- roles and other globals


@pytest.fixture
def with_globals(cli: Any, fake_postgres: FakePostgres) -> str:
    """The name of a backup that has them, without passwords."""
    assert fake_postgres.dumps == 0
    made = cli("backup", "--globals", "without-passwords", "--json").document
    assert made["globals"] == "without-passwords"
    return str(made["name"])


@pytest.mark.usefixtures("store")
def test_globals_are_written_as_they_are(cli: Any, with_globals: str) -> None:
    for which in (["--latest"], ["--backup", with_globals], ["--at", "2999-01-01"]):
        ran = cli("globals", *which)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.encode() == globals_sql(passwords=False)


@pytest.mark.usefixtures("store", "fake_postgres")
def test_the_setting_asks_for_them_and_the_flag_wins(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_GLOBALS", "with-passwords")
    name = cli("backup", "--json").document["name"]
    shown = cli("show", name, "--json").document
    assert shown["globals"] == "with-passwords"
    assert shown["manifest"]["globals_script"]["passwords"] is True
    assert "\nglobals     with passwords\n" in cli("show", name).out
    assert "SCRAM" in cli("globals", "--latest").out
    other = cli("backup", "--globals", "none", "--date", "2025-12-16", "--json").document
    assert other["globals"] == "none"
    ran = cli("globals", "--backup", other["name"])
    assert (ran.code, ran.out) == (4, "")
    assert "has no roles and other globals" in ran.err
    assert "hint: A backup has them that is made with BACKUP_GLOBALS or --globals" in ran.err


@pytest.mark.usefixtures("store")
def test_globals_go_into_a_new_file_that_nobody_else_may_read(
    cli: Any, with_globals: str, tmp_path: Path
) -> None:
    path = tmp_path / "globals.sql"
    document = cli("globals", "--latest", "--output", str(path), "--json").document
    assert (document["name"], document["output"]) == (with_globals, str(path))
    assert path.read_bytes() == globals_sql(passwords=False)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("mine")
    ran = cli("globals", "--latest", "--output", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert "can't be written: File exists" in ran.err
    assert path.read_text() == "mine"


def test_nothing_of_damaged_globals_is_written(
    cli: Any, store: MemoryStore, with_globals: str, tmp_path: Path
) -> None:
    key = KEYS.of(BackupName.parse(with_globals), Kind.GLOBALS)
    body = store.objects[key].body
    store.put(key, body[:-1] + bytes([body[-1] ^ 1]), overwrite=True)
    path = tmp_path / "globals.sql"
    for where in ([], ["--output", str(path)]):
        ran = cli("globals", "--latest", *where)
        assert (ran.code, ran.out) == (7, "")
        assert "the script of the globals is not the one that was stored" in ran.err
    assert not path.exists()


@pytest.mark.usefixtures("store")
def test_a_script_beside_a_document_has_nowhere_to_go(cli: Any, with_globals: str) -> None:
    ran = cli("globals", "--backup", with_globals, "--json")
    assert ran.code == 2
    assert "--json goes with --output" in ran.document["message"]


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.usefixtures("fake_postgres")
def test_a_prune_that_fails_is_not_told_as_a_backup_that_failed(
    cli: Any, store: MemoryStore, told: list[Outcome], options: tuple[str, ...]
) -> None:
    def list_uploads(prefix: str) -> Iterator[UploadInfo]:
        raise errors.InvalidInput(f"no uploads under {prefix}")

    store.list_uploads = list_uploads  # type: ignore[method-assign]  # what a prune does last
    ran = cli("backup", *options)
    (backup,) = read_catalog(store, KEYS).backups
    assert ran.code == errors.InvalidInput.exit_code
    assert backup.state is State.VERIFIED
    assert (ran.err if options else ran.out).startswith(f"{backup.name}\n")
    (outcome,) = told
    assert outcome.title == f"{backup.name} is made and verified, but the prune failed"
    assert not outcome.succeeded


def test_people_are_told_of_what_nobody_has_foreseen(
    cli: Any, store: MemoryStore, fake_postgres: FakePostgres, told: list[Outcome]
) -> None:
    def fail(_: Section) -> None:
        raise KeyError(CANARY)

    fake_postgres.fail = fail
    assert cli("backup").code == 1
    (outcome,) = told
    assert outcome.title.endswith(" failed")
    assert outcome.lines[0].startswith("KeyError: ")
    assert CANARY not in outcome.lines[0]


def test_sizes_are_told_with_three_digits() -> None:
    sizes = [0, 999, 1000, 12_345_678, 999_949, 999_960, 123_456_789, 10**15]
    assert [words.size(count) for count in sizes] == [
        "0 B", "999 B", "1.0 kB", "12.3 MB", "1.0 MB", "1.0 MB", "123 MB", "1.0 PB",
    ]  # fmt: skip


def test_ages_are_told_in_their_largest_unit() -> None:
    spans = [timedelta(seconds=5), timedelta(minutes=1), timedelta(hours=47), timedelta(days=-2)]
    assert [words.age(span) for span in spans] == [
        "less than a minute", "1 minute", "1 day", "in 2 days",
    ]  # fmt: skip
    assert [words.seconds(count) for count in (0.04, 59.9, 59.96, 125)] == [
        "0.0 s", "59.9 s", "1 min 00 s", "2 min 05 s",
    ]  # fmt: skip


def test_what_a_bucket_holds_moves_no_cursor() -> None:
    assert output.printable("é\x1b[2J\n\u202e") == "é\\x1b[2J\\n\\u202e"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-12-10T12:00", datetime(2025, 12, 10, 11, 0, tzinfo=UTC)),
        ("2025-07-10 12:00:30", datetime(2025, 7, 10, 10, 0, 30, tzinfo=UTC)),
        ("2025-12-10T12:00Z", datetime(2025, 12, 10, 12, 0, tzinfo=UTC)),
        ("2025-12-10T12:00+05:00", datetime(2025, 12, 10, 7, 0, tzinfo=UTC)),
        ("2025-12-10", datetime(2025, 12, 9, 23, 0, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_of_the_configured_zone(text: str, moment: datetime) -> None:
    assert parse_moment(text, AMSTERDAM) == moment


@pytest.mark.parametrize("text", ["", "noon", "2025-13-01", "-1", "10:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_moment(text, AMSTERDAM)


def test_a_new_database_is_named_like_its_backup_and_never_too_long() -> None:
    label = datetime(2025, 12, 16, 23, 0)  # noqa: DTZ001 - a label has no zone
    assert new_database(BackupName("ahold_options", label)) == "ahold_options_2025_12_16_230000"
    long = new_database(BackupName("é" * 31, label))
    assert long == "é" * 22 + "_2025_12_16_230000"
    assert len(long.encode()) == 62


# --- the rate


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (["verify", "--latest"], 1),
        (["verify", "--latest", "--limit-rate", "5"], 5),
        (["restore", "--latest"], None),
        (["restore", "--latest", "--limit-rate", "5"], 5),
    ],
)
def test_who_restores_is_not_slowed_down_by_a_limit_for_the_night(
    cli: Any, monkeypatch: pytest.MonkeyPatch, command: list[str], limit: float | None
) -> None:
    limits: list[float | None] = []

    def store(settings: Settings) -> MemoryStore:
        limits.append(settings.limit_rate)
        return MemoryStore()

    monkeypatch.setattr(Settings, "store", store)
    monkeypatch.setenv("BACKUP_LIMIT_RATE", "1")
    assert cli(*command).code == 4
    assert limits == [limit]
