"""The JSON forms of what the commands show; programs depend on their fields."""

from typing import TYPE_CHECKING, Any

from backup_pipeline.cli import words

if TYPE_CHECKING:
    from backup_pipeline.engine.model import (
        Backup,
        EvidenceEntry,
        KeepDecision,
        Manifest,
        Pin,
        PruneResult,
        Stray,
    )
    from backup_pipeline.engine.names import BackupName

Document = dict[str, Any]


def of_backup(backup: "Backup") -> Document:
    """A backup as the catalog knows it."""
    return {
        "name": str(backup.name),
        "database": backup.name.database,
        "taken_at": words.iso(backup.taken_at),
        "size": backup.size,
        "raw_length": backup.raw_length,
        "codec": str(backup.codec),
        "encrypted": backup.encrypted,
        "globals": str(backup.globals),
        "tables": backup.tables,
        "rows": backup.rows,
        "duration_seconds": backup.duration,
        "server_version": backup.server_version,
        "state": str(backup.state),
        "verified_at": words.iso(backup.verified_at) if backup.verified_at else None,
        "restored_at": words.iso(backup.restored_at) if backup.restored_at else None,
        "recovery_seconds": backup.recovery_seconds,
        "findings": list(backup.findings),
        "pin": backup.pin,
    }


def of_pin(pin: "Pin") -> Document:
    """A backup that was just pinned."""
    return {"name": pin.name, "pin": pin.reason, "at": words.iso(pin.at)}


def of_manifest(manifest: "Manifest", name: "BackupName") -> Document:
    """A backup that was just made."""
    return {
        "name": manifest.name,
        "database": name.database,
        "taken_at": words.iso(manifest.source.snapshot_at),
        "size": manifest.length,
        "raw_length": manifest.raw_length,
        "codec": str(manifest.codec),
        "encrypted": manifest.encryption is not None,
        "globals": str(manifest.globals),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "duration_seconds": manifest.duration,
        "server_version": manifest.source.server_version,
    }


def of_entry(name: "BackupName", entry: "EvidenceEntry") -> Document:
    """What a verification came to."""
    return {
        "name": str(name),
        "act": str(entry.act),
        "passed": entry.passed,
        "at": words.iso(entry.at),
        "findings": list(entry.findings),
        "read_bytes": entry.read_bytes,
        "rows": entry.rows,
        "seconds": entry.seconds,
        "opened": entry.opened,
    }


def of_stray(stray: "Stray") -> Document:
    """An object that belongs to no backup."""
    return {
        "key": stray.key,
        "size": stray.size,
        "modified_at": words.iso(stray.modified_at),
        "reason": stray.reason,
        "deletable": stray.deletable,
    }


def of_decision(decision: "KeepDecision") -> Document:
    """Why a backup stays or goes."""
    return {
        "name": str(decision.backup.name),
        "taken_at": words.iso(decision.backup.taken_at),
        "keep": decision.keep,
        "reason": decision.reason,
    }


def of_prune(result: "PruneResult") -> Document:
    """What a prune did, or would do."""
    return {
        "dry_run": result.dry_run,
        "decisions": [of_decision(decision) for decision in result.decisions],
        "deleted": list(result.deleted),
        "failed": list(result.failed),
        "reclaimed": result.reclaimed,
        "aborted_uploads": list(result.aborted_uploads),
        "cleared": [of_stray(stray) for stray in result.cleared],
        "strays": [of_stray(stray) for stray in result.strays],
    }
