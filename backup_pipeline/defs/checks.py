"""Asset checks: is the newest backup there, whole, of a sane size, and like those before it?

Each shows a sentence with the expected and the actual number.
What blocks keeps the assets below it from running; the rest warns and leaves a run green.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.failures import failing_clearly
from backup_pipeline.defs.metadata import BACKUP
from backup_pipeline.defs.runs import backup_of_run
from backup_pipeline.engine.catalog import read_catalog, read_manifest
from backup_pipeline.engine.history import (
    Comparison,
    compare_duration,
    compare_rows,
    compare_size,
    earlier_manifests,
)
from backup_pipeline.engine.model import EvidenceEntry, Manifest, State
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.prune import stale_uploads
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import ObjectMissing

if TYPE_CHECKING:
    from backup_pipeline.engine.drill import DrillResult

Results = Iterator[dg.AssetCheckResult]


def database_checks(database: Database) -> list[dg.AssetChecksDefinition]:
    """The checks that run by themselves; those of a verification belong to its asset."""
    return [_dump_checks(database), _bucket_checks(database)]


def verification_checks(database: Database) -> list[dg.AssetCheckSpec]:
    """What `verified_backup` judges while it reads every byte."""
    return [
        dg.AssetCheckSpec(
            "bytes_whole",
            asset=database.verified,
            blocking=True,
            description="Every stored byte is the byte that was dumped.",
        ),
        dg.AssetCheckSpec(
            "dump_complete",
            asset=database.verified,
            blocking=True,
            description="Every section has pg_dump's closing line, every table its rows.",
        ),
        dg.AssetCheckSpec(
            "backup_recent",
            asset=database.verified,
            description="The backup is younger than BACKUP_FRESHNESS_HOURS.",
        ),
    ]


def is_recent(database: Database, manifest: Manifest, entry: EvidenceEntry) -> bool:
    """Whether the backup was still fresh when it was verified.

    An old one that is verified again is proved once more, and is no younger for that.
    """
    return _age(manifest, entry) <= timedelta(hours=database.settings.freshness_hours)


def _age(manifest: Manifest, entry: EvidenceEntry) -> timedelta:
    return entry.at - manifest.source.snapshot_at


def judge_verification(database: Database, manifest: Manifest, entry: EvidenceEntry) -> Results:
    """The results of `verification_checks`."""
    said = "; ".join(entry.findings)
    hours, most = _age(manifest, entry) / timedelta(hours=1), database.settings.freshness_hours
    comparisons = {
        "bytes_whole": Comparison(
            entry.passed,
            manifest.length,
            entry.read_bytes,
            said or f"All {entry.read_bytes:,} bytes are those that were dumped.",
        ),
        "dump_complete": Comparison(
            entry.passed,
            manifest.rows,
            entry.rows if entry.opened else manifest.rows,
            said or _completeness(manifest, entry),
        ),
        "backup_recent": Comparison(
            is_recent(database, manifest, entry),
            most,
            hours,
            f"It was taken {hours:,.1f} hours ago; {most:g} are allowed.",
        ),
    }
    for name, comparison in comparisons.items():
        warns = name == "backup_recent"
        yield _result(database.verified, name, manifest.name, comparison, warns=warns)


def _completeness(manifest: Manifest, entry: EvidenceEntry) -> str:
    if entry.opened:
        return f"All {entry.rows:,} rows were counted again, up to the closing line."
    return (
        f"The bytes are those that were encrypted when {manifest.rows:,} rows were counted, up to "
        "the closing line; they are not decrypted here, where there is no key."
    )


def proof_checks(database: Database) -> list[dg.AssetCheckSpec]:
    """What `restore_proof` judges in the restored copy."""
    return [
        dg.AssetCheckSpec(
            "restored_equal",
            asset=database.proof,
            description="The restored copy is the database that was dumped.",
        ),
        *(
            dg.AssetCheckSpec(
                _check_of(invariant.name), asset=database.proof, description=invariant.query
            )
            for invariant in database.settings.invariants
        ),
    ]


def judge_proof(database: Database, name: BackupName, result: "DrillResult") -> Results:
    """The results of `proof_checks`; of an invariant that was not reached, none passed."""
    rows, found = result.entry.rows, "; ".join(result.entry.findings)
    said = found or f"All {result.tables:,} tables are equal, {rows:,} rows."
    said = "; ".join((said, *(f"not compared: {each}" for each in result.not_compared)))
    equal = Comparison(result.equal, 0, len(result.entry.findings), said)
    yield _result(database.proof, "restored_equal", str(name), equal)
    reached = {each.name: each for each in result.invariants}
    for invariant in database.settings.invariants:
        one = reached.get(invariant.name)
        yield dg.AssetCheckResult(
            asset_key=database.proof,
            check_name=_check_of(invariant.name),
            passed=one is not None and one.passed,
            description=f"{one.found} where {one.expected} is expected"
            if one
            else "It was not asked, because the backup could not be restored.",
            metadata={BACKUP: str(name), "expected": invariant.expected},
        )


def _check_of(invariant: str) -> str:
    return f"invariant_{invariant}"


def _dump_checks(database: Database) -> dg.AssetChecksDefinition:
    def spec(name: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(
            name, asset=database.dump, blocking=blocking, description=description
        )

    @dg.multi_asset_check(
        name=f"{database.group}__dump_checks",
        specs=[
            spec("object_present", "Dump and schema archive are in the bucket.", blocking=True),
            spec("size_sane", "The dump has at least BACKUP_SIZE_MINIMUM bytes.", blocking=True),
            spec("size_usual", "The dump is about as large as the ones before."),
            spec("rows_usual", "Each table holds about as many rows as before."),
            spec("duration_usual", "The dump took about as long as the ones before."),
        ],
        description="Looks at the backup of this run; run alone, at the newest in the bucket.",
        required_resource_keys=database.needs("bucket"),
        pool=database.group,
        # Without it the UI would not execute any of them by itself.
        can_subset=True,
    )
    def dump_checks(context: dg.AssetCheckExecutionContext) -> Results:
        bucket = database.bucket(context)
        with failing_clearly(context):
            store, keys = bucket.store(), bucket.backup_keys()
            name = backup_of_run(database, context, store, keys)
            manifest = read_manifest(store, keys, name)
            judged = {
                **_judge_objects(database, store, keys, name, manifest),
                **_judge_against_history(database, store, keys, manifest),
            }
        for check in _asked_for(context):
            warns = check.endswith("_usual")
            yield _result(database.dump, check, str(name), judged[check], warns=warns)

    return dump_checks


def _judge_objects(
    database: Database, store: ObjectStore, keys: Keys, name: BackupName, manifest: Manifest
) -> dict[str, Comparison]:
    dump = manifest.kind
    expected = {dump: manifest.length}
    if manifest.schema_archive:
        expected[manifest.archive_kind] = manifest.schema_archive.length
    found = {kind: _size(store, keys.of(name, kind)) for kind in expected}
    wrong = [
        f"{keys.of(name, kind)} has {size:,} of {expected[kind]:,} bytes"
        if size is not None
        else f"{keys.of(name, kind)} is missing"
        for kind, size in found.items()
        if size != expected[kind]
    ]
    stored = sum(size or 0 for size in found.values())
    size, floor = found[dump] or 0, database.settings.size_minimum
    return {
        "object_present": Comparison(
            not wrong,
            sum(expected.values()),
            stored,
            "; ".join(wrong) or f"The bucket holds all {stored:,} bytes of {name}.",
        ),
        "size_sane": Comparison(
            size >= floor,
            floor,
            size,
            f"The dump has {size:,} bytes; at least {floor:,} are expected.",
        ),
    }


def _judge_against_history(
    database: Database, store: ObjectStore, keys: Keys, manifest: Manifest
) -> dict[str, Comparison]:
    limits = database.settings.limits()
    backups = read_catalog(store, keys, database.name).backups
    earlier = earlier_manifests(store, keys, backups, manifest, limits.runs)
    return {
        "size_usual": compare_size(manifest, earlier, limits),
        "rows_usual": compare_rows(manifest, earlier, limits),
        "duration_usual": compare_duration(manifest, earlier, limits),
    }


def _bucket_checks(database: Database) -> dg.AssetChecksDefinition:
    def spec(name: str, description: str) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=database.pruned, description=description)

    @dg.multi_asset_check(
        name=f"{database.group}__bucket_checks",
        specs=[
            spec("minimum_kept", "As many verified backups as BACKUP_RETENTION_MINIMUM are there."),
            spec("no_stray", "Every object under the prefix belongs to a backup."),
            spec("no_stale_upload", "No upload was begun and given up."),
        ],
        description="Looks at the bucket as it is now.",
        required_resource_keys=database.needs("bucket"),
        pool=database.group,
        # Without it the UI would not execute any of them by itself.
        can_subset=True,
    )
    def bucket_checks(context: dg.AssetCheckExecutionContext) -> Results:
        bucket = database.bucket(context)
        with failing_clearly(context):
            judged = _judge_bucket(database, bucket.store(), bucket.backup_keys())
        for check in _asked_for(context):
            yield _result(database.pruned, check, None, judged[check], warns=True)

    return bucket_checks


def _judge_bucket(database: Database, store: ObjectStore, keys: Keys) -> dict[str, Comparison]:
    catalog = read_catalog(store, keys, database.name)
    verified = sum(backup.state is State.VERIFIED for backup in catalog.backups)
    # A bucket that is younger than the policy can't hold as many yet.
    minimum = min(database.settings.retention_minimum, len(catalog.backups))
    strays = [f"{stray.key}: {stray.reason}" for stray in catalog.strays]
    before = database.clock() - database.settings.stale_after
    stale = [upload.key for upload in stale_uploads(store, keys, database.name, before)]
    return {
        "minimum_kept": Comparison(
            verified >= minimum,
            minimum,
            verified,
            f"{verified:,} of {len(catalog.backups):,} backups are verified; at least "
            f"{minimum:,} have to be.",
        ),
        "no_stray": _none(strays, "Every object belongs to a backup."),
        "no_stale_upload": _none(stale, f"No upload is older than {_hours(database)}."),
    }


def _asked_for(context: dg.AssetCheckExecutionContext) -> list[str]:
    return sorted(key.name for key in context.selected_asset_check_keys)


def _none(found: list[str], otherwise: str) -> Comparison:
    more = f"; and {len(found) - 5:,} more" if len(found) > 5 else ""
    return Comparison(not found, 0, len(found), "; ".join(found[:5]) + more or otherwise)


def _hours(database: Database) -> str:
    return f"{database.settings.stale_after / timedelta(hours=1):,g} hours"


def _size(store: ObjectStore, key: str) -> int | None:
    try:
        return store.head(key).size
    except ObjectMissing:
        return None


def _result(
    asset: dg.AssetKey,
    check: str,
    backup: str | None,
    comparison: Comparison,
    *,
    warns: bool = False,
) -> dg.AssetCheckResult:
    numbers: dict[str, Any] = {
        "expected": float(comparison.expected),
        "actual": float(comparison.actual),
    }
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check,
        passed=comparison.passed,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=comparison.sentence,
        metadata=numbers | ({BACKUP: backup} if backup else {}),
    )
