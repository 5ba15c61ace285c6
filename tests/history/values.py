"""Values that say who wrote them. From 24 bytes on a value begins with a digest, writer, number and size; a shorter one is the beginning of a digest alone,
and may be like another."""

import hashlib
import struct

from tests.support.contents import pattern

_HEAD = struct.Struct("<4sIQQ")


def _head(writer: int, number: int, size: int) -> bytes:
    rest = _HEAD.pack(b"", writer, number, size)[4:]
    return hashlib.blake2b(rest, digest_size=4).digest() + rest


def make(writer: int, number: int, size: int) -> bytes:
    if size < _HEAD.size:
        return hashlib.blake2b(struct.pack("<IQ", writer, number), digest_size=_HEAD.size).digest()[:size]
    return _head(writer, number, size) + pattern(writer << 64 | number, size - _HEAD.size)


def read(data) -> tuple[str, object]:
    """("value", [writer, number]) of bytes that are right in every place, ("short", hex) of bytes too few to say, ("wrong", why) of others."""
    data = bytes(data)
    if not data:
        return "wrong", "no bytes"
    if len(data) < _HEAD.size:
        return "short", data.hex()
    _, writer, number, size = _HEAD.unpack_from(data)
    if data[:_HEAD.size] != _head(writer, number, size):
        return "wrong", f"{len(data)} bytes that begin with {data[:24].hex()}"
    if size != len(data):
        return "wrong", f"{len(data)} bytes of the value {writer}.{number}, which has {size}"
    expected = make(writer, number, size)
    if data != expected:
        first = next(i for i, (a, b) in enumerate(zip(data, expected)) if a != b)
        count = sum(a != b for a, b in zip(data, expected))
        return "wrong", f"{count} bytes of {size} of the value {writer}.{number} differ, the first at {first}: {data[first:first + 32].hex()}"
    return "value", [writer, number]
