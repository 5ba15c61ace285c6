"""The Mooncake store: `from mooncake.store import MooncakeDistributedStore`.

Other distributions may put modules into the same package (the transfer engine, connectors): their folders are searched too.
"""

import sys
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

__all__ = ["BufferPool", "RegisteredBufferPool"]

# Modules of the original's package that are not here.
_ABSENT = frozenset(
    f"{__name__}.{module}"
    for module in (
        "allocator",
        "dataproto_catalog",
        "engine",
        "ep",
        "mooncake_connector_v1",
        "mooncake_elastic_buffer",
        "mooncake_ep_buffer",
        "pg",
        "reshard",
        "shared_segment",
        "structured_object_store",
    )
)


class _AbsentModules:
    """The last finder: importing one of `_ABSENT` that no other finder has fails as it does where no `mooncake` is installed.

    Engines take that for "there is no transfer engine" by the name in the exception, and any other name for a broken installation.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in _ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r} (this package has the store alone)", name=__name__)
        return None


sys.meta_path.append(_AbsentModules)


def __getattr__(name):
    # On first use: `import mooncake` alone loads no extension module.
    if name in __all__:
        from . import buffer_pool

        return getattr(buffer_pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
