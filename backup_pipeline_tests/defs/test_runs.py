"""What a run is told of the runs before it."""

from collections.abc import Iterator

import dagster as dg

from backup_pipeline.defs.runs import materialized_by
from backup_pipeline.engine.names import BackupName, Kind
from backup_pipeline.errors import StoreDenied
from backup_pipeline_tests.defs.project import KEYS, Project, current_job, metadata_of
from backup_pipeline_tests.fakes import MemoryStore

DUMP = dg.AssetKey(["ahold_options", "database_dump"])
VERIFIED = dg.AssetKey(["ahold_options", "verified_backup"])


class StoreThatDeniesOneRead(MemoryStore):
    """Refuses to give a dump out, once."""

    denied = False

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        if key.endswith(Kind.DUMP) and not self.denied:
            self.denied = True
            raise StoreDenied(f"reading {key} is not allowed")
        return super().read(key, start, length, etag=etag)


def test_a_run_executed_again_from_its_failure_verifies_its_own_dump(lasting: Project) -> None:
    lasting.use(StoreThatDeniesOneRead())
    failed = lasting.run()
    later = lasting.run(only=["database_dump"])

    with dg.execute_job(
        dg.reconstructable(current_job),
        instance=lasting.instance,
        reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, lasting.instance),
    ) as again:
        verified = materialized_by(lasting.instance, again.run_id, VERIFIED)

    name = metadata_of(failed, "database_dump")["backup"]
    assert verified is not None
    assert verified["backup"] == name != metadata_of(later, "database_dump")["backup"]


def test_nothing_is_known_of_an_asset_that_no_such_run_made(project: Project) -> None:
    verified = project.run(only=["database_dump"])
    assert materialized_by(project.instance, verified.run_id, VERIFIED) is None
    assert materialized_by(project.instance, "no such run", DUMP) is None


def test_the_last_materialization_of_a_run_counts(project: Project) -> None:
    result = project.run()
    made = materialized_by(project.instance, result.run_id, DUMP)
    assert made is not None
    assert KEYS.of(BackupName.parse(made["backup"]), Kind.DUMP) in project.keys_in_bucket()
