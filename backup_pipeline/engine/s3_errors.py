"""botocore's errors as ours: the one place where an answer of the store gets its meaning."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.errors import (
    BackupPipelineError,
    BucketMissing,
    InvalidInput,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.exceptions import BotoCoreError, ClientError

_DENIED = frozenset(
    (
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    )
)
_BUSY = frozenset(("RequestTimeout", "SlowDown", "Throttling", "TooManyRequests"))
_SKEWED = "RequestTimeTooSkewed"
_TOLERATED = timedelta(minutes=15)
"""By how much a store lets its clock and that of a signature differ."""
_CHECKSUMS = (
    "This store may not know the checksums that newer clients send: "
    "try BACKUP_S3_CHECKSUMS=when_required."
)
_TLS = "For a certificate of its own, name the file with it in BACKUP_S3_CA_BUNDLE."
_CONDITION = "This store may not know conditional writes (If-None-Match), which backups need."
_REGION = "The bucket is in another region: set AWS_REGION to it."
_ELSEWHERE = (
    "Look whether AWS_ENDPOINT_URL_S3 has the port of S3, and not that of a console or a portal."
)
_ONE_SIZE = (
    "This store may want all parts of an upload to have one size, as Cloudflare R2 does: "
    "BACKUP_JOBS=1 makes them so."
)
_LOCKED = "A bucket that locks its objects takes none without checksums: unset BACKUP_S3_CHECKSUMS."
# Answered with 403, and no matter of credentials.
_OF_THE_OBJECT = {
    "InvalidObjectState": "The object is archived, as in Glacier: have the store restore it, and "
    "run this again.",
    "QuotaExceeded": "The quota of the bucket or of its owner is used up: make room, or raise it.",
}
# What stores answer that stumble over a checksum, a trailer or a signed chunk.
_CHECKSUM_CODES = frozenset(
    ("BadDigest", "InvalidDigest", "MissingContentLength", "XAmzContentSHA256Mismatch")
)
_CHECKSUM_WORDS = ("checksum", "trailer", "content-sha256", "aws-chunked", "transfer-encoding")


def error_code(error: "BotoCoreError | ClientError") -> str:
    """The code of S3's error document, such as `NoSuchKey`; of a HEAD only the status."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def from_botocore(
    error: "BotoCoreError | ClientError", call: str, key: str, bucket: str
) -> BackupPipelineError:
    """Our error for what a call met; its message names call, key and bucket, never a secret."""
    from botocore.exceptions import ClientError

    subject = _subject(call, key, bucket)
    if isinstance(error, ClientError):
        return _from_reply(error, call, subject)
    return _from_client(error, subject)


def not_of_s3(call: str, key: str, bucket: str) -> StoreError:
    """The error for an answer that lacks what every answer of S3 has."""
    return StoreError(f"{_subject(call, key, bucket)}: the answer is none of S3's", hint=_ELSEWHERE)


def _subject(call: str, key: str, bucket: str) -> str:
    return f"{call} of {key!r} in bucket {bucket!r}" if key else f"{call} in bucket {bucket!r}"


def _from_reply(error: "ClientError", call: str, subject: str) -> StoreError:
    """The meaning of an answer (S3 API reference, "Error responses")."""
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = error.response.get("Error", {}).get("Message", "")
    answer = code if code == str(status) else f"{status} {code}"
    message = f"{subject}: the store answered {answer}" + (f": {said}" if said else "")
    if code == "NoSuchBucket" or (status == 404 and call == "HeadBucket"):
        return BucketMissing(message)
    if code == "NoSuchKey" or (status == 404 and call == "HeadObject"):
        return ObjectMissing(message)
    if status == 412 and call == "GetObject":
        return ObjectMissing(f"{subject}: the object was replaced by another one")
    if status == 412 or code == "ConditionalRequestConflict":
        return ObjectExists(message)
    skewed = _skewed(error.response)
    if code == _SKEWED or (status == 403 and skewed):
        # The answer to a HEAD says no more than 403.
        hint = skewed or "The clocks of this machine and of the store differ too much."
        return StoreError(message, hint=f"{hint} Set both by NTP.")
    if code in _OF_THE_OBJECT:
        return StoreError(message, hint=_OF_THE_OBJECT[code])
    if code in _DENIED or status in (401, 403):
        return StoreDenied(message)
    if code in _BUSY or status == 429 or (status >= 500 and status != 501):
        # Every store names the error; of a page that is no XML botocore says that it is a 500.
        doubt = f" Or it is none. {_ELSEWHERE}" if code == str(status) else ""
        return StoreUnreachable(
            message, hint=f"The store is busy or broken; its log says more.{doubt}"
        )
    if code == "InvalidPart" and call == "CompleteMultipartUpload":
        return StoreError(message, hint=_ONE_SIZE)
    return StoreError(message, hint=_hint(code, status, said))


def _skewed(response: "Mapping[str, Any]") -> str | None:
    """By how much the clock of whoever answered differs from ours, if it is too much."""
    dated = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        ahead = datetime.now(UTC) - parsedate_to_datetime(dated)
    except (TypeError, ValueError):
        return None
    if abs(ahead) <= _TOLERATED:
        return None
    minutes = f"{abs(ahead).total_seconds() / 60:,.0f}"
    way = "ahead of" if ahead > timedelta(0) else "behind"
    return f"This machine's clock is {minutes} minutes {way} the store's."


def _hint(code: str, status: int, said: str) -> str | None:
    """What to do about an answer that only some stores give."""
    words = said.lower()
    if "content-md5 or x-amz-checksum" in words:
        return _LOCKED
    if code in _CHECKSUM_CODES or any(word in words for word in _CHECKSUM_WORDS):
        return _CHECKSUMS
    if status == 501:
        return f"{_CONDITION} {_CHECKSUMS}"
    if status in (301, 307) or code == "IllegalLocationConstraintException":
        return _REGION
    return None


def _from_client(error: "BotoCoreError | ClientError", subject: str) -> BackupPipelineError:
    """The meaning of an error that was raised on our side of the network."""
    import botocore.exceptions as raised

    # The texts of network errors hold whole URLs, so they stay in the cause.
    name = type(error).__name__
    if isinstance(error, raised.SSLError):
        return StoreUnreachable(f"{subject}: no TLS connection ({name})", hint=_TLS)
    if isinstance(error, raised.HTTPClientError | raised.ConnectionError):
        return StoreUnreachable(f"{subject}: no answer from the store ({name})")
    if isinstance(
        error,
        raised.NoCredentialsError
        | raised.PartialCredentialsError
        | raised.CredentialRetrievalError
        | raised.MetadataRetrievalError
        | raised.TokenRetrievalError
        | raised.SSOError,
    ):
        return StoreDenied(f"{subject}: no usable credentials ({name})")
    if isinstance(
        error,
        raised.ProfileNotFound
        | raised.NoRegionError
        | raised.ValidationError
        | raised.ParamValidationError
        | raised.ConfigParseError
        | raised.ConfigNotFound,
    ):
        # botocore lists every pattern that a name failed to match; the first lines are enough.
        return InvalidInput(f"{subject}: {' '.join(str(error).split())[:200]}")
    return StoreError(f"{subject}: {name}")
