"""Files of age: read by other programs, read from other programs, and not read if tampered with."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from random import Random

import pyrage
import pytest

from backup_pipeline.engine import age
from backup_pipeline.engine.age import (
    CHUNK,
    SEALED,
    TAG,
    Encryptor,
    Identity,
    Payload,
    Recipient,
    decrypted,
    encrypted,
    header_size,
    identities_in,
)
from backup_pipeline.errors import InvalidInput, VerificationFailed

MINE = Identity.made()
each_size = pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7]
)
with_age = pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not here")


def some(size: int) -> bytes:
    return Random(size).randbytes(size)  # noqa: S311  # not a secret


def theirs(identity: Identity) -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.from_str(identity.secret)


@each_size
def test_another_implementation_reads_what_is_written_here(size: int) -> None:
    other = Identity.made()
    file = encrypted(some(size), [MINE.recipient, other.recipient])
    assert pyrage.decrypt(file, [theirs(MINE)]) == some(size)
    assert pyrage.decrypt(file, [theirs(other)]) == some(size)


@each_size
def test_what_another_implementation_wrote_is_read_here(size: int) -> None:
    others = [pyrage.x25519.Identity.generate() for _ in range(2)]
    recipients = [*(each.to_public() for each in others), theirs(MINE).to_public()]
    assert decrypted(pyrage.encrypt(some(size), recipients), [MINE]) == some(size)


@with_age
def test_the_program_age_reads_what_is_written_here(tmp_path: Path) -> None:
    key, file = tmp_path / "key.txt", tmp_path / "file.age"
    key.write_text(f"# a comment\n{MINE.secret}\n")
    file.write_bytes(encrypted(some(3 * CHUNK + 7), [MINE.recipient]))
    command = ["age", "--decrypt", "--identity", str(key), str(file)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == some(3 * CHUNK + 7)


@with_age
def test_what_the_program_age_wrote_is_read_here(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(some(2 * CHUNK + 7))
    command = ["age", "--recipient", str(MINE.recipient), str(plain)]
    file = subprocess.run(command, check=True, capture_output=True).stdout
    assert decrypted(file, [MINE]) == some(2 * CHUNK + 7)


@pytest.mark.parametrize("step", [1, 1000, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_in_what_steps_it_is_written_does_not_matter(step: int) -> None:
    plain = some(3 * CHUNK)
    encryptor = Encryptor([MINE.recipient])
    steps = [plain[at : at + step] for at in range(0, len(plain), step)]
    sealed = [encryptor.header, *map(encryptor.encrypt, steps), encryptor.finish()]
    assert pyrage.decrypt(b"".join(sealed), [theirs(MINE)]) == plain


def test_each_file_has_a_key_of_its_own() -> None:
    one, other = (encrypted(some(100), [MINE.recipient]) for _ in range(2))
    assert one[header_size(one) :] != other[header_size(other) :]


def test_any_chunk_is_read_by_itself() -> None:
    plain = some(3 * CHUNK + 7)
    file = encrypted(plain, [MINE.recipient])
    begin = header_size(file)
    payload = Payload(file[:begin], len(file), [MINE])
    assert payload.length == len(plain)
    for number in (3, 1, 0, 2):
        sealed = file[begin + number * SEALED : begin + (number + 1) * SEALED]
        assert payload.open(number, sealed) == plain[number * CHUNK : (number + 1) * CHUNK]


@pytest.mark.parametrize("seed", range(100))
def test_one_flipped_bit_anywhere_gives_nothing(seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # not a secret
    file = bytearray(encrypted(b"secret rows", [MINE.recipient]))
    file[chance.randrange(len(file))] ^= 1 << chance.randrange(8)
    with pytest.raises(VerificationFailed):
        decrypted(bytes(file), [MINE])


def chunks_of(file: bytes) -> tuple[bytes, list[bytes]]:
    begin = header_size(file)
    return file[:begin], [file[at : at + SEALED] for at in range(begin, len(file), SEALED)]


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2],
        [1, 0, 2, 3],
        [0, 2, 1, 3],
        [0, 1, 3],
        [0, 1, 2, 3, 3],
        [0, 0, 1, 2, 3],
        [3],
        [1, 2, 3],
        [],
    ],
    ids=str,
)
def test_chunks_that_are_cut_off_left_out_moved_or_repeated_are_found(order: list[int]) -> None:
    header, chunks = chunks_of(encrypted(some(3 * CHUNK + 7), [MINE.recipient]))
    with pytest.raises(VerificationFailed):
        decrypted(header + b"".join(chunks[number] for number in order), [MINE])


@pytest.mark.parametrize("size", [0, 7, CHUNK, CHUNK + 7])
def test_an_end_that_is_missing_is_found(size: int) -> None:
    file = encrypted(some(size), [MINE.recipient])
    for end in {0, 1, 30, len(file) - SEALED, len(file) - TAG, len(file) - 1} - {*range(-99999, 0)}:
        with pytest.raises(VerificationFailed):
            decrypted(file[:end], [MINE])


def test_an_empty_chunk_behind_others_is_refused() -> None:
    """A writer that follows the format makes the chunk before it the last one."""
    file_key, nonce = bytes(16), bytes(16)
    cipher = age._payload_cipher(file_key, nonce)
    sealed = cipher.encrypt(age._nonce(0, last=False), bytes(CHUNK), None)
    sealed += cipher.encrypt(age._nonce(1, last=True), b"", None)
    with pytest.raises(VerificationFailed, match="cut"):
        decrypted(age._header(file_key, [MINE.recipient]) + nonce + sealed, [MINE])


def test_a_chunk_of_another_file_is_found() -> None:
    (header, chunks), (_, others) = (
        chunks_of(encrypted(some(2 * CHUNK), [MINE.recipient])) for _ in range(2)
    )
    with pytest.raises(VerificationFailed, match="chunk 1 "):
        decrypted(header + chunks[0] + others[1], [MINE])


def test_a_key_for_which_it_was_not_encrypted_gives_nothing() -> None:
    file = encrypted(b"secret rows", [MINE.recipient])
    with pytest.raises(VerificationFailed, match="none of the identities"):
        decrypted(file, [Identity.made(), Identity.made()])
    assert decrypted(file, [Identity.made(), MINE]) == b"secret rows"


def test_a_share_of_low_order_is_refused() -> None:
    """Whatever the key is, such a point makes the same secret of it."""
    file = encrypted(b"secret rows", [MINE.recipient])
    at = file.index(b"-> X25519 ") + len(b"-> X25519 ")
    with pytest.raises(VerificationFailed, match="header"):
        decrypted(file[:at] + b"A" * 43 + file[at + 43 :], [MINE])


def test_keys_are_written_as_others_write_them() -> None:
    for _ in range(20):
        identity = Identity.made()
        assert str(theirs(identity)) == identity.secret
        assert str(theirs(identity).to_public()) == str(identity.recipient)
        assert Recipient.parse(f" {identity.recipient}\n") == identity.recipient
        assert identities_in(f"# public key: x\n\n{identity.secret}\n") == (identity,)


def test_a_secret_is_in_no_repr() -> None:
    assert MINE.secret not in repr(MINE)
    assert MINE.key.hex() not in repr(MINE)
    assert str(MINE.key) not in repr(MINE)


def changed(text: str) -> list[str]:
    """Every text that differs in one letter of it, or in two neighbours that changed places."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    at = text.index("1") + 1
    one = [
        text[:place] + ("q" if text[place] != "q" else "p") + text[place + 1 :]
        for place in range(at, len(text))
    ]
    two = [
        text[:place] + other + this + text[place + 2 :]
        for place, (this, other) in enumerate(pairwise(text))
        if place >= at and this != other
    ]
    assert set(text[at:]) <= set(letters)
    return one + two


def test_a_mistyped_recipient_is_refused_and_not_shown() -> None:
    text = str(MINE.recipient)
    for wrong in [*changed(text), text.upper(), text[:-1], f"{text}q", "", "age1", MINE.secret]:
        with pytest.raises(InvalidInput) as error:
            Recipient.parse(wrong)
        assert len(wrong) < 5 or wrong not in f"{error.value.message} {error.value.hint}"


def test_a_file_without_a_private_key_is_refused_and_not_shown() -> None:
    for wrong in [
        MINE.secret.lower(),
        MINE.secret[:-1],
        str(MINE.recipient),
        f"{MINE.secret}\nsomething else",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ]:
        with pytest.raises(InvalidInput, match=r"line [12] of") as error:
            identities_in(wrong)
        assert not any(line in f"{error.value.message} {error.value.hint}" for line in [wrong])
    with pytest.raises(InvalidInput, match="no private key"):
        identities_in("# only a comment\n")
