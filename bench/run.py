#!/usr/bin/env python3
"""The benchmark suite: the store beside the ceilings of the machine and beside Mooncake, Redis and memcached: `make bench`, `make bench-quick`.

Every section goes round by round over all systems, so that they meet the same load of the machine; figures are medians, ratios are medians of the ratios
of one round. Each byte read is verified, what goes over TCP is held against the interface's counters. Needs the build's module and master; peers that
cannot be had are rows that say why. Writes JSON lines (build/bench/results.jsonl), tables and plots beside them.

Exit status: 0; 1 when a byte was wrong or a figure did not stand up to the counters; 2 for bad arguments. A missed goal is no failure.
"""

import argparse
import platform
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from suite import goals, peers, report  # noqa: E402
from suite.results import Results  # noqa: E402
from suite.sections import QUICK, SECTIONS, Run, Size  # noqa: E402
from suite.systems import Place  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict:
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {"processor": f"{text.count('processor')} x {model}", "memory": f"{memory / 2**20:.0f} GiB", "kernel": platform.release(),
            "congestion control": congestion.read_text().strip() if congestion.exists() else "?", "python": platform.python_version(),
            "load before": " ".join(Path("/proc/loadavg").read_text().split()[:3]), "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does everything run?")
    parser.add_argument("--rounds", type=int, help="rounds of each section (default: 5, quick: 2)")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="this section; may be given again (default: all)")
    parser.add_argument("--no-peers", action="store_true", help="without Mooncake, Redis and memcached")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release", help="build folder (default: build/release)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="folder of the results (default: build/bench)")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "bench", help="folder of the wheel's environment (default: build/bench)")
    parser.add_argument("--module", default="mooncake.store", help="module with the API of mooncake.store (default: %(default)s)")
    parser.add_argument("--python", help="interpreter that has it (default: this one, with the build's module)")
    parser.add_argument("--master", type=Path, help="its mooncake_master (default: the build's)")
    parser.add_argument("--trace", metavar="FILE", help="trace for the policies and the replay (default: a generated one)")
    parser.add_argument("--from", dest="source", type=Path, metavar="RESULTS", help="measure nothing; report these results")
    parser.add_argument("--page", type=Path, metavar="FILE", help="fill the tables between the markers of this page, and draw into img/ beside it")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def measure(args: argparse.Namespace) -> Results:
    results = Results()
    results.environment = environment()
    size = Size() if not args.quick else QUICK
    size = Size(**{**vars(size), **({"rounds": args.rounds} if args.rounds else {}), "peers": not args.no_peers})
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    place = Place(args.build.resolve(), args.out.resolve(), args.module, args.python, args.master, args.peers.resolve())
    try:
        if size.peers and (why := peers.prepare_mooncake(place.peers)):
            say(f"mooncake: {why}")
        run = Run(place, size, results, say, args.trace)
        for name in args.only or SECTIONS:
            SECTIONS[name](run)
    finally:
        place.close()
        results.environment["load after"] = " ".join(Path("/proc/loadavg").read_text().split()[:3])
        results.environment["seconds"] = round(time.monotonic() - began)
        results.write(place.folder / "results.jsonl", goals.judge(results))
    return results


def write_page(page: Path, results: Results, judged: list[dict]) -> None:
    page.write_text(report.fill_page(page.read_text(), report.blocks(results, judged)))
    report.plot(results, page.parent / "img")


def _on_sigterm(*_) -> None:
    """What runs is stopped, namespaces go, what was measured is written; once, or a second signal would stop that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, _on_sigterm)
    results = Results.read(args.source) if args.source else measure(args)
    judged = goals.judge(results)
    print(report.everything(results, judged))
    try:
        if args.page:
            write_page(args.page, results, judged)
        elif not args.source:
            made = report.plot(results, args.out / "plots")
            print(f"\n{args.out / 'results.jsonl'}; plots: {', '.join(path.name for path in made)} in {args.out / 'plots'}")
    except ImportError:
        print("run.py: no plots: matplotlib is missing (tools/requirements-bench.txt)", file=sys.stderr)
    for sample in results.bad():
        print(f"run.py: {sample['section']}, {sample['case']}, {sample['op']}, {sample['system']}: {sample['bad']}", file=sys.stderr)
    return 1 if results.bad() else 0


if __name__ == "__main__":
    sys.exit(main())
