"""What the contract tests share: stores on the real library, by the way that their reads take."""

import ctypes
import itertools
import os
import time

from python_support import wait_until

MIB = 1 << 20
LEASE_S = 0.5  # of the shared master
_names = itertools.count()


def fresh(prefix="k"):
    """A key that no other test has."""
    return f"contract-{os.getpid()}-{prefix}-{next(_names)}"


def found(store):
    """A key under a lease."""
    key = fresh()
    assert store.put(key, b"value") == 0 and store.is_exist(key) == 1
    return key


def new_store(real, master, segment=64 * MIB, buffer=16 * MIB, name="127.0.0.1", **keywords):
    store = real.MooncakeDistributedStore()
    assert store.setup(name, "P2PHANDSHAKE", segment, buffer, "tcp", "", master.address, **keywords) == 0
    return store


def inside_a_lease(lease, act):
    """What lease() gave, which takes a lease, and act() of it inside the lease: with another, where a busy machine needed longer than that."""

    def attempt():
        began = time.monotonic()
        leased = lease()
        answer = act(leased)
        return (leased, answer) if time.monotonic() - began < LEASE_S else None

    return wait_until(attempt, "the calls take less time than a lease lasts")


class Memory:
    """Bytes with an address."""

    def __init__(self, size_or_bytes):
        content = bytes(size_or_bytes) if isinstance(size_or_bytes, int) else bytes(size_or_bytes)
        self.size = len(content)
        self.array = (ctypes.c_char * max(1, self.size)).from_buffer_copy(content or b"\0")
        self.ptr = ctypes.addressof(self.array)

    def __bytes__(self):
        return self.array.raw[: self.size]

    def __getitem__(self, where):
        return bytes(self)[where]


def pattern(size, seed=0):
    """Bytes in which no two pieces of the tests look alike."""
    block = bytes((i * 131 + (i >> 8) * 17 + seed * 29) & 0xFF for i in range(65536))
    return (block * (size // len(block) + 1))[:size]
