#!/usr/bin/env python3
"""put and get in GB/s for 4 KiB, 64 KiB and 1 MiB objects, beside memcpy in the same run: `make bench-smoke`.

Three paths, each with fresh processes: one process that reads its own segment, two processes of one host (the segment is the other's, shared
memory), and the same two with MC_STORE_MEMCPY=0 (UCX over TCP). Buffers are pre-faulted and registered, keys are unique, every byte read is
checked outside the timed calls. Calls are batch_put_from and batch_get_into of 32 objects (16 at 1 MiB). memcpy copies in
pieces of a whole batch. The figure is the median of the rounds, each with its own memcpy; a round moves the same bytes on every path.

A smoke test of speed, not a benchmark: half a minute, one client, closed loop.
"""

import argparse
import json
import statistics
import sys
import time

from harness import (KIB, MIB, Buffer, Pattern, Peer, PeerError, fail, format_size, free_port, memcpy_rate, open_store, print_table,
                     private_ipc_dir, rate)

SIZES = (4 * KIB, 64 * KIB, 1 * MIB)
PATHS = (("own segment", "1", False), ("same host", "1", True), ("tcp", "0", True))


def batch_of(size: int) -> int:
    return 16 if size >= MIB else 32


class Holder:
    """Lends a segment and runs the master."""

    def __init__(self, port: int, segment: int):
        self.store = open_store(f"embedded:{port}", segment, 16 * MIB)

    def close(self) -> None:
        self.store.close()


class Worker:
    """Puts and gets; with a segment of its own when `segment` is not zero."""

    def __init__(self, master: str, segment: int):
        self.buffer = Buffer(max(size * batch_of(size) for size in SIZES))
        self.pattern = Pattern(max(SIZES))
        self.store = open_store(master, segment, 16 * MIB)
        self.store.register_buffer(self.buffer.ptr, self.buffer.size)
        self.number = 0

    def round(self, size: int, total: int) -> tuple[float, float, int]:
        """(put GB/s, get GB/s, wrong bytes) for `total` bytes of new objects."""
        count = batch_of(size)
        pointers = [self.buffer.ptr + i * size for i in range(count)]
        sizes = [size] * count
        batches = [[self.number + b * count + i for i in range(count)] for b in range(max(total // (size * count), 1))]
        self.number += len(batches) * count
        spent_put = spent_get = 0.0
        wrong = 0
        for numbers in batches:
            keys = [f"smoke/{n}" for n in numbers]
            for i, n in enumerate(numbers):
                self.pattern.fill(n, self.buffer.part(i * size, size))
            began = time.perf_counter()
            results = self.store.batch_put_from(keys, pointers, sizes)
            spent_put += time.perf_counter() - began
            if any(results):
                raise SystemExit(f"batch_put_from: {sorted(set(results))}")
        for numbers in batches:
            keys = [f"smoke/{n}" for n in numbers]
            self.buffer.part(0, size * count).fill(0)
            began = time.perf_counter()
            results = self.store.batch_get_into(keys, pointers, sizes)
            spent_get += time.perf_counter() - began
            if any(result != size for result in results):
                raise SystemExit(f"batch_get_into: {sorted(set(results))}")
            wrong += sum(self.pattern.wrong_bytes(n, self.buffer.part(i * size, size)) for i, n in enumerate(numbers))
        moved = len(batches) * count * size
        return rate(moved, spent_put), rate(moved, spent_get), wrong

    def close(self) -> None:
        self.store.unregister_buffer(self.buffer.ptr)
        self.store.close()


def measure(memcpy_env: str, two: bool, rounds: int, total: int) -> dict[int, list[tuple[float, float, float, int]]]:
    """size -> (memcpy, put, get, wrong bytes) per round."""
    # Nothing is evicted and nothing reused: room for all rounds, and for a warm-up.
    segment = max(512 * MIB, 2 * total * (rounds + 1) * len(SIZES))
    env = {"MC_STORE_MEMCPY": memcpy_env}
    port = free_port()
    peers = []
    try:
        if two:
            peers.append(Peer(Holder, port, segment, env=env).ready())
            peers.append(Peer(Worker, f"127.0.0.1:{port}", 0, env=env).ready())
        else:
            peers.append(Peer(Worker, f"embedded:{port}", segment, env=env).ready())
        worker = peers[-1]
        results = {size: [] for size in SIZES}
        for size in SIZES:
            worker.call("round", size, min(total, 8 * MIB))  # connect, map, fault
            for _ in range(rounds):
                ceiling = memcpy_rate(size * batch_of(size))
                results[size].append((ceiling, *worker.call("round", size, total)))
        return results
    finally:
        for peer in reversed(peers):
            peer.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds per row; the median is printed (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=48, help="MiB moved per round and size (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON line a row instead of the table")
    args = parser.parse_args()
    if args.rounds < 1 or args.mib < 1:
        parser.error("--rounds and --mib must be at least 1")
    ipc_dir = private_ipc_dir()
    rows, wrong = [], 0
    for path, memcpy_env, two in PATHS:
        for size, samples in measure(memcpy_env, two, args.rounds, args.mib * MIB).items():
            ceiling, put, get = (statistics.median(s[i] for s in samples) for i in range(3))
            wrong += sum(s[3] for s in samples)
            if args.json:
                print(json.dumps({"path": path, "size": size, "batch": batch_of(size), "memcpy_gbps": round(ceiling, 3),
                                  "put_gbps": round(put, 3), "get_gbps": round(get, 3)}), flush=True)
            rows.append([path, format_size(size), str(batch_of(size)), f"{ceiling:.2f}", f"{put:.2f}", f"{get:.2f}",
                         f"{put / ceiling:.0%}", f"{get / ceiling:.0%}"])
    ipc_dir.cleanup()
    if not args.json:
        print_table(["path", "object", "batch", "memcpy GB/s", "put GB/s", "get GB/s", "put/memcpy", "get/memcpy"], rows)
    return fail(f"{wrong} wrong bytes") if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PeerError as error:
        sys.exit(fail(f"a process failed: {error}"))
