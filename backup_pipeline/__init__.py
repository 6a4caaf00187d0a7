"""PostgreSQL backups that prove themselves."""

from typing import TYPE_CHECKING, Any

from backup_pipeline.version import __version__

if TYPE_CHECKING:
    from backup_pipeline.defs.component import DatabaseBackupComponent
    from backup_pipeline.requirement import require_fresh_backup

__all__ = ["DatabaseBackupComponent", "__version__", "require_fresh_backup"]

# Imported when first asked for: the command line must neither load Dagster nor wait for it.
_HOMES = {
    "DatabaseBackupComponent": "backup_pipeline.defs.component",
    "require_fresh_backup": "backup_pipeline.requirement",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    # `dg` finds components by looking through a module.
    return sorted({*globals(), *_HOMES})
