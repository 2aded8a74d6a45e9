"""Decompress blocks of frames, many at a time and without the GIL.

A block is an lz4 block whose decompressed size and crc32 are known beforehand. Calling the codec
once per block from Python costs about as much as the codec's own work, and releases the GIL for
only a few microseconds at a time, too short for other threads to use. The loops over blocks are
therefore compiled, and call the C function inside the lz4 package.
"""

import ctypes
import ctypes.util
from typing import Final

import llvmlite.binding
import lz4.block._block
import numpy as np
from numpy.typing import NDArray

from replay.segments.compiled import njit, types

START, STOP, NUM_BYTES, CRC = range(4)
"""Columns of a block: first byte, one past the last, decompressed size, crc32 of the compressed bytes."""
NONE: Final = -1


def _register(symbol: str, function: str) -> None:
    """Register `function` of the lz4 library as `symbol` for compiled code; raises ImportError."""
    # A wheel carries the library inside its extension module; other builds link against the system's.
    for library in (lz4.block._block.__file__, ctypes.util.find_library("lz4")):
        try:
            address = ctypes.cast(getattr(ctypes.CDLL(library), function), ctypes.c_void_p).value
        except (AttributeError, OSError):
            continue
        llvmlite.binding.add_symbol(symbol, address)
        return
    raise ImportError(f"{function} is not in this lz4 package nor on the system: install lz4 from a wheel")


def _crc_tables() -> NDArray[np.uint32]:
    """Return the (16, 256) tables of a crc32 over 16 bytes at a time ("slicing", Kounavis and Berry, 2005).

    Row k is the contribution of a byte to a crc32 that continues for k more bytes.
    """
    tables = np.zeros((16, 256), np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            # zlib's polynomial with its bits reversed.
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        tables[0, byte] = value
    for row in range(1, 16):
        tables[row] = (tables[row - 1] >> 8) ^ tables[0][tables[row - 1] & 0xFF]
    return tables


_register("apexpert_lz4_decompress_safe", "LZ4_decompress_safe")
_register("apexpert_lz4_decompress_safe_partial", "LZ4_decompress_safe_partial")
_decompress_safe = types.ExternalFunction(
    "apexpert_lz4_decompress_safe", types.int32(types.uintp, types.uintp, types.int32, types.int32)
)
_decompress_safe_partial = types.ExternalFunction(
    "apexpert_lz4_decompress_safe_partial",
    types.int32(types.uintp, types.uintp, types.int32, types.int32, types.int32),
)
_memcpy = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))
_TABLES = _crc_tables()

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_OUT = types.uint8[::1]
_ROWS = types.Array(types.int64, 2, "C", readonly=True)
_INTS = types.Array(types.int64, 1, "C", readonly=True)
_CRCS = types.Array(types.uint32, 2, "C", readonly=True)


# zlib's own crc32 can only be called with the GIL; this one gives the same number.
@njit(types.uint32(_CRCS, _BYTES, types.int64, types.int64), nogil=True, cache=True)
def _crc32(t, data, at, stop):  # type: ignore[no-untyped-def]
    crc = np.uint32(0xFFFFFFFF)
    while stop - at >= 16:
        x = crc ^ (
            np.uint32(data[at])
            | np.uint32(data[at + 1]) << np.uint32(8)
            | np.uint32(data[at + 2]) << np.uint32(16)
            | np.uint32(data[at + 3]) << np.uint32(24)
        )
        crc = t[15, x & 255] ^ t[14, x >> 8 & 255] ^ t[13, x >> 16 & 255] ^ t[12, x >> 24]
        crc ^= t[11, data[at + 4]] ^ t[10, data[at + 5]] ^ t[9, data[at + 6]] ^ t[8, data[at + 7]]
        crc ^= t[7, data[at + 8]] ^ t[6, data[at + 9]] ^ t[5, data[at + 10]] ^ t[4, data[at + 11]]
        crc ^= t[3, data[at + 12]] ^ t[2, data[at + 13]] ^ t[1, data[at + 14]] ^ t[0, data[at + 15]]
        at += 16
    while at < stop:
        crc = t[0, (crc ^ data[at]) & 255] ^ crc >> np.uint32(8)
        at += 1
    return crc ^ np.uint32(0xFFFFFFFF)


@njit(
    types.boolean(
        _CRCS, _BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.uintp
    ),
    nogil=True,
    cache=True,
)
def _one(t, data, start, stop, num_bytes, crc, wanted, out):  # type: ignore[no-untyped-def]
    """Decompress a block, or its first `wanted` bytes, to the address `out`, which has room for `num_bytes`.

    Return False if the block is damaged.
    """
    if start < 0 or stop > data.size or start >= stop or _crc32(t, data, start, stop) != crc:
        return False
    source = data.ctypes.data + types.uintp(start)
    # Both fit: no header may claim a block of more than MAX_FRAMES_BYTES, which is 1 GiB.
    size, room = types.int32(stop - start), types.int32(num_bytes)
    if wanted < num_bytes:
        return _decompress_safe_partial(source, out, size, types.int32(wanted), room) == wanted
    return _decompress_safe(source, out, size, room) == num_bytes


@njit(types.int64(_CRCS, _BYTES, _ROWS, _OUT), nogil=True, cache=True)
def _in_order(t, data, blocks, out):  # type: ignore[no-untyped-def]
    at = 0
    for block in range(len(blocks)):
        start, stop, num_bytes, crc = blocks[block]
        room = 0 <= num_bytes <= out.size - at
        target = out.ctypes.data + types.uintp(at)
        if not room or not _one(t, data, start, stop, num_bytes, crc, num_bytes, target):
            return block
        at += num_bytes
    return NONE


@njit(
    types.void(_CRCS, _BYTES, _INTS, _INTS, _INTS, _ROWS, _INTS, _ROWS, _OUT, types.boolean[::1]),
    nogil=True,
    cache=True,
)
def _scattered(t, data, ends, runs, first, blocks, first_piece, pieces, out, damaged):  # type: ignore[no-untyped-def]
    # One scratch buffer serves all blocks of this call, so it must hold the largest.
    most = 0
    for run in runs:
        for block in range(first[run], first[run + 1]):
            most = max(most, blocks[block, NUM_BYTES])
    scratch = np.empty(most, np.uint8)
    begin = 0
    for place in range(len(runs)):
        run, here = runs[place], data[begin : ends[place]]
        begin = ends[place]
        for block in range(first[run], first[run + 1]):
            start, stop, num_bytes, crc = blocks[block]
            wanted, inside = 0, True
            for piece in range(first_piece[block], first_piece[block + 1]):
                source, target, size = pieces[piece]
                wanted = max(wanted, source + size)
                inside &= min(source, target, size) >= 0
                inside &= size <= num_bytes - source and size <= out.size - target  # sums could overflow
            if not inside:  # never read or write out of bounds, whatever the arguments
                damaged[place] = True
                break
            if not _one(t, here, start, stop, num_bytes, crc, wanted, scratch.ctypes.data):
                damaged[place] = True
                break
            for piece in range(first_piece[block], first_piece[block + 1]):
                source, target, size = pieces[piece]
                _memcpy(
                    out.ctypes.data + types.uintp(target),
                    scratch.ctypes.data + types.uintp(source),
                    types.uintp(size),
                )


def decompress_in_order(data: bytes, blocks: NDArray[np.int64], out: NDArray[np.uint8]) -> int | None:
    """Decompress the blocks (M, 4) of `data` into `out` (N,), one after the other.

    Return the index of the first block that is damaged or does not fit, or None.
    """
    bad = int(_in_order(_TABLES, np.frombuffer(data, np.uint8), blocks, out))
    return None if bad == NONE else bad


def decompress_scattered(
    answers: list[bytes],
    runs: NDArray[np.int64],
    first: NDArray[np.int64],
    blocks: NDArray[np.int64],
    first_piece: NDArray[np.int64],
    pieces: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Decompress the blocks of several runs, copy pieces of them to `out`, and return the damaged runs.

    `answers[i]` holds the bytes of run `runs[i]`. Its blocks are rows `first[run]` to
    `first[run + 1]` of `blocks` (M, 4), with byte positions counted from the run's first byte.
    Block b has the pieces (Q, 3) from `first_piece[b]` to `first_piece[b + 1]`: first byte within
    the block, first byte in `out` (N,), number of bytes. The result is a mask over `runs`.
    """
    ends = np.cumsum([len(answer) for answer in answers], dtype=np.int64)
    data = np.frombuffer(b"".join(answers), np.uint8)
    damaged = np.zeros(len(runs), np.bool_)
    _scattered(_TABLES, data, ends, runs, first, blocks, first_piece, pieces, out, damaged)
    return damaged
