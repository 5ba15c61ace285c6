#!/usr/bin/env python3
"""Every lock rank of core/base/lock.h has its row in docs/locking.md, in the order of the ranks, and the page names no other."""

import re
import sys

from csource import code_only, read

HEADER = "core/base/lock.h"
PAGE = "docs/locking.md"


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
    for problem in problems:
        print(problem)
    print(f"check_locks: {len(ranks)} ranks, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
