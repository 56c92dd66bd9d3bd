"""This file knows protobuf's wire format as far as logs need it: a message is a sequence of numbered fields."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | bytes]


def fields_of(message: bytes) -> Iterator[Field]:
    """Yield the fields of a message as (number, value): a whole number for a varint, bytes for everything else.

    Raises:
        ValueError: the bytes are no message.

    >>> list(fields_of(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69])))
    [(1, 150), (2, b'hi')]
    """
    place = 0
    while place < len(message):
        key, place = varint_at(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = varint_at(message, place)
            yield number, value
            continue
        size, place = size_at(message, place, kind)
        if place + size > len(message):
            raise ValueError("a field is longer than its message")
        yield number, message[place : place + size]
        place += size


def size_at(message: bytes, place: int, kind: int) -> tuple[int, int]:
    """Return how many bytes the value of a field has, and where it begins."""
    if kind == BYTES:
        return varint_at(message, place)
    if kind in (FIXED32, FIXED64):
        return (4 if kind == FIXED32 else 8), place
    raise ValueError(f"wire type {kind} is not known")


def varint_at(message: bytes, place: int) -> tuple[int, int]:
    """Return the whole number (64 bits, not negative) written at a place, and the place after it."""
    if place < len(message) and message[place] < 0x80:  # as nearly all are
        return message[place], place + 1
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
    raise ValueError("a whole number does not end")


def signed(value: int | bytes) -> int:
    """Return a varint as the signed 64-bit number it stands for.

    >>> signed(2**64 - 1)
    -1
    """
    if isinstance(value, bytes):
        raise ValueError("expected a whole number, got bytes")
    return value - (1 << 64) if value >= 1 << 63 else value


def zigzag(value: int | bytes) -> int:
    """Return a zigzag varint as the signed number it stands for.

    >>> [zigzag(value) for value in (0, 1, 2, 3)]
    [0, -1, 1, -2]
    """
    if isinstance(value, bytes):
        raise ValueError("expected a whole number, got bytes")
    return (value >> 1) ^ -(value & 1)


def text(value: int | bytes) -> str:
    """Return a field of bytes as text."""
    if isinstance(value, int):
        raise ValueError("expected text, got a whole number")
    return value.decode("utf-8", errors="replace")


def message(value: int | bytes) -> bytes:
    """Return a field that holds a message of its own."""
    if isinstance(value, int):
        raise ValueError("expected a message, got a whole number")
    return value


def double(value: int | bytes) -> float:
    """Return a field of eight bytes as a number."""
    if isinstance(value, int) or len(value) != 8:
        raise ValueError("expected a number in double precision")
    return float(struct.unpack("<d", value)[0])


def single(value: int | bytes) -> float:
    """Return a field of four bytes as a number."""
    if isinstance(value, int) or len(value) != 4:
        raise ValueError("expected a number in single precision")
    return float(struct.unpack("<f", value)[0])
