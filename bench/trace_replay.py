#!/usr/bin/env python3
"""Replays a request trace against the store: several client processes, one master, segments smaller than the working set.

A trace is JSON lines, one request each, as published by serving systems:

    {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2, ...]}

Each hash id names one block of 512 tokens; requests that share a prefix share its ids. A block is one object of --object-size bytes whose
contents follow from its id. For each request, as an engine would:

  1. look up all blocks with one batch_is_exist; the leading run of ones is the prefix that need not be computed again;
  2. read the prefix into registered memory (batch_get_into), and check every byte;
  3. write the blocks behind the prefix that are not there (batch_put_from).

Requests go to the clients in turn, each client replays its own as fast as it can, and all share the blocks. Eviction runs throughout, since
the segments hold only a part of the blocks. Without a trace one is generated, see generate().

Prints hit rate, GB/s, latency percentiles and errors. Exit status: 0; 1 when a byte was wrong, a client died or nothing was stored;
2 for bad arguments.
"""

import argparse
import collections
import json
import math
import os
import random
import sys
import time

from harness import (GIB, KIB, MIB, Buffer, Master, Pattern, Peer, PeerError, counters, fail, format_size, format_time, free_port,
                     open_store, parse_size, percentile, print_table, private_ipc_dir, rate)

BLOCK_TOKENS = 512
NO_SPACE = -200


# ---- the trace ----

def generate(requests: int, seed: int = 1, conversations: int = 24, prompts: int = 4, turns: float = 6.0) -> list[list[int]]:
    """A multi-turn chat trace: lists of hash ids, in order of arrival.

    `conversations` are open at any time. A new one starts with one of `prompts` system prompts of 1 to 8 blocks, the first ones more often
    (weights 1/rank). Each turn's request is the whole conversation so far plus new blocks: the answer before and the user's message,
    log-normal with a median of 3 blocks, at most 64. After each turn the conversation goes on with probability 1 - 1/turns; else a new
    one takes its place. Which conversation is next is skewed (weights 1/rank), so that some come back soon and some after long.
    """
    rng = random.Random(seed)
    next_id = 0

    def fresh(count: int) -> list[int]:
        nonlocal next_id
        next_id += count
        return list(range(next_id - count, next_id))

    system = [fresh(rng.randint(1, 8)) for _ in range(prompts)]
    prompt_weights = [1 / (rank + 1) for rank in range(prompts)]
    slot_weights = [1 / (rank + 1) for rank in range(conversations)]
    open_now: list[list[int]] = [[] for _ in range(conversations)]
    trace = []
    for _ in range(requests):
        slot = rng.choices(range(conversations), slot_weights)[0]
        if not open_now[slot]:
            open_now[slot] = list(rng.choices(system, prompt_weights)[0])
        open_now[slot] += fresh(min(64, max(1, round(rng.lognormvariate(math.log(3), 0.9)))))
        trace.append(list(open_now[slot]))
        if rng.random() < 1 / turns:
            open_now[slot] = []
    return trace


def load(path: str, max_requests: int) -> list[list[int]]:
    """hash_ids of the first requests; SystemExit names the line that is no request."""
    trace = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if len(trace) == max_requests:
                break
            if not line.strip():
                continue
            try:
                ids = json.loads(line)["hash_ids"]
                if not all(isinstance(i, int) and i >= 0 for i in ids):
                    raise ValueError("hash_ids are not numbers from 0 up")
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"{path}:{number}: no request: {error}") from None
            if ids:
                trace.append(ids)
    return trace


# ---- one client ----

class Totals:
    """What one client, or all together, did."""

    def __init__(self):
        self.requests = self.blocks = self.hits = self.stored = 0
        self.late_misses = 0     # said to exist, not there at the read
        self.no_space = 0        # puts refused with NO_AVAILABLE_HANDLE: every candidate was leased
        self.wrong_bytes = 0
        self.bytes_read = self.bytes_written = 0
        self.errors: collections.Counter = collections.Counter()  # (call, code) -> times
        self.latency: dict[str, list[float]] = {"lookup": [], "get": [], "put": []}
        self.counters: collections.Counter = collections.Counter()

    def add(self, other: "Totals") -> None:
        for name, value in vars(other).items():
            if name == "latency":
                for call, samples in value.items():
                    self.latency[call] += samples
            elif isinstance(value, collections.Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class Client:
    """A client process: a store with a segment, a registered buffer of one batch, and its share of the trace."""

    def __init__(self, master: str, segment: int, object_size: int, batch: int, prefix: str):
        self.size = object_size
        self.batch = batch
        self.prefix = prefix
        self.pattern = Pattern(object_size)
        self.buffer = Buffer(object_size * batch)
        self.store = open_store(master, segment, 16 * MIB)
        code = self.store.register_buffer(self.buffer.ptr, self.buffer.size)
        if code != 0:
            raise SystemExit(f"register_buffer failed: {code}")

    def key(self, block: int) -> str:
        return f"{self.prefix}/{block}"

    def _timed(self, totals: Totals, call: str, function, *args):
        began = time.perf_counter()
        result = function(*args)
        totals.latency[call].append(time.perf_counter() - began)
        return result

    def _slots(self, count: int) -> tuple[list[int], list[int]]:
        return [self.buffer.ptr + i * self.size for i in range(count)], [self.size] * count

    def _read(self, blocks: list[int], totals: Totals) -> int:
        """Reads and checks; returns how many leading blocks were good."""
        pointers, sizes = self._slots(len(blocks))
        self.buffer.bytes[:len(blocks) * self.size:4096] ^= 0xFF  # a read that writes nothing must not pass
        results = self._timed(totals, "get", self.store.batch_get_into, [self.key(b) for b in blocks], pointers, sizes)
        good = len(blocks)
        for i, (block, result) in enumerate(zip(blocks, results, strict=True)):
            if result == self.size:
                totals.wrong_bytes += self.pattern.wrong_bytes(block, self.buffer.part(i * self.size, self.size))
                totals.bytes_read += self.size
                totals.hits += 1
                continue
            good = min(good, i)
            if result == -704:
                totals.late_misses += 1
            elif result >= 0:
                totals.wrong_bytes += self.size  # another size than was put
            else:
                totals.errors["get", result] += 1
        return good

    def _write(self, blocks: list[int], totals: Totals) -> None:
        pointers, sizes = self._slots(len(blocks))
        for i, block in enumerate(blocks):
            self.pattern.fill(block, self.buffer.part(i * self.size, self.size))
        results = self._timed(totals, "put", self.store.batch_put_from, [self.key(b) for b in blocks], pointers, sizes)
        for result in results:
            if result == 0:
                totals.stored += 1
                totals.bytes_written += self.size
            elif result == NO_SPACE:
                totals.no_space += 1
            else:
                totals.errors["put", result] += 1

    def _request(self, ids: list[int], totals: Totals) -> None:
        totals.requests += 1
        totals.blocks += len(ids)
        exist = self._timed(totals, "lookup", self.store.batch_is_exist, [self.key(b) for b in ids])
        for code in exist:
            if code < 0:
                totals.errors["exist", code] += 1
        prefix = next((i for i, code in enumerate(exist) if code != 1), len(ids))
        position = 0
        while position < prefix:
            part = ids[position:min(position + self.batch, prefix)]
            good = self._read(part, totals)
            position += good
            if good < len(part):
                break
        # Behind the prefix, blocks that are there already need not be moved again; what a read missed must be.
        missing = ids[position:prefix] + [block for block, code in zip(ids[prefix:], exist[prefix:], strict=True) if code != 1]
        for start in range(0, len(missing), self.batch):
            self._write(missing[start:start + self.batch], totals)

    def replay(self, share: list[list[int]], seconds: float) -> Totals:
        """The whole share once; with `seconds`, over and over until they have passed."""
        totals = Totals()
        ends = time.monotonic() + seconds if seconds > 0 else None
        while True:
            for ids in share:
                if ends is not None and time.monotonic() >= ends:
                    break
                self._request(ids, totals)
            if ends is None or time.monotonic() >= ends or not share:
                break
        totals.counters.update(counters(self.store))
        return totals

    def close(self) -> None:
        self.store.unregister_buffer(self.buffer.ptr)
        self.store.close()


# ---- all together ----

def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="Sizes take K, M and G (1024-based).")
    parser.add_argument("--trace", default=os.environ.get("TRACE"), metavar="FILE",
                        help="trace to replay (default: $TRACE, else a generated one)")
    parser.add_argument("--max-requests", type=int, default=400, metavar="N",
                        help="replay the first N requests; 0: the whole trace (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0, help="replay over and over for this long (default: once)")
    parser.add_argument("--clients", type=int, default=3, help="client processes (default: %(default)s)")
    parser.add_argument("--object-size", type=parse_size, default=640 * KIB, metavar="SIZE",
                        help="bytes of a block of 512 tokens (default: 640K)")
    parser.add_argument("--capacity", type=float, default=0.35, metavar="SHARE",
                        help="all segments together as a share of the working set (default: %(default)s)")
    parser.add_argument("--segment-size", type=parse_size, default=0, metavar="SIZE", help="each client's segment, instead of --capacity")
    parser.add_argument("--batch", type=int, default=32, help="most blocks of one get or put (default: %(default)s)")
    parser.add_argument("--lease-ms", type=int, default=2000, help="lease of the master that is started (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the generated trace (default: %(default)s)")
    parser.add_argument("--path", choices=("auto", "tcp"), default="auto", help="tcp: UCX carries all bytes, no shared memory")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--master", metavar="HOST:PORT", help="a running master (default: start one)")
    where.add_argument("--embedded", action="store_true", help="run the master inside the first client")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    args = parser.parse_args(argv)
    for name in ("clients", "object_size", "batch", "lease_ms"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.capacity <= 0 or args.max_requests < 0 or args.seconds < 0:
        parser.error("--capacity must be positive, --max-requests and --seconds not negative")
    return args


def start_clients(args: argparse.Namespace, segment: int, prefix: str) -> tuple[Master | None, list[Peer]]:
    env = {"MC_STORE_MEMCPY": "0"} if args.path == "tcp" else {}
    peers: list[Peer] = []
    master = None

    def client(address: str) -> Peer:
        peers.append(Peer(Client, address, segment, args.object_size, args.batch, prefix, env=env))
        return peers[-1]

    try:
        if args.embedded:
            port = free_port()
            client(f"embedded:{port}").ready()
            address = f"127.0.0.1:{port}"
        elif args.master:
            address = args.master
        else:
            master = Master(f"--default_kv_lease_ttl={args.lease_ms}")
            address = master.address
        late = [client(address) for _ in range(args.clients - len(peers))]
        for peer in late:
            peer.ready()
    except BaseException:
        stop(master, peers)
        raise
    return master, peers


def stop(master: Master | None, peers: list[Peer]) -> None:
    for peer in reversed(peers):  # the first may run the master
        peer.stop()
    if master is not None:
        master.stop()


def report(args: argparse.Namespace, total: Totals, wall: float, working_set: int, capacity: int) -> None:
    hit_rate = total.hits / total.blocks if total.blocks else 0.0
    moved = total.bytes_read + total.bytes_written
    if args.json:
        print(json.dumps({
            "requests": total.requests, "blocks": total.blocks, "hit_rate": round(hit_rate, 4), "stored": total.stored,
            "wall_s": round(wall, 3), "gbps": round(rate(moved, wall), 3), "bytes_read": total.bytes_read,
            "bytes_written": total.bytes_written, "wrong_bytes": total.wrong_bytes, "late_misses": total.late_misses,
            "no_space": total.no_space, "errors": {f"{call} {code}": n for (call, code), n in sorted(total.errors.items())},
            "latency_us": {call: {f"p{q:g}": round(percentile(samples, q) * 1e6, 1) for q in (50, 99)}
                           for call, samples in total.latency.items() if samples},
            "counters": dict(total.counters),
        }))
        return
    print(f"{total.requests} requests, {total.blocks} blocks of {format_size(args.object_size)}; working set "
          f"{format_size(working_set)}, segments {format_size(capacity)} in {args.clients} clients; {wall:.1f} s")
    print(f"hit rate {hit_rate:.1%}   moved {rate(moved, wall):.2f} GB/s (making and checking the contents included)")
    rows = []
    for call, count in (("lookup", 0), ("get", total.bytes_read), ("put", total.bytes_written)):
        samples = total.latency[call]
        busy = sum(samples)
        rows.append([call, str(len(samples)), format_size(count) if count else "-",
                     f"{rate(count, busy / args.clients):.2f}" if count else "-",
                     *(format_time(percentile(samples, q)) for q in (50, 90, 99, 100))])
    print_table(["call", "times", "bytes", "GB/s in it", "p50", "p90", "p99", "max"], rows)
    by_path = {name: n for name, n in sorted(total.counters.items()) if name.startswith("bytes_") and n}
    if by_path:
        print("paths: " + ", ".join(f"{name[6:].replace('_', ' ')} {format_size(n)}" for name, n in by_path.items()))
    errors = ", ".join(f"{call} {code} x{n}" for (call, code), n in sorted(total.errors.items())) or "none"
    print(f"wrong bytes: {total.wrong_bytes}   errors: {errors}   gone between exist and get: {total.late_misses}   "
          f"puts without space: {total.no_space}")


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.trace:
        trace = load(args.trace, args.max_requests or sys.maxsize)
    else:
        trace = generate(args.max_requests or 400, args.seed)
    if not trace:
        print("trace_replay: the trace has no request", file=sys.stderr)
        return 2
    working_set = len({block for ids in trace for block in ids}) * args.object_size
    segment = args.segment_size or max(int(working_set * args.capacity / args.clients), 16 * MIB)
    capacity = segment * args.clients
    if capacity >= working_set:
        print(f"trace_replay: note: the segments ({format_size(capacity)}) hold the whole working set ({format_size(working_set)}): "
              "nothing will be evicted", file=sys.stderr)
    if capacity > 0.7 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        print(f"trace_replay: the segments ({format_size(capacity)}) do not fit this machine's memory; use --max-requests, "
              "--object-size, --capacity or --segment-size", file=sys.stderr)
        return 2

    ipc_dir = private_ipc_dir()
    # Keys of one run are its own, also on a master that others use.
    master, peers = start_clients(args, segment, f"trace-{os.getpid()}-{int(time.time())}")
    try:
        began = time.perf_counter()
        for i, peer in enumerate(peers):
            peer.start("replay", trace[i::len(peers)], args.seconds)
        total = Totals()
        for peer in peers:
            total.add(peer.wait(timeout=args.seconds + 3600))
        wall = time.perf_counter() - began
    finally:
        stop(master, peers)
        ipc_dir.cleanup()
    report(args, total, wall, working_set, capacity)
    if total.wrong_bytes:
        return fail(f"{total.wrong_bytes} wrong bytes")
    if total.stored == 0:
        return fail("nothing was stored")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PeerError as error:
        sys.exit(fail(f"a client failed: {error}"))
