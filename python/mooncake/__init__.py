"""The Mooncake store: `from mooncake.store import MooncakeDistributedStore`.

Other distributions may put modules into the same package (the transfer engine, connectors): their folders are searched too.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

__all__ = ["BufferPool", "RegisteredBufferPool"]


def __getattr__(name):
    # On first use: `import mooncake` alone loads no extension module.
    if name in __all__:
        from . import buffer_pool

        return getattr(buffer_pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
