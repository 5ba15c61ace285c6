#!/usr/bin/env python3
"""Every lock rank of core/base/lock.h has its row in docs/locking.md, in the order of the ranks, and the page names no other.

And no call into a GPU's driver is made with a lock held: such a call may take as long as the device likes, and the locks are those of paths that
use no GPU. Lexical: a lock is held from its lock call to the next unlock call of the function, and in functions called ..._locked.
"""

import re
import sys

from csource import code_only, list_files, read

HEADER = "core/base/lock.h"
PAGE = "docs/locking.md"

LOCK = re.compile(r"\bmcs_(?:mutex_lock|rwlock_(?:rd|wr)lock)\w*\s*\(")
UNLOCK = re.compile(r"\bmcs_(?:mutex|rwlock)_\w*unlock\s*\(")
# The driver's table, the client's table of a memory space, and what of gpu/ calls the driver.
DRIVER = re.compile(
    r"\bdriver->\w+\s*\(|\bCUDA_TRY\b|\bspace_ops->\w+\s*\(|\bcuda_(?:ctx|driver|failed)\w*\s*\(|"
    r"\bgpu_(?:query|locate|look|event_\w+|stream_pick|scratch_get|launch_\w+|kernels_\w+|copy_\w+|block_\w+|wait_stream|far_\w+|host_put|host_span)\s*\("
)
FUNCTION = re.compile(r"^[a-z][\w *]*\b(\w+)\(")


def driver_calls(path: str, code: str) -> list[str]:
    problems = []
    held = named_locked = False
    for number, line in enumerate(code.splitlines(), 1):
        if match := FUNCTION.match(line):
            held = named_locked = match.group(1).endswith("_locked")
        elif line.startswith("}"):
            held = named_locked = False
        elif DRIVER.search(line) and held:
            problems.append(f"{path}:{number}: a call into the driver with a lock held")
        if UNLOCK.search(line):
            held = named_locked
        elif LOCK.search(line):
            held = True
    return problems


def main() -> int:
    ranks = dict(re.findall(r"\bMCS_RANK_(\w+)\s*=\s*(\d+)", code_only(read(HEADER))))
    problems = []
    if not ranks:
        problems.append(f"{HEADER}:1: no rank found")
    values = list(map(int, ranks.values()))
    if values != sorted(set(values)):
        problems.append(f"{HEADER}:1: ranks are not in rising order")
    named = []
    for number, line in enumerate(read(PAGE).splitlines(), 1):
        if match := re.match(r"\| ([A-Z_, ]+) \|", line):
            for name in match.group(1).split(", "):
                named.append(name)
                if name not in ranks:
                    problems.append(f"{PAGE}:{number}: {name}: {HEADER} has no such rank")
    problems += [f"{HEADER}:1: MCS_RANK_{name}: no row in {PAGE}" for name in ranks if name not in named]
    if not problems and named != list(ranks):
        problems.append(f"{PAGE}:1: rows are not in the order of the ranks")
    files = [path for path in list_files() if re.match(r"(gpu|core/client|core/segment)/[^/]*\.c$", path)]
    for path in files:
        problems += driver_calls(path, code_only(read(path)))
    for problem in problems:
        print(problem)
    print(f"check_locks: {len(ranks)} ranks, {len(files)} files that may call a GPU's driver, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
