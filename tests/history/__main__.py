"""python -m tests.history [--seconds N] [--seed S] [--path same_host|transport] [--kind calm|evict|faults|all]: the history test for as long as asked.

Run after run, each of another seed, kind and path unless these were given; the first violation ends it with 1, and its journals are kept.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from tests.history.driver import PATHS, Plan, run

CLIENT_FAULTS = ("kill", "stop", "stop", "restart")
KINDS = {"calm": {}, "evict": {"small": True}, "faults": {"faults": CLIENT_FAULTS}, "all": {"faults": (*CLIENT_FAULTS, "master"), "small": True}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.history")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--each", type=float, default=30, help="seconds of one run")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--path", choices=PATHS)
    parser.add_argument("--kind", choices=KINDS)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    end = time.monotonic() + given.seconds
    rounds = 0
    while (left := end - time.monotonic()) > 0 or rounds == 0:
        # Faults twice as often as not: that is what a long run is for.
        kind = given.kind or ("all", "faults", "all", "evict", "faults", "calm")[rounds // 2 % 6]
        path = given.path or list(PATHS)[rounds % 2]
        plan = Plan(seed + rounds, min(given.each, max(left, 2.0)), path, **KINDS[kind])
        folder = pathlib.Path(tempfile.gettempdir()) / f"mcs-history-{plan.seed}-{kind}-{path}"
        outcome = run(plan, folder)
        print(f"{kind}: {outcome}", flush=True)
        if outcome.problems:
            print(f"VIOLATION (journals in {folder}); again: python -m tests.history --kind {kind} --path {path} --seed {plan.seed} "
                  f"--seconds {plan.seconds:.0f}", flush=True)
            return 1
        rounds += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
