"""The JSON documents of the bucket: manifest and evidence, to bytes and back."""

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from backup_pipeline.errors import VerificationFailed

T = TypeVar("T")


def to_json(document: object) -> bytes:
    """A document as JSON that people can read too."""
    kind: Any = type(document)
    return _adapter(kind).dump_json(document, indent=1) + b"\n"


def from_json(kind: type[T], text: bytes, key: str) -> T:
    """Read a document of the given kind; `key` says in the error which one it was.

    Raises `VerificationFailed` for anything that the kind does not allow, unknown fields
    included.
    """
    adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type]  # every type is hashable
    try:
        document = adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the document"
        raise VerificationFailed(
            f"{key} is damaged or not ours: {where}: {first['msg']}"
        ) from error
    return document


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
