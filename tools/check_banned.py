#!/usr/bin/env python3
"""Calls that are banned, or that belong to one file only. Comments and string literals do not count.

A line may carry a reason to be excused: `/* banned-ok: NAME: why */`, where NAME is the call.
"""

import re
import sys

from csource import code_only, list_files, read

# A call of NAME: not a member, not part of a longer name.
def call(names: str) -> re.Pattern:
    return re.compile(rf"(?<![\w.])(?<!->)({names})\s*\(")


# (pattern, files it applies to, files excepted, why)
RULES = [
    (call("strcpy|strcat|stpcpy|sprintf|vsprintf|strtok|strtok_r|gets"), r".", r"$^",
     "unbounded or stateful text function: use snprintf, mcs_buf_printf or memcpy with a length"),
    (call("atoi|atol|atoll|atof"), r".", r"$^", "no error reporting: use core/base/parse.h"),
    (call("rand|srand|random|drand48"), r".", r"$^", "use core/base/rng.h"),
    (call("system|popen"), r".", r"$^", "no shell from C"),
    (call("alloca"), r".", r"$^", "stack size must be bounded"),
    (call("getenv|secure_getenv"), r".", r"core/base/config\.c$", "the environment is read in core/base/config.c only"),
    (call("malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf"), r".", r"(core/base/alloc\.c$|tests/)",
     "memory goes through core/base/alloc.h, so that every allocation can be made to fail"),
    (call(r"pthread_mutex_\w+|pthread_rwlock_\w+|pthread_cond_\w+"), r".", r"(core/base/lock\.c$|tests/)",
     "locks are ranked: use core/base/lock.h"),
    (call("sleep|usleep|nanosleep|clock_nanosleep"), r"tests/", r"tests/support/fake_", "tests wait on conditions or use the fake clock"),
    (call("cuCtxPushCurrent|cuCtxSetCurrent|cuCtxPopCurrent"), r".", r"(gpu/cuda_ctx\.c$|tests/)",
     "contexts are handled in gpu/cuda_ctx.c"),
    (re.compile(r"->\s*(ctx_push|ctx_pop)\s*\("), r"gpu/", r"gpu/cuda_ctx\.c$", "contexts are handled in gpu/cuda_ctx.c"),
    # Up to the end of the statement is near enough: nobody writes both by chance.
    (re.compile(r"\b(MCS_M(?:IN|AX))\([^;{]*?(?:__atomic_(?:exchange|fetch|\w+_fetch)|\+\+|--|\bmcs_(?:now|wall)_\w+\(|\bmcs_random_)"), r".", r"$^",
     "an argument is evaluated twice: give it a name first"),
    # In the table of symbols, too; of a stream there is none that is not an event's.
    (re.compile(r"\b(cu(?:Ctx|Device|Stream)Synchronize\w*|cudaDeviceSynchronize)\b"), r".", r"tests/", "no device-wide synchronize"),
]


def check_file(path: str) -> list[str]:
    text = read(path)
    code = code_only(text)
    lines = text.splitlines()
    problems = []
    for pattern, applies, excepted, why in RULES:
        if not re.match(applies, path) or re.match(excepted, path):
            continue
        for match in pattern.finditer(code):
            line = code.count("\n", 0, match.start(1)) + 1
            name = match.group(1)
            if f"banned-ok: {name}:" not in lines[line - 1]:
                problems.append(f"{path}:{line}: {name}(): {why}")
    return problems


def main() -> int:
    files = list_files("*.c", "*.h", "*.def", "*.cu")
    problems = [problem for path in files for problem in check_file(path)]
    for problem in problems:
        print(problem)
    print(f"check_banned: {len(files)} files, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
