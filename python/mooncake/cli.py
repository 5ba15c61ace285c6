"""Console scripts of the package: `mooncake`, and the packaged binaries `mooncake_master` and `mooncake_client`."""

import importlib.util
import os
import sys

__all__ = ["client", "main", "master"]


def _become(name):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    try:
        os.execv(path, [path, *sys.argv[1:]])
    except OSError as error:
        print(f"{name}: cannot run {path}: {error.strerror}", file=sys.stderr)
        return 127


def master():
    """`mooncake_master …`: becomes the packaged binary, with all arguments."""
    return _become("mooncake_master")


def client():
    """`mooncake_client …`: the same, with the UCX that the Python module would take: one cluster speaks one UCX."""
    spec = importlib.util.find_spec("libucx")
    if spec is not None and spec.submodule_search_locations:
        os.environ.setdefault("MC_STORE_UCX_LIB", "hint:" + list(spec.submodule_search_locations)[0])
    return _become("mooncake_client")


def main():
    """`mooncake …`: the command line for people."""
    from .cli_main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
