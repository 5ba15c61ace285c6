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


def there_and_back(store, prefix: str, sizes: list[int], base: int, room: int, write) -> tuple[list[str], list[int], list[str]]:
    """Values put from `base` on, one behind the other and odd, and got `room` bytes behind. write(offset, bytes) fills them. Keys, addresses, what failed."""
    keys, from_, to, wrong, at = [], [], [], [], 3
    for i, size in enumerate(sizes):
        write(at, pattern(i, size))
        keys.append(f"{prefix}{i}")
        from_.append(base + at)
        to.append(base + room + at)
        at += size
    if store.batch_put_from(keys, from_, list(sizes)) != [0] * len(sizes):
        wrong.append("put")
    if store.batch_get_into(keys, to, list(sizes)) != list(sizes):
        wrong.append("get")
    return keys, to, wrong


def unlike(store, keys: list[str], to: list[int], sizes: list[int], read) -> list:
    """Of what came back there, and of what a get gives, that which is not as it was put. read(address, size) gives bytes."""
    wrong: list = []
    for i, size in enumerate(sizes):
        if read(to[i], size) != pattern(i, size):
            wrong.append(i)
        if store.get(keys[i]) != pattern(i, size):
            wrong.append(f"get {i}")
    return wrong
