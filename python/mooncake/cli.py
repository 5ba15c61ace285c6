"""Console scripts of the package."""

import os
import sys

__all__ = ["master"]


def _binary(name):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)


def master():
    """`mooncake_master …`: becomes the packaged binary, with all arguments."""
    path = _binary("mooncake_master")
    try:
        os.execv(path, [path, *sys.argv[1:]])
    except OSError as error:
        print(f"mooncake_master: cannot run {path}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(master())
