"""What the UI shows and plots of each materialization: fixed names with their units, every time."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from backup_pipeline.engine.model import (
    EvidenceEntry,
    KeepDecision,
    Manifest,
    PruneResult,
    TableRows,
)

BACKUP = "backup"
"""The name of a backup: all that one asset hands to the next."""
_MOST_LINES = 200


def of_dump(manifest: Manifest, uri: str) -> dict[str, Any]:
    """A backup that was made."""
    return {
        BACKUP: manifest.name,
        "dagster/uri": uri,
        "size_bytes": manifest.length,
        "raw_size_bytes": manifest.raw_length,
        "compression_ratio": _per(manifest.raw_length, manifest.length),
        "database_size_bytes": manifest.source.database_size,
        "duration_seconds": manifest.duration,
        "throughput_bytes_per_second": _per(manifest.raw_length, manifest.duration),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "taken_at": dg.MetadataValue.timestamp(manifest.source.snapshot_at),
        "server_version": manifest.source.server_version,
        "pg_dump_version": manifest.pg_dump_version,
        "rows_per_table": dg.MetadataValue.md(_rows_per_table(manifest.tables)),
    }


def of_verification(name: str, entry: EvidenceEntry, uri: str) -> dict[str, Any]:
    """A verification, whatever came of it."""
    return {
        BACKUP: name,
        "dagster/uri": uri,
        "size_bytes": entry.read_bytes,
        "rows": entry.rows,
        "duration_seconds": entry.seconds,
        "throughput_bytes_per_second": _per(entry.read_bytes, entry.seconds),
        "findings": len(entry.findings),
        "verified_at": dg.MetadataValue.timestamp(entry.at),
    }


def of_prune(result: PruneResult, uri: str) -> dict[str, Any]:
    """What was kept and what was deleted, each with its reason."""
    return {
        "dagster/uri": uri,
        "kept": len(result.kept),
        "kept_bytes": sum(decision.backup.size for decision in result.kept),
        "deleted": len(result.deleted),
        "reclaimed_bytes": result.reclaimed,
        "failed_deletions": len(result.failed),
        "aborted_uploads": len(result.aborted_uploads),
        "strays": len(result.strays),
        "decisions": dg.MetadataValue.md(_decisions(result)),
    }


def _rows_per_table(tables: Sequence[TableRows]) -> str:
    largest = sorted(tables, key=lambda table: (-table.rows, table))
    return _table(
        ("table", "rows"),
        [(f"{table.schema}.{table.table}", f"{table.rows:,}") for table in largest],
    )


def _decisions(result: PruneResult) -> str:
    expired_first = sorted(result.decisions, key=lambda decision: decision.keep)
    table = _table(
        ("backup", "bytes", "fate", "why"),
        [
            (
                str(decision.backup.name),
                f"{decision.backup.size:,}",
                _fate(decision, result.deleted),
                decision.reason,
            )
            for decision in expired_first
        ],
    )
    return "\n\n".join([table, *map(_cell, result.failed)])


def _fate(decision: KeepDecision, deleted: Sequence[str]) -> str:
    if decision.keep:
        return "kept"
    return "deleted" if str(decision.backup.name) in deleted else "not deleted yet"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the event log is no place for more than so many lines."""
    cells = [map(_cell, row) for row in rows[:_MOST_LINES]]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)]
    rest = len(rows) - _MOST_LINES
    return "\n".join(lines) + (f"\n\nand {rest:,} more" if rest > 0 else "")


def _cell(text: str) -> str:
    """Text of any kind in a Markdown table: it stays one cell and marks nothing up."""
    one_line = " ".join(text.split())
    return "".join(f"\\{char}" if char in "\\|`*<[" else char for char in one_line)


def _per(amount: float, unit: float) -> float:
    return amount / unit if unit else 0.0
