"""The database whose backups the definitions are about: what they are called, and what they use.

Nothing else in `defs` makes up the name of an asset, a job, a sensor or a resource.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

import dagster as dg

from backup_pipeline.settings import Settings

if TYPE_CHECKING:
    from backup_pipeline.defs.resources import Bucket, Databases, Notifier

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


class HasResources(Protocol):
    """The context of a step, a check or a sensor."""

    @property
    def resources(self) -> Any:
        """The resources that it asked for, by their keys."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database that is backed up, as `settings` say.

    The project of one database uses plain names for its jobs, sensors and resources; where
    several live side by side, each has its own `suffix`, such as `_warehouse`.
    """

    settings: Settings
    suffix: str = ""
    clock: Clock = utc_now

    @property
    def name(self) -> str:
        """As PostgreSQL has it."""
        return self.settings.database

    @property
    def group(self) -> str:
        """The first step of its asset keys, and the name of their group and pool."""
        return key_prefix(self.name)

    def asset(self, name: str) -> dg.AssetKey:
        """The key of one of its assets."""
        return dg.AssetKey([self.group, name])

    @property
    def source(self) -> dg.AssetKey:
        """The live database itself, which others write to."""
        return self.asset("database")

    @property
    def dump(self) -> dg.AssetKey:
        """The newest dump."""
        return self.asset("database_dump")

    @property
    def verified(self) -> dg.AssetKey:
        """The newest backup that was read back."""
        return self.asset("verified_backup")

    @property
    def proof(self) -> dg.AssetKey:
        """The newest backup that was restored and compared."""
        return self.asset("restore_proof")

    @property
    def pruned(self) -> dg.AssetKey:
        """The bucket after retention."""
        return self.asset("pruned_bucket")

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its assets, by which the UI can filter."""
        return {"backup_pipeline/database": self.group}

    def own(self, name: str) -> str:
        """The name of one of its jobs, schedules, sensors or resources."""
        return name + self.suffix

    def postgres(self, context: HasResources) -> "Databases":
        """Its server."""
        return cast("Databases", getattr(context.resources, self.own("postgres")))

    def bucket(self, context: HasResources) -> "Bucket":
        """Its bucket."""
        return cast("Bucket", getattr(context.resources, self.own("bucket")))

    def notifier(self, context: HasResources) -> "Notifier":
        """Whoever is told."""
        return cast("Notifier", getattr(context.resources, self.own("notifier")))

    def needs(self, *resources: str) -> set[str]:
        """The keys of resources that are called `postgres`, `bucket` and `notifier`."""
        return {self.own(name) for name in resources}


def key_prefix(database: str) -> str:
    """A database's name where Dagster takes letters, digits and `_` only.

    A name with anything else gets a hash of itself, so that no two databases share one.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", database)
    if plain == database:
        return plain
    return f"{plain}_{hashlib.sha256(database.encode()).hexdigest()[:8]}"
