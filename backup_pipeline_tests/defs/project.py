"""The whole Dagster project on fakes: nothing leaves the process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from backup_pipeline.defs.database import Database
from backup_pipeline.defs.factory import database_definitions
from backup_pipeline.defs.jobs import JOB
from backup_pipeline.defs.resources import resources
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.model import Backup
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.notify import Heartbeat, Outcome
from backup_pipeline.settings import Settings
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.fakes_dump import FakePostgres

NOON = datetime(2025, 12, 16, 11, 0, tzinfo=UTC)
KEYS = Keys("backups/postgres/")


@dataclass
class FakeClock:
    """A second later each time it is asked."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@dataclass
class FakeBucket:
    """A bucket in memory."""

    memory: MemoryStore

    def store(self, *, in_haste: bool = False) -> MemoryStore:
        """The same store each time."""
        return self.memory

    def backup_keys(self) -> Keys:
        """Those of the default prefix."""
        return KEYS

    def uri(self, key: str) -> str:
        """As in S3."""
        return f"s3://memory/{key}"


@dataclass
class FakeNotifier:
    """Keeps what it is told; `deaf` are the services that don't take it."""

    outcomes: list[Outcome] = field(default_factory=list)
    deaf: tuple[str, ...] = ()
    beats: int = 0
    heartbeat: Heartbeat = Heartbeat.SENT

    def send(self, outcome: Outcome) -> tuple[str, ...]:
        """Keep it."""
        self.outcomes.append(outcome)
        return self.deaf

    def beat(self) -> Heartbeat:
        """Count it."""
        self.beats += 1
        return self.heartbeat


class Project:
    """Definitions on fakes, and an instance that remembers its runs."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings | None = None) -> None:
        self.instance = instance
        self.settings = settings or Settings(database="ahold_options")
        self.clock = FakeClock()
        self.postgres = FakePostgres(self.clock)
        self.bucket = FakeBucket(MemoryStore(self.clock))
        self.notifier = FakeNotifier()
        self.database = Database(self.settings, clock=self.clock)
        self.defs = database_definitions(
            self.database,
            {"postgres": self.postgres, "bucket": self.bucket, "notifier": self.notifier},
        )

    @classmethod
    def on_real_servers(cls, instance: dg.DagsterInstance, settings: Settings) -> "Project":
        """The project as `definitions.py` makes it, on the servers that the settings name."""
        project = cls(instance, settings)
        project.database = Database(settings)
        project.defs = database_definitions(project.database, resources(project.database))
        return project

    @property
    def memory(self) -> MemoryStore:
        """The store behind the bucket."""
        return self.bucket.memory

    def use(self, store: MemoryStore) -> None:
        """Put another store behind the bucket."""
        self.bucket.memory = store

    def run(self, only: Sequence[str] | None = None) -> dg.ExecuteInProcessResult:
        """Run the job, or only the assets of these names."""
        return self.defs.resolve_job_def(JOB).execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            asset_selection=[self.database.asset(name) for name in only] if only else None,
        )

    def backups(self) -> tuple[Backup, ...]:
        """What the bucket holds, newest first."""
        return read_catalog(self.memory, KEYS, self.settings.database).backups

    def keys_in_bucket(self) -> set[str]:
        """The keys of everything."""
        return set(self.memory.objects)


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What an asset's materialization says, as plain values."""
    (event,) = (
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.asset_key.path[-1] == asset
    )
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What an asset's failure says: its description and its metadata, as plain values."""
    (event,) = (
        event
        for event in result.get_step_failure_events()
        if event.step_key and event.step_key.endswith(asset)
    )
    data = event.step_failure_data.user_failure_data
    assert data is not None
    plain = {name: value.value for name, value in data.metadata.items()}
    return {"description": data.description, **plain}


def flip_a_bit(project: Project, name: BackupName) -> None:
    """Damage a stored dump in the middle."""
    key = KEYS.of(name, Kind.DUMP)
    body = bytearray(project.memory.objects[key].body)
    body[len(body) // 2] ^= 1
    project.memory.put(key, bytes(body), overwrite=True)


# `execute_job` wants a function that it can find again by its name.
projects: list[Project] = []


def current_job() -> dg.JobDefinition:
    """The job of the project that the fixture `lasting` made."""
    return projects[-1].defs.resolve_job_def(JOB)
