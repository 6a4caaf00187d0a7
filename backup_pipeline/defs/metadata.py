"""What the UI shows and plots of each materialization: fixed names with their units, every time."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.engine.access import told
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import (
    Backup,
    EvidenceEntry,
    KeepDecision,
    Manifest,
    PruneResult,
    TableRows,
)
from backup_pipeline.engine.names import BackupName

if TYPE_CHECKING:
    from backup_pipeline.engine.drill import DrillResult
    from backup_pipeline.engine.restore import RestoreResult

BACKUP = "backup"
"""The name of a backup: all that one asset hands to the next."""
TAKEN_AT = "taken_at"
"""When its snapshot was: the age of a backup counts from there."""
SUMMARY = "summary"
"""A sentence or two in Markdown, for the UI and for the messages to people."""

# The event log is no place for a thousand lines.
_MOST_LINES = 200
# A dump of few large tables may still have a thousand members.
_MOST_BYTES = 100_000

Cell = str | int | float | bool


def of_dump(manifest: Manifest, uri: str) -> dict[str, Any]:
    """A backup that was made."""
    return {
        BACKUP: manifest.name,
        SUMMARY: _summary_of_dump(manifest),
        "dagster/uri": uri,
        "size_bytes": manifest.length,
        "raw_size_bytes": manifest.raw_length,
        "encrypted": manifest.encryption is not None,
        "globals": str(manifest.globals),
        "compression_ratio": _per(manifest.raw_length, manifest.length),
        "database_size_bytes": manifest.source.database_size,
        "duration_seconds": manifest.duration,
        "throughput_bytes_per_second": _per(manifest.raw_length, manifest.duration),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        TAKEN_AT: dg.MetadataValue.timestamp(manifest.source.snapshot_at),
        "server_version": manifest.source.server_version,
        "pg_dump_version": manifest.pg_dump_version,
        "rows_per_table": _rows_per_table(manifest.tables),
        "manifest": _manifest(manifest),
    }


def of_verification(
    manifest: Manifest, entry: EvidenceEntry, uri: str, heartbeat: str = ""
) -> dict[str, Any]:
    """A verification, whatever came of it; `heartbeat` is what became of the ping after it."""
    return {
        BACKUP: manifest.name,
        SUMMARY: _summary_of_verification(manifest, entry),
        "dagster/uri": uri,
        "size_bytes": entry.read_bytes,
        "rows": entry.rows,
        "duration_seconds": entry.seconds,
        "throughput_bytes_per_second": _per(entry.read_bytes, entry.seconds),
        TAKEN_AT: dg.MetadataValue.timestamp(manifest.source.snapshot_at),
        "age_seconds": (entry.at - manifest.source.snapshot_at).total_seconds(),
        "findings": len(entry.findings),
        "heartbeat": heartbeat,
        "verified_at": dg.MetadataValue.timestamp(entry.at),
    }


def of_prune(result: PruneResult, uri: str, now: datetime) -> dict[str, Any]:
    """What was kept and what was deleted, each with its reason."""
    oldest = min((each.backup.taken_at for each in result.kept), default=now)
    return {
        SUMMARY: _summary_of_prune(result),
        "dagster/uri": uri,
        "kept": len(result.kept),
        "kept_bytes": sum(decision.backup.size for decision in result.kept),
        "deleted": len(result.deleted),
        "reclaimed_bytes": result.reclaimed,
        "failed_deletions": len(result.failed),
        "aborted_uploads": len(result.aborted_uploads),
        "strays": len(result.strays),
        "oldest_age_days": (now - oldest).total_seconds() / 86400,
        "kept_backups": _decisions(result.kept, result),
        "deleted_backups": _decisions(result.expired, result),
    }


def of_restore(backup: Backup, result: "RestoreResult") -> dict[str, Any]:
    """A database that was brought back."""
    kept = f"; the database that was there before is `{result.previous}`" if result.previous else ""
    missing = told(result.missing)
    lost = f"; owners and rights are not those of the source: {missing}" if missing else ""
    return {
        BACKUP: str(backup.name),
        SUMMARY: dg.MetadataValue.md(
            f"**`{_plain(result.database)}`** holds {_plain(str(backup.name))}: "
            f"{result.tables:,} tables and {result.rows:,} rows, "
            f"in {result.seconds:,.1f} s{_plain(kept)}{_plain(lost)}"
        ),
        "database": result.database,
        "previous": result.previous or "",
        "tables": result.tables,
        "rows": result.rows,
        "size_bytes": result.size,
        "duration_seconds": result.seconds,
        "verify_seconds": result.verify_seconds,
        "load_seconds": result.load_seconds,
        "switch_seconds": result.switch_seconds,
        TAKEN_AT: dg.MetadataValue.timestamp(backup.taken_at),
    }


def of_drill(name: BackupName, result: "DrillResult", uri: str) -> dict[str, Any]:
    """A backup that was restored for a trial and is equal."""
    entry = result.entry
    return {
        BACKUP: str(name),
        SUMMARY: dg.MetadataValue.md(
            f"**{_plain(str(name))}** is restorable: {result.tables:,} tables and "
            f"{entry.rows:,} rows are equal to what was dumped; a recovery takes "
            f"{entry.recovery_seconds or 0:,.1f} s"
        ),
        "dagster/uri": uri,
        "recovery_seconds": entry.recovery_seconds or 0.0,
        "verify_seconds": result.verify_seconds,
        "load_seconds": result.load_seconds,
        "duration_seconds": entry.seconds,
        "size_bytes": entry.read_bytes,
        "tables": result.tables,
        "rows": entry.rows,
        "invariants": len(result.invariants),
        "not_compared": "; ".join(result.not_compared),
        "restored_at": dg.MetadataValue.timestamp(entry.at),
    }


def of_verifications(
    entries: Mapping[str, EvidenceEntry], unreadable: Mapping[str, str]
) -> dict[str, Any]:
    """Several backups, each read back, and why those were not whose manifest is no good."""
    good, count = sum(entry.passed for entry in entries.values()), len(entries) + len(unreadable)
    return {
        SUMMARY: dg.MetadataValue.md(f"{good:,} of {count:,} backups are whole"),
        "verified": good,
        "failed": count - good,
        "size_bytes": sum(entry.read_bytes for entry in entries.values()),
        "duration_seconds": sum(entry.seconds for entry in entries.values()),
        "backups": table(
            {
                BACKUP: "string",
                "passed": "bool",
                "bytes": "int",
                "seconds": "float",
                "findings": "string",
            },
            [
                *((name, False, 0, 0.0, reason) for name, reason in unreadable.items()),
                *(
                    (name, entry.passed, entry.read_bytes, entry.seconds, "; ".join(entry.findings))
                    for name, entry in entries.items()
                ),
            ],
        ),
    }


def table(columns: Mapping[str, str], rows: Iterable[Sequence[Cell]]) -> dg.MetadataValue[Any]:
    """Rows of which the UI shows every cell as plain text; the first ones, if there are many.

    `columns` are names with Dagster's types: `string`, `int`, `float` or `bool`.
    """
    records = [
        dg.TableRecord(dict(zip(columns, row, strict=True))) for row in islice(rows, _MOST_LINES)
    ]
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.MetadataValue.table(records, schema)


def _rows_per_table(tables: Sequence[TableRows]) -> dg.MetadataValue[Any]:
    largest = sorted(tables, key=lambda each: (-each.rows, each))
    return table(
        {"table": "string", "rows": "int"},
        ((f"{each.schema}.{each.table}", each.rows) for each in largest),
    )


def _manifest(manifest: Manifest) -> dg.MetadataValue[Any]:
    """The manifest itself, as far as it is short."""
    text = to_json(manifest)
    if len(manifest.tables) > _MOST_LINES or len(text) > _MOST_BYTES:
        return dg.MetadataValue.text(
            f"The manifest of {len(manifest.tables):,} tables lies beside the dump."
        )
    import json

    return dg.MetadataValue.json(json.loads(text))


def _decisions(decisions: Sequence[KeepDecision], result: PruneResult) -> dg.MetadataValue[Any]:
    columns = dict.fromkeys((BACKUP, "bytes", "taken_at", "state", "fate", "reason"), "string")
    return table(
        {**columns, "bytes": "int"},
        (
            (
                str(decision.backup.name),
                decision.backup.size,
                f"{decision.backup.taken_at:%Y-%m-%d %H:%M:%S} UTC",
                str(decision.backup.state),
                _fate(decision, result),
                decision.reason,
            )
            for decision in decisions
        ),
    )


def _fate(decision: KeepDecision, result: PruneResult) -> str:
    if decision.keep:
        return "kept"
    if str(decision.backup.name) not in result.deleted:
        return "not deleted yet"
    return "would be deleted" if result.dry_run else "deleted"


def _summary_of_dump(manifest: Manifest) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.md(
        f"**{_plain(manifest.name)}**: {manifest.rows:,} rows in {len(manifest.tables):,} tables, "
        f"{_megabytes(manifest.raw_length)} of SQL, {_megabytes(manifest.length)} in the bucket, "
        f"dumped in {manifest.duration:,.1f} s from PostgreSQL "
        f"{_plain(manifest.source.server_version)}{', encrypted' if manifest.encryption else ''}"
    )


def _summary_of_verification(manifest: Manifest, entry: EvidenceEntry) -> dg.MetadataValue[Any]:
    if entry.passed:
        seen = f"{entry.rows:,} rows counted again" if entry.opened else "not decrypted"
        verdict = f"{_megabytes(entry.read_bytes)} read back, {seen}"
    else:
        verdict = f"**not whole**: {_plain('; '.join(entry.findings))}"
    return dg.MetadataValue.md(f"**{_plain(manifest.name)}**: {verdict}")


def _summary_of_prune(result: PruneResult) -> dg.MetadataValue[Any]:
    done = "would be deleted" if result.dry_run else "deleted"
    first = (
        f"{len(result.kept):,} backups kept, {len(result.deleted):,} {done}, "
        f"{_megabytes(result.reclaimed)} reclaimed"
    )
    return dg.MetadataValue.md("\n\n".join([first, *map(_plain, result.failed)]))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _plain(text: str) -> str:
    """Text of any kind in Markdown: it stays on one line and marks nothing up."""
    one_line = " ".join(text.split())
    return "".join(f"\\{char}" if char in "\\|`*_<[" else char for char in one_line)


def _per(amount: float, unit: float) -> float:
    return amount / unit if unit else 0.0
