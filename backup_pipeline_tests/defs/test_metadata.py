"""What the UI shows: the same numbers each time, and text that stays text."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from backup_pipeline.defs import metadata
from backup_pipeline.engine.model import (
    Access,
    Act,
    Backup,
    EvidenceEntry,
    KeepDecision,
    PruneResult,
    State,
    TableRows,
)
from backup_pipeline.engine.names import BackupName
from backup_pipeline.engine.restore import RestoreResult
from backup_pipeline_tests.made_backups import NOW, manifest_of


def decision(days: int, *, keep: bool, reason: str = "because") -> KeepDecision:
    at = NOW - timedelta(days=days)
    name = BackupName.of("ahold_options", at)
    backup = Backup(name, at, 1000, 9000, 2, 10, 1.5, "18.1", State.VERIFIED, at)
    return KeepDecision(backup, keep, reason)


def rows_of(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def test_an_empty_database_divides_by_nothing() -> None:
    manifest = manifest_of(BackupName.of("empty", NOW), NOW, b"", b"")
    told = metadata.of_dump(manifest, "s3://b/k")
    assert told["compression_ratio"] == 0


def test_a_manifest_of_few_tables_and_many_members_is_no_part_of_the_event_log() -> None:
    short = manifest_of(BackupName.of("orders", NOW), NOW, b"dump", b"")
    long = replace(short, members=short.members * 1000)
    assert isinstance(metadata.of_dump(short, "s3://b/k")["manifest"], dg.JsonMetadataValue)
    told = metadata.of_dump(long, "s3://b/k")["manifest"]
    assert told.value == f"The manifest of {len(long.tables)} tables lies beside the dump."


def test_the_same_numbers_are_sent_whatever_was_pruned() -> None:
    nothing = metadata.of_prune(PruneResult((), dry_run=False), "s3://b/", NOW)
    something = metadata.of_prune(
        PruneResult((decision(9, keep=False),), dry_run=False, deleted=("x",), failed=("y",)),
        "s3://b/",
        NOW,
    )
    assert nothing.keys() == something.keys()
    assert {name: type(value) for name, value in nothing.items()} == {
        name: type(value) for name, value in something.items()
    }
    assert {name for name, value in nothing.items() if value == 0} == {
        "kept",
        "kept_bytes",
        "deleted",
        "reclaimed_bytes",
        "failed_deletions",
        "aborted_uploads",
        "strays",
        "oldest_age_days",
    }


def test_each_decision_is_told_with_its_fate_and_its_reason() -> None:
    kept, gone, stuck = decision(1, keep=True), decision(9, keep=False), decision(10, keep=False)
    result = PruneResult(
        (kept, gone, stuck),
        dry_run=False,
        deleted=(str(gone.backup.name),),
        failed=(f"{stuck.backup.name} was not deleted: it is locked",),
    )
    told = metadata.of_prune(result, "s3://b/", NOW)

    assert told["oldest_age_days"] == 1
    (shown,) = rows_of(told["kept_backups"])
    assert shown == {
        "backup": str(kept.backup.name),
        "bytes": 1000,
        "taken_at": "2025-12-15 22:00:00 UTC",
        "state": "verified",
        "fate": "kept",
        "reason": "because",
    }
    assert [(row["backup"], row["fate"]) for row in rows_of(told["deleted_backups"])] == [
        (str(gone.backup.name), "deleted"),
        (str(stuck.backup.name), "not deleted yet"),
    ]
    assert "it is locked" in told["summary"].value


def test_a_dry_run_says_what_it_would_do() -> None:
    gone = decision(9, keep=False)
    result = PruneResult((gone,), dry_run=True, deleted=(str(gone.backup.name),))
    told = metadata.of_prune(result, "s3://b/", NOW)
    assert rows_of(told["deleted_backups"])[0]["fate"] == "would be deleted"
    assert "1 would be deleted" in told["summary"].value


def test_owners_and_rights_that_a_restore_did_not_bring_are_in_its_summary() -> None:
    def summary(*missing: Access) -> str:
        result = RestoreResult("orders", None, 2, 10, 1000, 1.0, 1.0, 1.0, missing)
        return str(metadata.of_restore(decision(1, keep=True).backup, result)["summary"].value)

    assert "1 objects belonged to app" in summary(Access("app", "owner", ("table public.t",)))
    assert "owners" not in summary()


def test_a_failed_verification_has_its_findings_counted() -> None:
    entry = EvidenceEntry(Act.VERIFY, NOW, False, "etag", ("one", "two"), 1000, 0, 0.0)
    manifest = manifest_of(BackupName.of("orders", NOW), NOW, b"dump", b"")
    told = metadata.of_verification(manifest, entry, "s3://b/k")
    assert told["findings"] == 2
    assert "**not whole**: one; two" in told["summary"].value
    assert told["throughput_bytes_per_second"] == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("snake_case", r"snake\_case"),
        ("pipe|d", r"pipe\|d"),
        ("new\nline", "new line"),
        ("`code`", r"\`code\`"),
        ("<script>", r"\<script>"),
        ("[a](b)", r"\[a](b)"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_text_of_any_kind_marks_nothing_up(text: str, shown: str) -> None:
    assert metadata._plain(text) == shown


def test_a_database_of_thousands_of_tables_shows_the_largest() -> None:
    tables = [TableRows("public", f"t{rows:05}", rows) for rows in range(5000)]
    shown = rows_of(metadata._rows_per_table(tables))
    assert shown[0] == {"table": "public.t04999", "rows": 4999}
    assert len(shown) == 200
