"""Contents that follow from a seed, fast to make and to check, without numpy. A value at another offset or of another seed differs everywhere."""

import functools
import random

_BLOCK = 262_139  # prime: no page, block or slice size is a multiple of it


@functools.lru_cache(maxsize=64)
def _block(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def pattern(seed: int, size: int) -> bytes:
    """The first `size` bytes of the contents of `seed`."""
    block = _block(seed, min(size, _BLOCK))
    if size <= len(block):
        return block[:size]
    return (block * (size // len(block) + 1))[:size]
