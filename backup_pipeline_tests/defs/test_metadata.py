"""What the UI shows: the same numbers each time, and text that stays text."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.defs import metadata
from backup_pipeline.engine.model import (
    Act,
    Backup,
    EvidenceEntry,
    KeepDecision,
    PruneResult,
    State,
    TableRows,
)
from backup_pipeline.engine.names import BackupName
from backup_pipeline_tests.made_backups import NOW, manifest_of


def decision(days: int, *, keep: bool, reason: str = "because") -> KeepDecision:
    at = NOW - timedelta(days=days)
    name = BackupName.of("ahold_options", at)
    backup = Backup(name, at, 1000, 9000, 2, 10, 1.5, "18.1", State.VERIFIED, at)
    return KeepDecision(backup, keep, reason)


def markdown(told: dict[str, Any], name: str) -> list[str]:
    value = told[name]
    assert isinstance(value, dg.MarkdownMetadataValue)
    return str(value.value).splitlines()


def test_an_empty_database_divides_by_nothing() -> None:
    manifest = manifest_of(BackupName.of("empty", NOW), NOW, b"", b"")
    told = metadata.of_dump(manifest, "s3://b/k")
    assert told["compression_ratio"] == 0


def test_the_same_numbers_are_sent_whatever_was_pruned() -> None:
    nothing = metadata.of_prune(PruneResult((), dry_run=False), "s3://b/")
    something = metadata.of_prune(
        PruneResult((decision(9, keep=False),), dry_run=False, deleted=("x",), failed=("y",)),
        "s3://b/",
    )
    assert nothing.keys() == something.keys()
    assert {name for name, value in nothing.items() if value == 0} == {
        "kept",
        "kept_bytes",
        "deleted",
        "reclaimed_bytes",
        "failed_deletions",
        "aborted_uploads",
        "strays",
    }


def test_each_decision_is_told_with_its_fate_and_the_expired_first() -> None:
    kept, gone, stuck = decision(1, keep=True), decision(9, keep=False), decision(10, keep=False)
    result = PruneResult(
        (kept, gone, stuck),
        dry_run=False,
        deleted=(str(gone.backup.name),),
        failed=(f"{stuck.backup.name} was not deleted: it is locked",),
    )
    lines = markdown(metadata.of_prune(result, "s3://b/"), "decisions")
    assert lines[2:] == [
        f"| {gone.backup.name} | 1,000 | deleted | because |",
        f"| {stuck.backup.name} | 1,000 | not deleted yet | because |",
        f"| {kept.backup.name} | 1,000 | kept | because |",
        "",
        f"{stuck.backup.name} was not deleted: it is locked",
    ]


def test_a_failed_verification_has_its_findings_counted() -> None:
    entry = EvidenceEntry(Act.VERIFY, NOW, False, "etag", ("one", "two"), 1000, 0, 0.0)
    told = metadata.of_verification("name", entry, "s3://b/k")
    assert told["findings"] == 2
    assert told["throughput_bytes_per_second"] == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain_name", "plain_name"),
        ("pipe|d", r"pipe\|d"),
        ("new\nline", "new line"),
        ("`code`", r"\`code\`"),
        ("<script>", r"\<script>"),
        ("[a](b)", r"\[a](b)"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_a_table_of_any_name_stays_one_cell(name: str, shown: str) -> None:
    lines = metadata._rows_per_table([TableRows("public", name, 5)]).splitlines()
    assert lines[-1] == f"| public.{shown} | 5 |"


def test_a_database_of_thousands_of_tables_shows_the_largest() -> None:
    tables = [TableRows("public", f"t{rows:05}", rows) for rows in range(5000)]
    lines = metadata._rows_per_table(tables).splitlines()
    assert lines[2] == "| public.t04999 | 4,999 |"
    assert lines[-1] == "and 4,800 more"
    assert len(lines) == 204
