#!/usr/bin/env python3
"""The dependency rule (docs/design/0001-architecture.md), by scanning includes.

Two tables: which project headers a folder may include, and which folders may include a library's headers. The mains are the only files
that may link parts together; the tests may include anything.
"""

import re
import sys

from csource import ROOT, includes, list_files, read

# (files, project include prefixes they may use). First match decides; a C file that no row matches is an error, so that a new folder
# gets its row.
PROJECT = [
    (r"tests/", [""]),
    (r"bench/", [""]),
    (r"python/src/module\.c$", [""]),
    (r"master/main\.c$", ["core/base/", "core/wire/", "core/ops/embed.h", "core/ops/http.h", "master/"]),
    (r"core/base/", ["core/base/"]),
    (r"core/wire/", ["core/base/", "core/wire/"]),
    (r"core/include/mcstore/", ["mcstore/"]),
    (r"core/ops/", ["core/base/", "core/wire/", "core/ops/"]),
    (r"core/tensor/", ["core/base/", "core/tensor/"]),
    (r"core/segment/", ["core/base/", "core/wire/", "core/ops/", "core/segment/"]),
    (r"core/client/", ["core/", "mcstore/"]),
    # The main of libmcstore.so.
    (r"ucx_transport/libmcstore\.c$", [""]),
    (r"ucx_transport/", ["core/base/", "core/wire/", "core/ops/", "ucx_transport/"]),
    (r"gpu/", ["core/base/", "core/ops/", "gpu/"]),
    (r"master/", ["core/base/", "core/wire/", "core/ops/embed.h", "core/ops/http.h", "master/"]),
    (r"python/src/", ["core/base/", "core/tensor/", "mcstore/", "python/src/"]),
    # The main of the client daemon.
    (r"client/main\.c$", [""]),
    (r"client/", ["core/base/", "core/ops/http.h", "mcstore/", "client/", "master/http_server.h", "master/http_process.h"]),
]

# (what is included, files that may, why). Everything else may be included everywhere.
LIBRARIES = [
    (r"(ucp|uct|ucs|ucm)/", r"ucx_transport/", "UCX belongs to ucx_transport/"),
    (r"(infiniband|rdma)/", r"ucx_transport/", "verbs belong to ucx_transport/"),
    (r"(cuda|nvml|cudaTypedefs|cuda_runtime(_api)?)\.h$", r"(gpu|tests/fake_cuda)/", "CUDA belongs to gpu/"),
    (r"cuda_runtime", r"$^", "the driver API only, never the run-time library"),
    (r"microhttpd\.h$", r"master/http_", "the HTTP server belongs to master/http_*"),
    (r"curl/", r"(ucx_transport/metadata_http|master/metadata_cleanup)", "the HTTP client belongs to metadata_http.c and metadata_cleanup.c"),
    (r"Python\.h$", r"python/src/", "Python belongs to python/src/"),
    (r"uv\.h$", r"master/", "libuv belongs to master/"),
    (r"pcre2\.h$", r"master/", "regular expressions belong to master/"),
    (r"yaml\.h$", r"master/", "YAML belongs to master/"),
    (r"jansson\.h$", r"master/", "JSON belongs to master/"),
    (r"protobuf-c", r"core/wire/", "the encoding belongs to core/wire/"),
]

GENERATED = {"core/wire/mcs.pb-c.h"}


def resolve(path: str) -> str | None:
    """The file of the tree that a quoted include means."""
    if path in GENERATED or (ROOT / path).is_file():
        return path
    return path if (ROOT / "core/include" / path).is_file() else None


def check_file(path: str) -> list[str]:
    row = next((allowed for pattern, allowed in PROJECT if re.match(pattern, path)), None)
    if row is None:
        return [f"{path}:1: no row of the dependency rule covers this file (tools/check_deps.py)"]
    free = path.startswith("tests/")
    problems = []
    for line, is_system, target in includes(read(path)):
        where = f"{path}:{line}: "
        project = target.startswith(("core/", "master/", "ucx_transport/", "gpu/", "python/", "client/", "mcstore/", "bench/"))
        if not is_system and not project and not free:
            problems.append(f'{where}"{target}": quoted includes are paths from the top of the tree')
        elif project and resolve(target) is None:
            problems.append(f'{where}"{target}": no such file')
        elif project and not any(target.startswith(prefix) for prefix in row):
            allowed = ", ".join(row)
            problems.append(f'{where}"{target}": {path.rsplit("/", 1)[0]}/ may include only {allowed}')
        for what, files, why in LIBRARIES:
            if re.match(what, target) and not free and not re.match(files, path):
                problems.append(f"{where}<{target}>: {why}")
    return problems


def main() -> int:
    files = list_files("*.c", "*.h", "*.def", "*.cu", "*.cuh")
    problems = [problem for path in files for problem in check_file(path)]
    for problem in problems:
        print(problem)
    print(f"check_deps: {len(files)} files, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
