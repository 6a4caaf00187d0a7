"""The JSON documents of the bucket: manifest and evidence, to bytes and back.

Each one ends with the SHA-256 of what stands before it, so that a flipped bit is found in a number
or a time as well, where the document is still one that could be.
It is no signature: who takes the line out may mend a document by hand.
"""

import hashlib
import re
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from backup_pipeline.errors import VerificationFailed

T = TypeVar("T")

_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
_END = b"\n}"


def to_json(document: object) -> bytes:
    """A document as JSON that people can read too."""
    kind: Any = type(document)
    text = _adapter(kind).dump_json(document, indent=1)
    seal = f',\n "sha256": "{hashlib.sha256(text).hexdigest()}"\n}}\n'
    return text.removesuffix(_END) + seal.encode()


def from_json(kind: type[T], text: bytes, key: str) -> T:
    """Read a document of the given kind; `key` says in the error which one it was.

    Raises `VerificationFailed` for anything that the kind does not allow, unknown fields
    included, and where its SHA-256 is another one.
    """
    if seal := _SEAL.search(text):
        text = text[: seal.start()] + _END
        if hashlib.sha256(text).hexdigest() != seal[1].decode():
            raise VerificationFailed(f"{key} is damaged: its SHA-256 is another one")
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
