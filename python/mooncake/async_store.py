"""The store for asyncio: every method `x` is also the coroutine `async_x`.

    store = MooncakeDistributedStoreAsync()
    await store.async_setup("localhost", "P2PHANDSHAKE", 512 << 20, 128 << 20, "tcp", "", "127.0.0.1:50051")
    await store.async_put("key", b"value")

The calls run in the event loop's default executor; they release the GIL, so the loop goes on. A cancelled coroutine does not stop
its call: the call's buffers must stay until it has ended.
"""

import asyncio
import functools

from .store import MooncakeDistributedStore

__all__ = ["MooncakeDistributedStoreAsync"]

_PREFIX = "async_"


class MooncakeDistributedStoreAsync(MooncakeDistributedStore):
    def __getattr__(self, name):
        if not name.startswith(_PREFIX):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method_name = name[len(_PREFIX) :]
        if method_name.startswith("_") or not callable(getattr(type(self), method_name, None)):
            raise AttributeError(f"{type(self).__name__!r} object has no method {method_name!r} to run for {name!r}")

        # The method is looked up at each call: a reference from the instance to a bound method of its own would be a cycle, and the
        # store would be closed by the garbage collector instead of with its last reference.
        async def call(*args, **kwargs):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, functools.partial(getattr(self, method_name), *args, **kwargs))

        call.__name__ = name
        call.__qualname__ = f"{type(self).__qualname__}.{name}"
        return call
