"""From the engine's errors to Dagster's failures; the one place that decides what is retried.

No asset has a `RetryPolicy`: Dagster obeys one for every exception, and even for a cancelled run,
which would then begin another dump instead of ending.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from backup_pipeline.errors import (
    BackupPipelineError,
    PostgresDenied,
    PostgresUnreachable,
    StoreError,
    StoreUnreachable,
)

TRANSIENT = (PostgresUnreachable, StoreUnreachable)
"""What may be over in a minute; the engine's own, shorter retries have been in vain by then."""
MAX_RETRIES = 2
FIRST_WAIT = 30.0
"""Seconds; each further wait is twice as long."""


Step = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext


def as_failure(error: BackupPipelineError, metadata: Mapping[str, Any] | None = None) -> dg.Failure:
    """An error as Dagster shows it: what happened, what to do, and the exit code it stands for."""
    failure = dg.Failure(
        description="\n".join((error.message, *error.notes, error.hint)),
        metadata={
            **(metadata or {}),
            "error": type(error).__name__,
            "exit_code": error.exit_code,
            "hint": error.hint,
        },
        allow_retries=isinstance(error, TRANSIENT) and not isinstance(error, PostgresDenied),
    )
    failure.__cause__ = error
    return failure


def deletions_failed(sentences: Sequence[str]) -> StoreError:
    """A prune that could not delete all that has expired."""
    return StoreError(
        f"{len(sentences)} deletions failed: {'; '.join(sentences)}",
        hint="The backups themselves are safe; the next run tries again.",
    )


@contextmanager
def failing_clearly(context: Step) -> Iterator[None]:
    """Turn the engine's errors into failures, and those that may pass into retries.

    Raises `dagster.Failure`, or `dagster.RetryRequested` with the failure as its cause.
    """
    try:
        yield
    except BackupPipelineError as error:
        failure = as_failure(error)
        before = _retry_number(context)
        if failure.allow_retries and before < MAX_RETRIES:
            wait = FIRST_WAIT * 2**before
            raise dg.RetryRequested(MAX_RETRIES, wait) from failure
        raise failure from error


def _retry_number(context: Step) -> int:
    if isinstance(context, dg.OpExecutionContext):
        return context.retry_number
    return context.op_execution_context.retry_number
