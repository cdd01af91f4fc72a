"""PostgreSQL's 64-bit hashes, of millions of values at once.

``hash…extended(value, 0)`` are the functions behind hash partitioning, which is why they give the same result in
every version and on every platform. All of them are Bob Jenkins' lookup3 (public domain,
http://burtleburtle.net/bob/c/lookup3.c) with three differences: the last 1 to 11 bytes are added in a last round even
when there are none, the third word of that round leaves its lowest byte free, and the result is 64 bits of the state.
What each type feeds to it is said at each function.

lookup3 reads 12 bytes a round. Here a round is done for thousands of values by a few vector operations of numpy,
which release the GIL; values are sorted by their number of rounds, so that those that still have bytes are a prefix
of the state.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_Words = npt.NDArray[np.uint32]

_SEED = 0x9E3779B9 + 3923095
_ROUND = 12
_TILE = 8192
"""Values whose state is mixed together: state, scratch and words fit in the second cache."""
_SORTED = 65536
"""Values that are sorted by length together; bounds the temporary memory."""
_FETCH = 8
"""Rounds whose bytes are fetched together: 96 bytes of each value."""
_FEW = 4
"""Values that are cheaper to finish one by one: a round of a vector costs 25 µs, one of Python's numbers 3 µs."""

# Steps of mix: x -= y; x ^= rot(y, k); y += z. Steps of final: x ^= y; x -= rot(y, k). Indexes are of (a, b, c).
_MIX = ((0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4))
_FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))
# numpy takes an array of no dimension with half the overhead of a Python number.
_BITS = tuple(np.array(bits, np.uint32) for bits in range(32))

# Bytes of each of the last three words that count, by the number of bytes that are left.
_LEFT = np.array(
    [[(1 << 8 * min(max(left - 4 * word, 0), 4)) - 1 for left in range(_ROUND)] for word in range(3)], np.uint32
)


def hash_uint32(values: _Words) -> Hashes:
    """Return ``hash_uint32_extended``: of bool, int2, int4 (as int4) and date (days since 2000-01-01)."""
    return hash_words(values.reshape(-1, 1))


def hash_int64(values: npt.NDArray[np.int64]) -> Hashes:
    """Return ``hashint8extended``: of int8, time, timestamp and timestamptz (microseconds, the last two since 2000).

    The upper half is folded into the lower one, inverted where negative, so that small numbers hash as int4.
    """
    halves = np.ascontiguousarray(values).view(np.uint32).reshape(-1, 2)
    sign = (values >> 63).astype(np.uint32)
    return hash_uint32(halves[:, 0] ^ halves[:, 1] ^ sign)


def hash_float64(values: npt.NDArray[np.float64]) -> Hashes:
    """Return ``hashfloat8extended``: of float8, and of float4 as float8. Zeros hash to 0, NaNs to one value."""
    canonical = np.where(np.isnan(values), np.float64("nan"), values)
    hashes = hash_words(canonical.view(np.uint32).reshape(-1, 2))
    hashes[values == 0] = 0
    return hashes


def hash_words(values: _Words) -> Hashes:
    """Return ``hash_bytes_extended`` of values of a fixed number of 32-bit words, one a row: uuid has four."""
    count, width = values.shape
    rounds, left = divmod(width, 3)
    hashes = np.empty(count, np.uint64)
    for first in range(0, count, _TILE):
        tile = values[first : first + _TILE]
        state = _State(len(tile), 4 * width)
        for index in range(rounds):
            state.mix(tile[:, 3 * index : 3 * index + 3])
        for word in range(left):
            state.words[word] += tile[:, 3 * rounds + word]
        hashes[first : first + _TILE] = state.result()
    return hashes


def hash_bytes(data: npt.NDArray[np.uint8], offsets: npt.NDArray[Any]) -> Hashes:
    """Return ``hash_bytes_extended``: of bytea, and of text under a deterministic collation.

    Parameters
    ----------
    data
        The bytes of all values.
    offsets
        Where each value begins in ``data``, and where the last one ends: one more than there are values.
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for first in range(0, len(hashes), _SORTED):
        bounds = offsets[first : first + _SORTED + 1].astype(np.int64)
        # Fetching 96 bytes at a time reads beyond the last value, if not beyond its hash.
        padded = np.zeros(bounds[-1] - bounds[0] + _FETCH * _ROUND, np.uint8)
        padded[: bounds[-1] - bounds[0]] = data[bounds[0] : bounds[-1]]
        _hash_sorted(padded, bounds - bounds[0], hashes[first : first + _SORTED])
    return hashes


def _hash_sorted(padded: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64], hashes: Hashes) -> None:
    lengths = np.diff(bounds)
    rounds = lengths // _ROUND
    # numpy's stable sort of 16-bit integers is a radix sort.
    key = (-rounds).astype(np.int16 if rounds.max() < 2**15 else np.int64)
    order = np.argsort(key, kind="stable")
    for first in range(0, len(order), _TILE):
        tile = order[first : first + _TILE]
        hashes[tile] = _hash_tile(padded, bounds[tile], lengths[tile], rounds[tile])


def _hash_tile(
    padded: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    rounds: npt.NDArray[np.int64],
) -> Hashes:
    """Hash values that are sorted by falling number of rounds."""
    state = _State(len(lengths), lengths.astype(np.uint32))
    active = len(rounds) - np.searchsorted(rounds[::-1], np.arange(rounds[0]), side="right")
    for first in range(0, len(active), _FETCH):
        if active[first] <= _FEW:
            for index in range(active[first]):
                end = starts[index] + rounds[index] * _ROUND
                state.mix_alone(index, padded[starts[index] + first * _ROUND : end].data)
            break
        words = _fetch(padded, starts[: active[first]] + first * _ROUND, _FETCH * _ROUND)
        for index, count in enumerate(active[first : first + _FETCH]):
            state.mix(words[:count, 3 * index : 3 * index + 3])
    left = lengths - rounds * _ROUND
    if left.any():
        words = _fetch(padded, starts + rounds * _ROUND, _ROUND)
        for word in range(3):
            words[:, word] &= _LEFT[word][left]
        words[:, 2] <<= np.uint32(8)
        for word in range(3):
            state.words[word] += words[:, word]
    return state.result()


def _fetch(padded: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], width: int) -> _Words:
    """Return the ``width`` bytes at each start as words. An item of that width at every byte makes it one copy each."""
    items = np.ndarray((len(padded) - width + 1,), f"V{width}", padded, strides=(1,))
    return items[starts].view(np.uint32).reshape(len(starts), width // 4)


class _State:
    """The three words of lookup3, for many values."""

    def __init__(self, count: int, lengths: int | _Words) -> None:
        self.words = [np.empty(count, np.uint32) for _ in range(3)]
        self._scratch = np.empty(count, np.uint32)
        np.add(lengths, np.uint32(_SEED), out=self.words[0], casting="unsafe")
        self.words[1][:] = self.words[0]
        self.words[2][:] = self.words[0]

    def mix(self, words: _Words) -> None:
        """Do a round with three words of each of the first values."""
        count = len(words)
        state = [word[:count] for word in self.words]
        scratch = self._scratch[:count]
        for index in range(3):
            np.add(state[index], words[:, index], state[index])
        for x, y, z, bits in _MIX:
            np.subtract(state[x], state[y], state[x])
            np.left_shift(state[y], _BITS[bits], scratch)
            np.bitwise_xor(state[x], scratch, state[x])
            np.right_shift(state[y], _BITS[32 - bits], scratch)
            np.bitwise_xor(state[x], scratch, state[x])
            np.add(state[y], state[z], state[y])

    def mix_alone(self, index: int, data: memoryview) -> None:
        """Do the rounds of one value alone."""
        a, b, c = (int(word[index]) for word in self.words)
        full = 0xFFFFFFFF
        for x, y, z in struct.iter_unpack("<3I", data):
            b, c = b + y & full, c + z & full
            a = (a + x - c & full) ^ (c << 4 & full | c >> 28)
            c = c + b & full
            b = (b - a & full) ^ (a << 6 & full | a >> 26)
            a = a + c & full
            c = (c - b & full) ^ (b << 8 & full | b >> 24)
            b = b + a & full
            a = (a - c & full) ^ (c << 16 & full | c >> 16)
            c = c + b & full
            b = (b - a & full) ^ (a << 19 & full | a >> 13)
            a = a + c & full
            c = (c - b & full) ^ (b << 4 & full | b >> 28)
            b = b + a & full
        for word, value in zip(self.words, (a, b, c), strict=True):
            word[index] = value

    def result(self) -> Hashes:
        """Do the last round, and return 64 bits of the state."""
        state, scratch = self.words, self._scratch
        for x, y, bits in _FINAL:
            np.bitwise_xor(state[x], state[y], state[x])
            np.left_shift(state[y], _BITS[bits], scratch)
            np.subtract(state[x], scratch, state[x])
            np.right_shift(state[y], _BITS[32 - bits], scratch)
            np.subtract(state[x], scratch, state[x])
        hashes = state[1].astype(np.uint64)
        hashes <<= np.uint64(32)
        hashes |= state[2]
        return hashes
