"""Decoder of the envelope format, in the standard library of Python 3.

It was written from docs/envelope-format.md alone, as a test of that page and of
its vectors. FOR TESTS, NOT FOR USE: nothing here is constant time (AES looks up
tables by secret bytes), and it is slow.

    python3 decoder.py vectors.json
"""

import hashlib
import hmac
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MAGIC = bytes.fromhex("8b434d4b454e56")
VERSION = 1
ALGORITHM = 1
MAX_ARN, MAX_WRAPPED, MAX_CHUNKS = 2048, 6144, 2**32
MIN_CONTEXT, MAX_CONTEXT = 8, 8192
TAG = 16
ARN = re.compile(rb"arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[a-z0-9-]+")

Trusts = Callable[[str], bool]
Unwrap = Callable[[str, bytes, dict[str, str]], tuple[str, bytes]]


class Refused(Exception):
    """A message is refused; `error` is a name from the table of the page."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(f"{error}: {why}")
        self.error = error


class KMSError(Exception):
    """What `unwrap` raises for an error of KMS; `code` is its name."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


VERDICTS = {"InvalidCiphertextException": "tampered", "IncorrectKeyException": "key"}


# --- AES-256-GCM (FIPS 197, SP 800-38D) ---------------------------------------


def xtime(a: int) -> int:
    """Multiply by x in the field of AES."""
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def make_sbox() -> bytes:
    """The S-box: inverse in the field of AES (by powers of 3), then the affine map."""
    powers = [1]
    while len(powers) < 255:
        powers.append(powers[-1] ^ xtime(powers[-1]))
    box = bytearray([0x63]) * 256
    for n, power in enumerate(powers):
        b = powers[-n % 255]
        b ^= b << 1 ^ b << 2 ^ b << 3 ^ b << 4
        box[power] ^= (b ^ b >> 8) & 0xFF
    return bytes(box)


SBOX = make_sbox()
SHIFT_ROWS = [(5 * i) % 16 for i in range(16)]
DOUBLE = bytes(xtime(a) for a in range(256))


def xor(a: bytes, b: bytes) -> bytes:
    """XOR, as long as the shorter one."""
    return bytes(x ^ y for x, y in zip(a, b))


def aes_expand_key(key: bytes) -> list[bytes]:
    """The 15 round keys of AES-256."""
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    rcon = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = (word[1:] + word[:1]).translate(SBOX)
            word = bytes([word[0] ^ rcon]) + word[1:]
            rcon = xtime(rcon)
        elif i % 8 == 4:
            word = word.translate(SBOX)
        words.append(xor(words[-8], word))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def aes_encrypt(round_keys: list[bytes], block: bytes) -> bytes:
    """Encrypt one block of 16 bytes."""
    state = xor(block, round_keys[0])
    for number, round_key in enumerate(round_keys[1:], 1):
        sub = state.translate(SBOX)
        state = bytes(sub[i] for i in SHIFT_ROWS)
        if number < len(round_keys) - 1:
            mixed = bytearray()
            for c in range(0, 16, 4):
                column = state[c : c + 4]
                total = column[0] ^ column[1] ^ column[2] ^ column[3]
                for r in range(4):
                    mixed.append(column[r] ^ total ^ DOUBLE[column[r] ^ column[(r + 1) % 4]])
            state = bytes(mixed)
        state = xor(state, round_key)
    return state


def ghash(h: int, data: bytes) -> int:
    """GHASH over data of whole blocks."""
    y = 0
    for pos in range(0, len(data), 16):
        x, v, y = y ^ int.from_bytes(data[pos : pos + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                y ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return y


def gcm_open(round_keys: list[bytes], nonce: bytes, sealed: bytes) -> bytes | None:
    """Open ciphertext and tag, without additional data; None if the tag is wrong."""
    ciphertext, tag = sealed[:-TAG], sealed[-TAG:]
    h = int.from_bytes(aes_encrypt(round_keys, bytes(16)), "big")
    padded = ciphertext + bytes(-len(ciphertext) % 16)
    s = ghash(h, padded + (8 * len(ciphertext)).to_bytes(16, "big"))
    mask = aes_encrypt(round_keys, nonce + (1).to_bytes(4, "big"))
    if not hmac.compare_digest(xor(s.to_bytes(16, "big"), mask), tag):
        return None
    stream = b"".join(
        aes_encrypt(round_keys, nonce + counter.to_bytes(4, "big"))
        for counter in range(2, 2 + len(padded) // 16)
    )
    return xor(ciphertext, stream)


# --- HKDF-SHA-256 (RFC 5869) --------------------------------------------------


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract."""
    return hmac.digest(salt, ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes) -> bytes:
    """HKDF-Expand to 32 bytes, which is its first block."""
    return hmac.digest(prk, info + b"\x01", "sha256")


# --- The format ---------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The fields of a header, where it ends, and the hash of what is bound."""

    key_arn: str
    wrapped_key: bytes
    chunk_bits: int
    message_id: bytes
    context: dict[str, str]
    commitment: bytes
    size: int
    bound_hash: bytes


class Reader:
    """Takes fields from the front; whatever is missing is `tampered`."""

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data, self.pos = data, pos

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        end = self.pos + count
        if end > len(self.data):
            raise Refused("tampered", f"ends in {what}")
        field, self.pos = self.data[self.pos : end], end
        return field

    def number(self, count: int, what: str) -> int:
        """The next `count` bytes as a number."""
        return int.from_bytes(self.take(count, what), "big")

    def sized(self, least: int, most: int, what: str) -> bytes:
        """A sized field, its length checked before it is read."""
        length = self.number(2, f"length of {what}")
        if not least <= length <= most:
            raise Refused("tampered", f"length {length} of {what}")
        return self.take(length, what)


def parse_context(field: bytes) -> dict[str, str]:
    """Decode an encryption context; any but the one encoding is refused."""
    reader = Reader(field)
    context: dict[str, str] = {}
    last = b""  # names are not empty, so each is above this
    count = reader.number(2, "number of attributes")
    if count == 0:
        raise Refused("tampered", "context without attributes")
    for _ in range(count):
        name = reader.sized(1, MAX_CONTEXT, "name of attribute")
        value = reader.sized(1, MAX_CONTEXT, "value of attribute")
        if name <= last:
            raise Refused("tampered", "names of attributes not in ascending order")
        last = name
        try:
            context[name.decode("utf-8")] = value.decode("utf-8")
        except UnicodeDecodeError as err:
            raise Refused("tampered", "context is not UTF-8") from err
    if reader.pos != len(field):
        raise Refused("tampered", "bytes after the last attribute")
    return context


def parse_header(sealed: bytes) -> Header:
    """Decode a header, its fields checked in their order."""
    if not sealed.startswith(MAGIC):
        raise Refused("not-envelope", "no magic")
    reader = Reader(sealed, len(MAGIC))
    if reader.number(1, "version") != VERSION:
        raise Refused("version", "unknown version")
    start = sealed[: reader.pos]
    key_arn = reader.sized(1, MAX_ARN, "key ARN")
    if not ARN.fullmatch(key_arn):
        raise Refused("tampered", "not the ARN of a KMS key")
    wrapped_key = reader.sized(1, MAX_WRAPPED, "wrapped key")
    bound_from = reader.pos
    if reader.number(1, "algorithm") != ALGORITHM:
        raise Refused("version", "unknown algorithm")
    chunk_bits = reader.number(1, "chunk bits")
    if not 4 <= chunk_bits <= 20:
        raise Refused("tampered", f"chunk bits {chunk_bits}")
    message_id = reader.take(32, "message id")
    context = parse_context(reader.sized(MIN_CONTEXT, MAX_CONTEXT, "encryption context"))
    bound_hash = hashlib.sha256(start + sealed[bound_from : reader.pos]).digest()
    commitment = reader.take(32, "commitment")
    return Header(key_arn.decode("ascii"), wrapped_key, chunk_bits, message_id,
                  context, commitment, reader.pos, bound_hash)


def derive(header: Header, data_key: bytes) -> tuple[bytes, bytes, bytes]:
    """Derive prk, message key and commitment from the data key."""
    prk = hkdf_extract(header.message_id, data_key)
    return (prk, hkdf_expand(prk, b"CMKENV 1 body" + header.bound_hash),
            hkdf_expand(prk, b"CMKENV 1 commitment" + header.bound_hash))


def open_chunks(message_key: bytes, chunk_bits: int, body: bytes) -> Iterator[bytes]:
    """Yield the data of each chunk; the last one is known by its nonce."""
    round_keys = aes_expand_key(message_key)
    size = 2**chunk_bits + TAG
    index = pos = 0
    last = False
    while not last:
        taken = body[pos : pos + size]
        pos += size
        last = pos >= len(body)
        if index >= MAX_CHUNKS:
            raise Refused("tampered", "too many chunks")
        if len(taken) < TAG or (len(taken) == TAG and index > 0):
            raise Refused("tampered", f"chunk {index} has {len(taken)} bytes")
        data = gcm_open(round_keys, index.to_bytes(11, "big") + bytes([last]), taken)
        if data is None:
            raise Refused("tampered", f"tag of chunk {index}")
        yield data
        index += 1


def open_message(sealed: bytes, context: dict[str, str], trusts: Trusts, unwrap: Unwrap) -> bytes:
    """Open a message of which the caller expects this context.

    `trusts(key_arn)` says whether the caller trusts that KMS key.
    `unwrap(key_arn, wrapped_key, context)` asks KMS to decrypt, and returns the
    KeyId and the Plaintext of its answer. Where KMS answers with an error, it
    raises KMSError; one that says nothing about the message passes through.
    """
    header = parse_header(sealed)
    if header.context != context:
        raise Refused("context", "another context is expected")
    if not trusts(header.key_arn):
        raise Refused("key", "the KMS key is not trusted")
    try:
        key_id, data_key = unwrap(header.key_arn, header.wrapped_key, dict(header.context))
    except KMSError as err:
        if err.code in VERDICTS:
            raise Refused(VERDICTS[err.code], f"KMS says {err.code}") from err
        raise
    if key_id != header.key_arn:
        raise Refused("key", f"KMS decrypted under {key_id}")
    if len(data_key) != 32:
        raise Refused("tampered", f"data key of {len(data_key)} bytes")
    _, message_key, commitment = derive(header, data_key)
    if not hmac.compare_digest(commitment, header.commitment):
        raise Refused("tampered", "commitment")
    return b"".join(open_chunks(message_key, header.chunk_bits, sealed[header.size :]))


# --- The vectors --------------------------------------------------------------

ACCOUNT = "111122223333"


def trusts(key_arn: str) -> bool:
    """Trust the keys of the account that the vectors have trusted."""
    return key_arn.split(":")[4] == ACCOUNT


def check_opened(vector: dict[str, Any]) -> Iterator[str]:
    """Yield each difference of a message that has to open."""
    sealed = bytes.fromhex(vector["sealed"])
    data_key = bytes.fromhex(vector["data_key"])
    header = parse_header(sealed)
    prk, message_key, commitment = derive(header, data_key)
    plaintext = open_message(sealed, vector["context"], trusts,
                             lambda key_arn, wrapped_key, context: (key_arn, data_key))
    found: dict[str, Any] = {
        "key_arn": header.key_arn, "wrapped_key": header.wrapped_key.hex(),
        "context": header.context, "chunk_bits": header.chunk_bits,
        "message_id": header.message_id.hex(), "commitment": commitment.hex(),
        "bound_hash": header.bound_hash.hex(), "prk": prk.hex(),
        "message_key": message_key.hex(), "header_size": header.size,
        "plaintext": plaintext.hex(),
    }
    for member, value in found.items():
        if value != vector[member]:
            yield f"{member}: {value!r} instead of {vector[member]!r}"


def check_refused(vector: dict[str, Any]) -> Iterator[str]:
    """Yield each difference of a message that must not open."""
    calls: list[str] = []

    def unwrap(key_arn: str, wrapped_key: bytes, context: dict[str, str]) -> tuple[str, bytes]:
        calls.append(key_arn)
        if "kms_error" in vector:
            raise KMSError(vector["kms_error"])
        return vector.get("kms_key_id", key_arn), bytes.fromhex(vector["data_key"])

    try:
        open_message(bytes.fromhex(vector["sealed"]), vector["context"], trusts, unwrap)
    except Refused as err:
        if err.error != vector["error"]:
            yield f"refused as {err} instead of {vector['error']}"
        answered = "kms_error" in vector or "kms_key_id" in vector
        if calls and err.error != "tampered" and not answered:
            yield f"KMS was asked before {err}"
    else:
        yield f"opened instead of {vector['error']}"


def check(vectors: dict[str, Any]) -> list[str]:
    """All differences, each with the name of its vector."""
    differences = []
    if vectors["format"] != "CMKENV 1":
        differences.append(f"format: {vectors['format']!r}")
    for kind, run in (("opened", check_opened), ("refused", check_refused)):
        if not vectors[kind]:
            differences.append(f"{kind}: no vectors")
        for number, vector in enumerate(vectors[kind]):
            label = f"{kind} {number} ({vector.get('name')})"
            try:
                differences += [f"{label}: {line}" for line in run(vector)]
            except Exception as err:  # one broken vector does not hide the next
                differences.append(f"{label}: {type(err).__name__}: {err}")
    return differences


def main() -> int:
    """Check the file of vectors that is named on the command line."""
    if len(sys.argv) != 2:
        print("usage: decoder.py vectors.json", file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as file:
        vectors = json.load(file)
    differences = check(vectors)
    if differences:
        print("\n".join(differences))
        return 1
    print(f"{len(vectors['opened'])} opened, {len(vectors['refused'])} refused, all as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
