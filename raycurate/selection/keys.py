"""Sample keys as arrays, and their seeded hashes.

A key is stable under re-sharding, so whatever is decided from keys alone is the same on any cluster. The
seeded hash is blake2b-64 of the key's UTF-8 bytes, keyed by the seed and separated by purpose: a uniform draw
without a random generator's state. Cost: about 1 microsecond a key.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]


def key_array(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Return a string column as a numpy array of bytes, whose order is the order of the strings."""
    return np.array(column.cast(pa.binary()).to_pylist(), dtype=np.bytes_)


def key_hashes(keys_N: Keys, *, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return a uniform 64-bit hash of each key, [N]; `purpose` (<= 16 characters) separates independent uses."""
    start = hashlib.blake2b(digest_size=8, key=str(seed).encode()[:64], person=purpose.encode())

    def digest(key: bytes) -> bytes:
        state = start.copy()
        state.update(key)
        return state.digest()

    joined = b"".join([digest(key) for key in keys_N.tolist()])
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64)


def key_word(keys_N: Keys, word: int) -> NDArray[np.uint64]:
    """Return bytes 8*word .. 8*word+8 of each key as a big-endian integer, zero-padded: its order is the keys'."""
    width = 8 * (word + 1)
    padded = keys_N.astype(f"S{width}").view(np.uint8).reshape(keys_N.shape[0], width)
    return np.ascontiguousarray(padded[:, -8:]).view(">u8").ravel().astype(np.uint64)
