"""Registered memory to borrow: leases of buffers that put_from and get_into use without a check or a copy.

    pool = BufferPool(store)
    with pool.acquire(1 << 20) as lease:
        store.get_into("key", lease.ptr, lease.size)
        use(bytes(lease.buffer))

Memory is registered with the store when it is first needed and kept for later leases, up to the size of the store's local buffer; what
is leased beyond that is unregistered when it comes back. Every failure is a RuntimeError. Thread-safe; a blocking acquire waits without the GIL.
"""

import collections
import ctypes
import mmap
import operator
import threading
import time

from .store import BufferLease, MooncakeDistributedStore, _make_lease

__all__ = [
    "BufferLease",
    "BufferLeaseView",
    "BufferPool",
    "RegisteredBufferLease",
    "RegisteredBufferLeaseView",
    "RegisteredBufferPool",
]

_POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)
# A waiting acquire looks again this often: a lease that the garbage collector ends while the pool is busy cannot notify.
_LOOK_AGAIN_S = 0.05


def _number(name, value):
    value = operator.index(value)
    if not 0 <= value < 1 << 64:
        raise TypeError(f"BufferPool(): argument '{name}' must be an int from 0 to 2**64-1: out of range")
    return value


class _Region:
    """One registered piece of anonymous memory, aligned. Lives until the last reference, registered or not."""

    __slots__ = ("_map", "_pin", "ptr", "size")

    def __init__(self, store, size, alignment):
        try:
            self._map = mmap.mmap(-1, size + alignment)
        except (OSError, OverflowError, ValueError) as error:
            raise RuntimeError(f"overflow buffer allocation failed ({size} bytes aligned to {alignment}): {error}") from None
        self._pin = (ctypes.c_ubyte * 1).from_buffer(self._map)
        start = ctypes.addressof(self._pin)
        self.ptr = start + -start % alignment
        self.size = size
        if store.register_buffer(self.ptr, size) != 0:
            raise RuntimeError(f"overflow buffer registration failed ({size} bytes)")


class BufferPool:
    """Leases of registered memory for one store, which must be set up with a local buffer.

    max_bytes            outstanding bytes at most; 0 = twice the local buffer; never less than the local buffer
    max_regions          outstanding leases at most; None = no limit
    alignment            of each buffer's address, a power of two
    min_size_class       memory is made in multiples of this
    max_size_class, prewarm_size, prewarm_count   accepted, without effect
    block_on_exhaustion, default_timeout (seconds)   what acquire does unless it is told
    """

    def __init__(
        self,
        store,
        max_bytes=0,
        min_size_class=65536,
        max_size_class=None,
        alignment=8388608,
        block_on_exhaustion=True,
        default_timeout=None,
        max_regions=None,
        prewarm_size=None,
        prewarm_count=0,
    ):
        if not isinstance(store, MooncakeDistributedStore):
            raise TypeError(f"BufferPool(): argument 'store' must be a MooncakeDistributedStore, not {type(store).__name__}")
        max_bytes = _number("max_bytes", max_bytes)
        min_size_class = _number("min_size_class", min_size_class)
        alignment = _number("alignment", alignment)
        max_regions = None if max_regions is None else _number("max_regions", max_regions)
        if min_size_class <= 0 or alignment <= 0:
            raise RuntimeError("min_size_class and alignment must be positive")
        if alignment & (alignment - 1) or alignment < _POINTER_BYTES:
            raise RuntimeError("alignment must be a power of two and at least sizeof(void*)")
        if default_timeout is not None and default_timeout < 0:
            raise RuntimeError("timeout must be non-negative")
        if store.health_check() == 1:
            raise RuntimeError("MooncakeDistributedStore is not initialized")
        local_buffer = store._local_buffer_size()
        if local_buffer == 0:
            raise RuntimeError("BufferPool requires a store configured with a local buffer")
        self._store = store
        self._granule = min_size_class
        self._alignment = alignment
        self._block = block_on_exhaustion
        self._timeout = default_timeout
        self._capacity = max(max_bytes, local_buffer) if max_bytes else 2 * local_buffer
        self._max_regions = max_regions
        self._keep_bytes = local_buffer
        # guards the fields below; plain, so that a lease ended by the garbage collector inside a critical section does not enter it again
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._ended = collections.deque()  # (region, leased size), appended without the lock
        self._idle = collections.defaultdict(list)  # size -> regions
        self._idle_bytes = 0
        self._leased_bytes = 0
        self._leases = 0
        self._closed = False

    # ---- leases ----

    def acquire(self, size, block=None, timeout=None):
        """A BufferLease of `size` bytes (0 is fine). Waits for one when the pool is exhausted, at most `timeout` seconds."""
        size = operator.index(size)
        block = self._block if block is None else block
        timeout = self._timeout if timeout is None else timeout
        if size < 0:
            raise RuntimeError("requested buffer size must be non-negative")
        if timeout is not None and timeout < 0:
            raise RuntimeError("timeout must be non-negative")
        if size > self._capacity:
            raise RuntimeError(f"requested buffer size exceeds pool capacity ({size} > {self._capacity} bytes)")
        deadline = None if timeout is None else time.monotonic() + timeout
        stale = []
        with self._lock:
            self._settle(stale)
            while not self._has_room(size):
                if not block:
                    raise RuntimeError("buffer pool is exhausted")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise RuntimeError("timed out waiting for buffer: the buffer pool is exhausted")
                self._freed.wait(_LOOK_AGAIN_S if left is None else min(left, _LOOK_AGAIN_S))
                self._settle(stale)
            # taken before the memory is made, which needs no lock and may take long
            self._leases += 1
            self._leased_bytes += size
            region = self._take_idle(self._rounded(size))
        try:
            self._unregister(stale)
            if region is None:
                region = _Region(self._store, self._rounded(size), self._alignment)
            return _make_lease(region.ptr, size, region, self._give_back)
        except BaseException:
            with self._lock:
                self._leases -= 1
                self._leased_bytes -= size
                self._freed.notify_all()
            raise

    buffer = acquire

    def prewarm(self, size, count):
        """Accepted, without effect: memory is made when it is first needed."""

    def close(self):
        """Unregisters everything. RuntimeError while leases are active; again: nothing."""
        stale = []
        with self._lock:
            self._settle(stale)
            if self._leases:
                raise RuntimeError("cannot close buffer pool with active leases")
            self._closed = True
            for regions in self._idle.values():
                stale.extend(regions)
            self._idle.clear()
            self._idle_bytes = 0
            self._freed.notify_all()
        self._unregister(stale)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __del__(self):
        if getattr(self, "_closed", True):
            return
        # leases hold the pool: there are none
        stale = [region for regions in self._idle.values() for region in regions]
        stale.extend(region for region, _ in self._ended)
        self._unregister(stale)

    # ---- inside ----

    def _rounded(self, size):
        return -(-max(size, 1) // self._granule) * self._granule

    def _has_room(self, size):
        if self._closed:
            raise RuntimeError("buffer pool is closed")
        if self._max_regions is not None and self._leases >= self._max_regions:
            return False
        return self._leased_bytes + size <= self._capacity

    def _take_idle(self, size):
        regions = self._idle.get(size)
        if not regions:
            return None
        self._idle_bytes -= size
        return regions.pop()

    def _give_back(self, region, size):
        """The end of a lease, on any thread, also inside the garbage collector: must not wait for the lock."""
        self._ended.append((region, size))
        if self._lock.acquire(blocking=False):
            stale = []
            try:
                self._settle(stale)
                self._freed.notify_all()
            finally:
                self._lock.release()
            self._unregister(stale)

    def _settle(self, stale):
        """Takes back what has ended. Regions beyond what is kept go to `stale`, to be unregistered without the lock."""
        while self._ended:
            region, size = self._ended.popleft()
            self._leases -= 1
            self._leased_bytes -= size
            if self._closed or self._idle_bytes + region.size > self._keep_bytes:
                stale.append(region)
            else:
                self._idle[region.size].append(region)
                self._idle_bytes += region.size

    def _unregister(self, regions):
        for region in regions:
            self._store.unregister_buffer(region.ptr)


class BufferLeaseView:
    """A lease's memory alone: `buffer` is a writable memoryview of bytes that keeps the lease alive."""

    def __init__(self, lease):
        self.buffer = lease.buffer


RegisteredBufferPool = BufferPool
RegisteredBufferLease = BufferLease
RegisteredBufferLeaseView = BufferLeaseView
