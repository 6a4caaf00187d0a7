"""The age format (age-encryption.org/v1): what it takes to write a file, and to read parts of one.

Only X25519 recipients, which are public keys: who encrypts cannot decrypt.
The payload is a row of chunks, each sealed with its number and whether it is the last one (STREAM),
so that any of them can be opened by itself, and none be changed, moved, left out or cut off.
The primitives are those of the library `cryptography`; the rules are the specification's (C2SP,
"age", 1.0) and Bech32's (BIP 173).
"""

import os
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backup_pipeline.errors import InvalidInput, VerificationFailed

CHUNK = 1 << 16
"""Bytes of a chunk before it is sealed; only the last one may have fewer."""
TAG = 16
SEALED = CHUNK + TAG
"""Bytes of a sealed chunk."""

_VERSION = b"age-encryption.org/v1\n"
_X25519 = b"age-encryption.org/v1/X25519"
_FILE_KEY = _NONCE = 16
_STANZA = re.compile(
    rb"-> (?P<arguments>[\x21-\x7e]+(?: [\x21-\x7e]+)*)\n"
    rb"(?P<body>(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)"
)
_MAC = re.compile(rb"--- (?P<mac>[A-Za-z0-9+/]{43})\n")
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key: who has its identity can decrypt."""

    key: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `age1...`; raises `InvalidInput`, and never shows what might be a secret."""
        key = _bech32_decoded("age", text.strip())
        if key is None:
            raise InvalidInput(
                "a recipient is no public key of age",
                hint="`age-keygen` makes a key pair and prints the public key, which begins with "
                "age1. Keys of SSH, of plugins and passphrases are not supported.",
            )
        return cls(key)

    def __str__(self) -> str:
        return _bech32_encoded("age", self.key)


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key."""

    key: bytes = field(repr=False)

    @classmethod
    def made(cls) -> Self:
        """A new one."""
        return cls(os.urandom(32))

    @property
    def recipient(self) -> Recipient:
        """Its public key."""
        return Recipient(_private(self.key).public_key().public_bytes_raw())

    @property
    def secret(self) -> str:
        """`AGE-SECRET-KEY-1...`, as it stands in a file of identities."""
        return _bech32_encoded("age-secret-key-", self.key).upper()


def identities_in(text: str) -> tuple[Identity, ...]:
    """The identities of a file as `age-keygen` writes it: one on a line, and lines of comments.

    Raises `InvalidInput`, which never shows a line.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key = _bech32_decoded("AGE-SECRET-KEY-", line.strip())
        if key is None:
            raise InvalidInput(
                f"line {number} of the file of identities is no private key of age",
                hint="Each begins with AGE-SECRET-KEY-1. A file that is encrypted itself has to be "
                "decrypted first; keys of SSH and of plugins are not supported.",
            )
        found.append(Identity(key))
    if not found:
        raise InvalidInput("there is no private key of age in the file of identities")
    return tuple(found)


class Encryptor:
    """One file on its way: first the `header`, then what `encrypt` and `finish` give."""

    def __init__(self, recipients: Sequence[Recipient]) -> None:
        file_key, nonce = os.urandom(_FILE_KEY), os.urandom(_NONCE)
        self.header = _header(file_key, recipients) + nonce
        """All that stands before the first chunk."""
        self._cipher = _payload_cipher(file_key, nonce)
        self._number = 0
        self._waiting = bytearray()

    def encrypt(self, data: bytes) -> bytes:
        """The next sealed chunks, perhaps none yet."""
        self._waiting += data
        # The last chunk is another kind of chunk, so one is kept back.
        starts = range(0, len(self._waiting) - CHUNK, CHUNK)
        sealed = [self._sealed(self._waiting[at : at + CHUNK], last=False) for at in starts]
        del self._waiting[: len(sealed) * CHUNK]
        return b"".join(sealed)

    def finish(self) -> bytes:
        """The last chunk."""
        return self._sealed(self._waiting, last=True)

    def _sealed(self, chunk: bytearray, *, last: bool) -> bytes:
        nonce = _nonce(self._number, last=last)
        self._number += 1
        return self._cipher.encrypt(nonce, chunk, None)


class Payload:
    """The chunks of a file, to be opened in whatever order."""

    def __init__(self, header: bytes, length: int, identities: Iterable[Identity]) -> None:
        """`header` is all that stands before the first chunk, of a file of `length` bytes.

        Raises `VerificationFailed` where the header is damaged, or none of the identities opens it.
        """
        read = _Header.read(header)
        if read.size != len(header):
            raise _damaged()
        self._cipher = _payload_cipher(read.file_key(identities), header[-_NONCE:])
        sealed = length - len(header)
        self._chunks = -(-sealed // SEALED)
        last = sealed - (self._chunks - 1) * SEALED
        # An empty last chunk is allowed only where it is the only one.
        if self._chunks < 1 or last < TAG or (last == TAG and self._chunks > 1):
            raise VerificationFailed("the encrypted file is cut")
        self.length = sealed - self._chunks * TAG
        """Bytes before they were sealed."""

    def open(self, number: int, sealed: bytes | bytearray) -> bytes:
        """A chunk; raises `VerificationFailed` where it is not, in every bit, that very one."""
        nonce = _nonce(number, last=number == self._chunks - 1)
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except InvalidTag:
            raise VerificationFailed(
                f"chunk {number} of the encrypted file is not the one that was written"
            ) from None

    def opened(self, sealed: Iterator[bytes], first: int) -> Iterator[bytes]:
        """All chunks of a stream of bytes that begins with chunk `first`; raises as `open`."""
        waiting = bytearray()
        number = first
        for data in sealed:
            waiting += data
            start = 0
            while len(waiting) - start >= SEALED:
                yield self.open(number, waiting[start : start + SEALED])
                number, start = number + 1, start + SEALED
            del waiting[:start]
        if waiting:
            yield self.open(number, waiting)


def encrypted(data: bytes, recipients: Sequence[Recipient]) -> bytes:
    """A whole file."""
    encryptor = Encryptor(recipients)
    return encryptor.header + encryptor.encrypt(data) + encryptor.finish()


def decrypted(file: bytes, identities: Iterable[Identity]) -> bytes:
    """What is in a whole file; raises `VerificationFailed`, and then gives nothing of it."""
    size = header_size(file)
    payload = Payload(file[:size], len(file), identities)
    return b"".join(payload.opened(iter([file[size:]]), 0))


def header_size(file: bytes) -> int:
    """How many bytes stand before the first chunk; raises `VerificationFailed`."""
    return _Header.read(file).size


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the nonce."""

    stanzas: tuple[tuple[list[bytes], bytes], ...]
    """Of each its arguments and its body."""
    authentic: bytes
    """What the MAC is made of."""
    mac: bytes

    @property
    def size(self) -> int:
        """Of all that stands before the first chunk."""
        return len(self.authentic) + len(b" ") + len(_base64(self.mac)) + len(b"\n") + _NONCE

    @classmethod
    def read(cls, file: bytes) -> Self:
        """Read what a file begins with; raises `VerificationFailed`."""
        stanzas, at = [], len(_VERSION)
        while found := _STANZA.match(file, at):
            body = _unbase64(found["body"].replace(b"\n", b""))
            stanzas.append((found["arguments"].split(b" "), body))
            at = found.end()
        mac = _MAC.match(file, at)
        if not (file.startswith(_VERSION) and stanzas and mac and len(file) >= mac.end() + _NONCE):
            raise _damaged()
        return cls(tuple(stanzas), file[: at + len(b"---")], _unbase64(mac["mac"]))

    def file_key(self, identities: Iterable[Identity]) -> bytes:
        """What the first of the identities unwraps for which there is a stanza."""
        for identity in identities:
            for arguments, body in self.stanzas:
                if arguments[0] == b"X25519":
                    file_key = _unwrapped(arguments[1:], body, identity)
                    if file_key is not None:
                        self._require_mac(file_key)
                        return file_key
        raise VerificationFailed("none of the identities opens the encrypted file")

    def _require_mac(self, file_key: bytes) -> None:
        try:
            _mac(file_key, self.authentic).verify(self.mac)
        except InvalidSignature:
            raise _damaged() from None


def _header(file_key: bytes, recipients: Sequence[Recipient]) -> bytes:
    stanzas = b"".join(_wrapped(file_key, recipient) for recipient in recipients)
    authentic = _VERSION + stanzas + b"---"
    return authentic + b" " + _base64(_mac(file_key, authentic).finalize()) + b"\n"


def _wrapped(file_key: bytes, recipient: Recipient) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.key))
    body = _wrapping(shared, share, recipient).encrypt(bytes(12), file_key, None)
    return b"-> X25519 " + _base64(share) + b"\n" + _base64(body) + b"\n"


def _unwrapped(arguments: list[bytes], body: bytes, identity: Identity) -> bytes | None:
    """The file key, or `None` where the stanza is for somebody else."""
    share = _unbase64(arguments[0]) if len(arguments) == 1 else b""
    if len(share) != 32 or len(body) != _FILE_KEY + TAG:
        raise _damaged()
    try:
        shared = _private(identity.key).exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:  # a point of low order, which an honest writer does not choose
        raise _damaged() from None
    try:
        return _wrapping(shared, share, identity.recipient).decrypt(bytes(12), body, None)
    except InvalidTag:
        return None


def _wrapping(shared: bytes, share: bytes, recipient: Recipient) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derived(shared, share + recipient.key, _X25519))


def _payload_cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derived(file_key, nonce, b"payload"))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _mac(file_key: bytes, authentic: bytes) -> HMAC:
    mac = HMAC(_derived(file_key, b"", b"header"), SHA256())
    mac.update(authentic)
    return mac


def _derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _private(key: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(key)


def _damaged() -> VerificationFailed:
    return VerificationFailed("the header of the encrypted file is damaged, or not one of age's")


def _base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    """Without padding, and only as `_base64` would have written it."""
    try:
        data = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except NotBase64:
        raise _damaged() from None
    if _base64(data) != text:
        raise _damaged()
    return data


def _bech32_encoded(prefix: str, data: bytes) -> str:
    bits = int.from_bytes(data, "big") << 4  # 256 bits are 51 letters and one of 4 bits
    words = [bits >> 5 * place & 31 for place in reversed(range(52))]
    sum_ = _bech32_polymod([*_expanded(prefix), *words, *[0] * 6]) ^ 1
    words += [sum_ >> 5 * place & 31 for place in reversed(range(6))]
    return f"{prefix}1{''.join(_CHARSET[word] for word in words)}"


def _bech32_decoded(prefix: str, text: str) -> bytes | None:
    """The 32 bytes of a key, or `None` where the text is not exactly one of that kind."""
    words = [_CHARSET.find(letter) for letter in text[len(prefix) + 1 :].lower()]
    if len(words) != 58 or -1 in words:
        return None
    bits = 0
    for word in words[:52]:
        bits = bits << 5 | word
    key = (bits >> 4).to_bytes(32, "big")
    encoded = _bech32_encoded(prefix.lower(), key)
    return key if text == (encoded.upper() if prefix.isupper() else encoded) else None


def _bech32_polymod(values: Iterable[int]) -> int:
    sum_ = 1
    for value in values:
        top = sum_ >> 25
        sum_ = (sum_ & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATOR):
            sum_ ^= generator if top >> place & 1 else 0
    return sum_


def _expanded(prefix: str) -> list[int]:
    codes = prefix.encode()
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]
