"""Faults 20 and 29: client tools that are older than the server, or than their security fixes."""

import json
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.cli import run
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.store import ObjectStore


@pytest.fixture
def cli(
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
        for variable, value in {**s3_environment, **environment}.items():
            monkeypatch.setenv(variable, value)
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_server_newer_than_pg_dump_is_refused_and_both_versions_are_named(
    cli: Any, postgres18: EmbeddedPostgres, postgres16: EmbeddedPostgres, store: ObjectStore
) -> None:
    environment = {
        **postgres18.environment(),
        "BACKUP_PG_BIN_DIRS": str(postgres16.bin_dir),
    }
    code, _, said = cli(environment, "backup")
    assert code == 3
    assert "PostgreSQL 18" in said
    assert ": 16." in said
    assert "BACKUP_PG_BIN_DIRS" in said
    assert [*store.list(""), *store.list_uploads("")] == []
    code, out, _ = cli(environment, "check", "--json")
    tools = next(f for f in json.loads(out)["findings"] if f["subject"] == "client tools")
    assert (code, tools["level"]) == (1, "fail")


def test_old_client_tools_are_warned_of_in_the_log_and_by_check_unless_told_otherwise(
    cli: Any, postgres16: EmbeddedPostgres
) -> None:
    environment = {
        **postgres16.environment(),
        "BACKUP_PG_BIN_DIRS": str(postgres16.bin_dir),
        "BACKUP_CLIENT_MINIMUMS": "16.99",
    }
    code, _, said = cli(environment, "backup")
    assert code == 0
    assert "is older than 16.99, the security minimum" in said
    code, out, _ = cli(environment, "check", "--json")
    tools = next(f for f in json.loads(out)["findings"] if f["subject"] == "client tools")
    assert (code, tools["level"]) == (0, "warn")
    assert "16.99" in tools["message"]
    _, _, said = cli({"BACKUP_CLIENT_MINIMUMS": "16.0"}, "backup", "--date", "2001-02-03")
    assert said == ""
