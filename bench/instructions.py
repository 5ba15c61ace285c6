#!/usr/bin/env python3
"""Instructions of single operations, by callgrind, against a baseline: a regression shows on a noisy machine, too.

`make bench-instructions` checks; with UPDATE=1 it writes bench/baseline.json anew, which is then committed with the change that explains it. Each
kind of bench/micro/ops_bench.c runs with N and with 2 N operations; the difference by N is the operation's, without set-up. Figures depend on the compiler
and its flags: with another compiler than the baseline's a difference is reported, and no failure.

Exit status: 0; 1 when a kind needs more than a tenth more instructions than its baseline; 2 when it cannot be measured.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1.10
# Enough that a rare path has its share; callgrind is about fifty times slower than the processor.
COUNTS = {"copy_crc_1m": 8, "copy_in_1m": 8, "copy_crc_4k": 500, "rpc_lookup_1": 1024, "rpc_lookup_128": 12800, "rpc_put_128": 12800}
DEFAULT_COUNT = 5000


def total(text: str) -> int:
    """The "totals:" or "summary:" of a callgrind file."""
    match = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
    if match is None:
        raise ValueError("not a callgrind file")
    return int(match[1])


def compare(baseline: dict[str, float], found: dict[str, float], limit: float = LIMIT) -> tuple[list[str], list[str]]:
    """(lines to print, kinds that need too many). A kind without a baseline is named, and no failure."""
    lines, worse = [], []
    for kind, now in found.items():
        before = baseline.get(kind)
        if before is None:
            lines.append(f"{kind:16} {now:12.1f}   no baseline")
            continue
        ratio = now / before
        lines.append(f"{kind:16} {now:12.1f}   baseline {before:12.1f}   {100 * (ratio - 1):+6.1f} %{'   MORE' if ratio > limit else ''}")
        if ratio > limit:
            worse.append(kind)
    lines += [f"{kind:16} was not measured" for kind in baseline if kind not in found]
    return lines, worse


def count_instructions(binary: Path, kind: str, count: int, folder: Path) -> int:
    out = folder / f"{kind}.{count}"
    done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", str(binary), kind, str(count)], capture_output=True, text=True,
                          timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{kind}: {done.stderr[-500:]}")
    return total(out.read_text())


def measure(binary: Path, kinds: list[str]) -> dict[str, float]:
    found = {}
    with tempfile.TemporaryDirectory(prefix="mcs-callgrind-") as name:
        for kind in kinds:
            count = COUNTS.get(kind, DEFAULT_COUNT)
            once, twice = (count_instructions(binary, kind, n, Path(name)) for n in (count, 2 * count))
            found[kind] = round((twice - once) / count, 1)
            print(f"{kind}: {found[kind]}", file=sys.stderr, flush=True)
    return found


def compiler(build: Path) -> str:
    match = re.search(r'^set\(CMAKE_C_COMPILER_(?:ID|VERSION) "([^"]*)"\)\n(?:.*\n)*?set\(CMAKE_C_COMPILER_VERSION "([^"]*)"',
                      next(build.glob("CMakeFiles/*/CMakeCCompiler.cmake")).read_text(), re.M)
    return f"{match[1]} {match[2]}" if match else "?"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--baseline", type=Path, default=ROOT / "bench" / "baseline.json")
    parser.add_argument("--update", action="store_true", help="write the baseline anew")
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    args = parser.parse_args()
    binary = args.build / "bench" / "micro" / "ops_bench"
    if shutil.which("valgrind") is None or not binary.exists():
        print(f"instructions.py: needs valgrind (Debian package valgrind) and {binary}", file=sys.stderr)
        return 2
    listed = subprocess.run([str(binary), "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    steady = [line.split()[0] for line in listed if line.endswith(" instructions")]
    found = measure(binary, [kind for kind in steady if not args.kind or kind in args.kind])
    known = json.loads(args.baseline.read_text()) if args.baseline.exists() else {"compiler": "", "instructions": {}}
    if args.update:
        kept = known["instructions"] if args.kind else {}
        args.baseline.write_text(json.dumps({"compiler": compiler(args.build), "instructions": kept | found}, indent=2) + "\n")
        return 0
    expected = {kind: value for kind, value in known["instructions"].items() if not args.kind or kind in args.kind}
    lines, worse = compare(expected, found)
    print("\n".join(lines))
    if worse and known["compiler"] != compiler(args.build):
        print(f"instructions.py: the baseline is {known['compiler']}'s, this build is {compiler(args.build)}'s: no verdict")
        return 0
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
