"""Everything that can be configured, read and validated once.

Sources, the stronger first: arguments, the environment (`BACKUP_*`), and a YAML file, which is
`BACKUP_CONFIG` or `backup.yaml` in the working directory.
Connections are libpq's and boto3's own matter (`PG*`, `AWS_*`).
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from backup_pipeline.engine.model import Codec, Globals, Invariant
from backup_pipeline.errors import InvalidInput

if TYPE_CHECKING:
    from backup_pipeline.engine.age import Identity, Recipient
    from backup_pipeline.engine.dump import PostgresDumpSource
    from backup_pipeline.engine.history import Limits
    from backup_pipeline.engine.model import RetentionPolicy
    from backup_pipeline.engine.names import BackupName, Keys
    from backup_pipeline.engine.postgres import Server
    from backup_pipeline.engine.rate import RateLimit
    from backup_pipeline.engine.store import ObjectStore

_PREFIX = "BACKUP_"
_USUAL_BIN_DIRS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


def _cores() -> int:
    """As many jobs as this machine has cores, within reason: the server needs some, too."""
    return min(max(len(os.sched_getaffinity(0)), 2), 4) if hasattr(os, "sched_getaffinity") else 2


def _default_level(validated: dict[str, Any]) -> int:
    # A codec that can't be used is not among what was validated, and is complained of by itself.
    return Codec(validated.get("codec", Codec.GZIP)).default_level


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("this machine knows no such time zone") from error
    return name


def _prefix(text: str) -> str:
    steps = [step for step in text.split("/") if step]
    if any(step in {".", ".."} for step in steps):
        raise ValueError("a prefix is no path: it has no . and no ..")
    return "".join(f"{step}/" for step in steps)


def _schedule(text: str) -> str:
    if len(text.split()) != 5:
        raise ValueError("a schedule has the five fields of cron, such as `0 23 * * *`")
    return text


def _drill_schedule(text: str) -> str:
    return text if text == "off" else _schedule(text)


def _web(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("it begins with https:// or http://")
    return url


def _database(name: str) -> str:
    if "\0" in name or not 0 < len(name.encode()) < 64:
        raise ValueError("a database name has 1 to 63 bytes, and none of them is 0")
    return name


def _keys(recipients: tuple[str, ...]) -> tuple[str, ...]:
    from backup_pipeline.engine.age import Recipient

    try:
        return tuple(str(Recipient.parse(each)) for each in recipients)
    except InvalidInput as error:
        raise ValueError(error.message) from None


def _by_separator(separator: str | None) -> BeforeValidator:
    def split(value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part for part in value.split(separator) if part.strip()]

    return BeforeValidator(split)


class Settings(BaseSettings):
    """What is configured; every field is also the variable `BACKUP_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database: Annotated[str, AfterValidator(_database)] = "ahold_options"
    """What is backed up; without it the DSN's database, else `PGDATABASE`, else the default."""
    dsn: SecretStr | None = None
    """A libpq connection string or URI; without it libpq's own variables decide."""
    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$")] = "options-data"
    prefix: Annotated[str, AfterValidator(_prefix)] = "backups/postgres/"
    timezone: Annotated[str, AfterValidator(_zone)] = "Europe/Amsterdam"
    """Of the schedule, of the times in names, and of retention's days, weeks, months and years."""
    schedule: Annotated[str, AfterValidator(_schedule)] = "0 23 * * *"
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 7
    retention_minimum: Annotated[int, Field(ge=1)] = 3
    """That many verified backups stay, however old they are."""
    retention_daily: Annotated[int, Field(ge=0)] = 0
    """Of so many days the newest verified backup stays; weeks, months and years likewise."""
    retention_weekly: Annotated[int, Field(ge=0)] = 0
    retention_monthly: Annotated[int, Field(ge=0)] = 0
    retention_yearly: Annotated[int, Field(ge=0)] = 0
    freshness_hours: Annotated[float, Field(ge=1)] = 26
    """A verified backup older than this is stale: a day, the hour that one day in autumn has
    more, and an hour for the backup itself."""
    size_minimum: Annotated[int, Field(ge=1)] = 1
    """Bytes; a smaller dump can't be right, and what depends on it does not run."""
    history_runs: Annotated[int, Field(ge=1, le=100)] = 7
    """With the median of that many earlier backups each one is compared."""
    history_change: Annotated[float, Field(gt=0)] = 0.5
    """The fraction of the median by which size and rows may differ without a warning."""
    history_slowdown: Annotated[float, Field(gt=1)] = 3
    """How many times the median a backup may take without a warning."""
    owners: Annotated[tuple[str, ...], NoDecode, _by_separator(None)] = ()
    """Of the assets in Dagster: e-mail addresses, and teams as `team:data`."""
    codec: Codec = Codec.GZIP
    compression_level: int = Field(default_factory=_default_level)
    """The smaller the faster; which there are depends on the codec."""
    digests: bool = True
    """Whether a backup takes the digests of rows that a drill compares."""
    globals: Globals = Globals.NONE
    """Whether a backup has the server's roles and other globals, and the passwords with them."""
    recipients: Annotated[
        tuple[str, ...], NoDecode, _by_separator(None), AfterValidator(_keys)
    ] = ()
    """Public keys of age: who has the identity of one of them can read backups, and nobody else."""
    identity_file: Path | None = None
    """Private keys of age, as `age-keygen` writes them: what encrypted backups are read with."""
    jobs: Annotated[int, Field(ge=1, le=64)] = Field(default_factory=_cores)
    """How much is done at once, where the server has connections for it."""
    limit_rate: Annotated[float, Field(gt=0)] | None = None
    """MB (1,000,000 bytes) a second to the store, and from it but for restores."""
    drill_dsn: SecretStr | None = None
    """The server on which drills restore; without it, the one that is backed up."""
    drill_schedule: Annotated[str, AfterValidator(_drill_schedule)] = "0 5 * * 0"
    """When Dagster restores the newest backup to prove that it can be; `off` for never."""
    invariants: tuple[Invariant, ...] = ()
    """The owner's SQL, each with its result, that must hold in a restored database."""
    pg_bin_dirs: Annotated[tuple[Path, ...], NoDecode, _by_separator(os.pathsep)] = ()
    """Where pg_dump lives; separated like `PATH`; without it, where it usually is."""
    client_minimums: Annotated[tuple[str, ...], NoDecode, _by_separator(None)] = ()
    """Versions such as 18.7, each the oldest of its major one that is used without a warning."""
    lock_timeout: Annotated[float, Field(gt=0)] = 300
    """Seconds that a dump waits for a table that somebody has locked."""
    postgres_timeout: Annotated[float, Field(ge=1)] = 60
    """Seconds without a word from PostgreSQL until another connection asks if it is still there."""
    stale_upload_hours: Annotated[float, Field(ge=1, le=8_760)] = 24
    """An upload to which nothing has arrived for so long is aborted."""
    s3_endpoint_url: Annotated[str, Field(pattern=r"^https?://[^@]+$")] | None = None
    s3_region: str | None = None
    s3_checksums: Literal["when_supported", "when_required"] | None = None
    """`when_required` for stores that reject the checksums which boto3 adds by itself."""
    s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    s3_ca_bundle: Path | None = None
    s3_max_attempts: Annotated[int, Field(ge=1, le=20)] = 5
    s3_connect_timeout: Annotated[float, Field(gt=0)] = 10
    s3_read_timeout: Annotated[float, Field(gt=0)] = 60
    heartbeat_url: Annotated[SecretStr, AfterValidator(_web)] | None = None
    """Pinged after each verified backup; who waits for it raises the alarm when it stays away."""
    dagster_url: Annotated[str, Field(pattern=r"^https?://[^@]+$")] | None = None
    """Where people see the UI, for the links in messages."""
    after_assets: Annotated[tuple[str, ...], NoDecode, _by_separator(None)] = ()
    """Keys of Dagster assets, such as `etl/trades`, after which a backup is made."""
    notify_urls: Annotated[tuple[SecretStr, ...], NoDecode, _by_separator(None)] = ()
    """Apprise URLs, separated by blanks."""

    @field_validator("compression_level")
    @classmethod
    def _level(cls, level: int, info: ValidationInfo) -> int:
        codec: Codec | None = info.data.get("codec")
        if codec and level not in codec.levels:
            first, last = codec.levels[0], codec.levels[-1]
            raise ValueError(f"with BACKUP_CODEC={codec} it is a level from {first} to {last}")
        return level

    @field_validator("client_minimums")
    @classmethod
    def _versions(cls, versions: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", version) for version in versions):
            raise ValueError("versions of PostgreSQL look like 17.12 18.7")
        return versions

    @field_validator("dsn", "drill_dsn")
    @classmethod
    def _readable(cls, dsn: SecretStr | None) -> SecretStr | None:
        from backup_pipeline.engine.postgres import Server

        if dsn:
            try:
                Server.of(dsn.get_secret_value())
            except InvalidInput as error:
                raise ValueError(error.message) from None
        return dsn

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is theirs
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, the environment, and the file."""
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, _read_file()),
        )

    @property
    def zone(self) -> ZoneInfo:
        """The zone of names, of the schedule and of retention's calendar."""
        return ZoneInfo(self.timezone)

    @property
    def stale_after(self) -> timedelta:
        """When an upload to which nothing arrives counts as given up."""
        return timedelta(hours=self.stale_upload_hours)

    @property
    def minimums(self) -> dict[int, int]:
        """Of each major version of the client tools, the oldest minor one to be content with."""
        from backup_pipeline.engine.postgres import SECURITY_MINIMUMS

        split = (version.split(".") for version in self.client_minimums)
        return {**SECURITY_MINIMUMS, **{int(major): int(minor) for major, minor in split}}

    def server(self) -> "Server":
        """The server, connected to the database that is backed up."""
        return self._server(self.dsn)

    def drill_server(self) -> "Server":
        """The server on which drills restore."""
        return self._server(self.drill_dsn or self.dsn)

    def _server(self, dsn: SecretStr | None) -> "Server":
        from backup_pipeline.engine.postgres import Server

        server = Server.of(dsn.get_secret_value() if dsn else None).using(self.database)
        return replace(server, patience=self.postgres_timeout)

    def source(self) -> "PostgresDumpSource":
        """The database as something that can be dumped."""
        from backup_pipeline.engine.dump import PostgresDumpSource

        # An encrypted dump is one stream.
        jobs = 1 if self.recipients else self.jobs
        return PostgresDumpSource(self.server(), self.clients_dirs(), self.lock_timeout, jobs)

    def public_keys(self) -> "Sequence[Recipient]":
        """For whom backups are encrypted; for nobody where they are not."""
        from backup_pipeline.engine.age import Recipient

        return [Recipient.parse(each) for each in self.recipients]

    def identities(self) -> "Sequence[Identity]":
        """What encrypted backups are read with; raises `InvalidInput`, which shows no key."""
        from backup_pipeline.engine.age import identities_in

        if self.identity_file is None:
            return ()
        try:
            return identities_in(self.identity_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidInput(f"{self.identity_file} can't be read: {why}") from None

    def rate(self) -> "RateLimit":
        """The limit on what goes to the store, or on what comes from it."""
        from backup_pipeline.engine.rate import RateLimit

        return RateLimit(self.limit_rate * 1_000_000 if self.limit_rate else None)

    def store(self) -> "ObjectStore":
        """The bucket; nothing is sent yet."""
        from backup_pipeline.engine.s3 import S3Store
        from backup_pipeline.engine.s3_client import S3Connection

        return S3Store(
            S3Connection(
                bucket=self.bucket,
                endpoint_url=self.s3_endpoint_url,
                region=self.s3_region,
                ca_bundle=str(self.s3_ca_bundle) if self.s3_ca_bundle else None,
                addressing_style=self.s3_addressing_style,
                request_checksums=self.s3_checksums,
                max_attempts=self.s3_max_attempts,
                connect_timeout=self.s3_connect_timeout,
                read_timeout=self.s3_read_timeout,
            ),
            self.rate(),
        )

    def keys(self) -> "Keys":
        """The keys under the prefix."""
        from backup_pipeline.engine.names import Keys

        return Keys(self.prefix)

    def policy(self, days: int | None = None) -> "RetentionPolicy":
        """What to keep; `days` take the place of those that are set."""
        from backup_pipeline.engine.model import RetentionPolicy

        return RetentionPolicy(
            days=self.retention_days if days is None else days,
            minimum=self.retention_minimum,
            daily=self.retention_daily,
            weekly=self.retention_weekly,
            monthly=self.retention_monthly,
            yearly=self.retention_yearly,
            zone=self.zone,
        )

    def limits(self) -> "Limits":
        """How far a backup may be from those before it."""
        from backup_pipeline.engine.history import Limits

        return Limits(self.history_runs, self.history_change, self.history_slowdown)

    def name(self, now: datetime, label_date: date | None = None) -> "BackupName":
        """The name of a backup made now, in local time; `label_date` takes the day's place."""
        from backup_pipeline.engine.names import BackupName

        local = now.astimezone(self.zone)
        label = datetime.combine(label_date, local.time()) if label_date else local
        return BackupName.of(self.database, label)

    def clients_dirs(self) -> Sequence[Path]:
        """Where to look for PostgreSQL's client tools: as set, else wherever they usually are."""
        if self.pg_bin_dirs:
            return self.pg_bin_dirs
        from backup_pipeline.embedded.postgres import embedded_bin_dirs

        on_path = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
        usual = [
            found
            for pattern in _USUAL_BIN_DIRS
            for found in sorted(Path("/").glob(pattern.removeprefix("/")))
        ]
        return [*on_path, *usual, *embedded_bin_dirs()]


def load_settings(**given: Any) -> Settings:
    """Read and validate everything; what is `given` wins over environment and file.

    Raises `InvalidInput` that names the variable and never shows a value.
    """
    given = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise InvalidInput(_sentence(error)) from None
    except SettingsError as error:
        raise InvalidInput(f"the settings can't be read: {error}") from None
    if "database" in settings.model_fields_set:
        return settings
    return _with_libpqs_database(settings)


def _with_libpqs_database(settings: Settings) -> Settings:
    """Where no database is set, libpq's sources name it before the default does."""
    from backup_pipeline.engine.postgres import Server

    named = os.environ.get("PGDATABASE")
    if settings.dsn or os.environ.get("PGSERVICE"):
        named = Server.of(settings.dsn.get_secret_value() if settings.dsn else None).named_database
    return settings.model_copy(update={"database": named}) if named else settings


def _read_file() -> dict[str, Any]:
    given = os.environ.get(f"{_PREFIX}CONFIG")
    path = Path(given or "backup.yaml")
    if path.is_file():
        return _mapping(path)
    if given:
        raise InvalidInput(f"BACKUP_CONFIG names {given}, and there is no such file")
    return {}


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        # The parser quotes the line, and the line may hold a secret.
        line = f" near line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInput(f"{path} is not YAML{line}") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        raise InvalidInput(f"{path} can't be read as YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidInput(f"{path} is no list of settings, such as `bucket: options-data`")
    return content


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "?"
    if first["type"] == "extra_forbidden":
        return f"there is no setting `{field}`"
    said = first["msg"].removeprefix("Value error, ")
    return f"{_PREFIX}{field.upper()} can't be used: {said[:1].lower()}{said[1:]}"
