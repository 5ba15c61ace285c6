#!/usr/bin/env python3
"""Shows the store at its main job, in a few seconds: `make demo`.

Two processes, each with a segment; the first also runs the master (master_server_addr="embedded"). Each puts KV-cache-sized blocks and reads
all blocks of both, once through the same-host path and once over UCX with MC_STORE_MEMCPY=0. Every byte that is read is checked.
"""

import argparse
import sys
import time

from harness import (KIB, MIB, Buffer, Pattern, Peer, PeerError, counters, fail, format_size, format_time, free_port, open_store,
                     percentile, print_table, private_ipc_dir, rate)

# Two shapes that engines store: a big page of a large model, and 512 tokens of a small one.
SHAPES = ((2 * MIB, 48), (640 * KIB, 48))
SEGMENT = 384 * MIB
PATHS = (("shared memory", "1"), ("UCX over TCP", "0"))


class Node:
    """One of the two processes."""

    def __init__(self, master: str):
        largest = max(size for size, _ in SHAPES)
        self.pattern = Pattern(largest)
        self.buffer = Buffer(largest)
        self.store = open_store(master, SEGMENT, 64 * MIB)
        self.store.register_buffer(self.buffer.ptr, self.buffer.size)

    def name(self) -> str:
        return self.store.get_hostname()

    def put(self, keys: list[tuple[str, int, int]]) -> tuple[list[float], int]:
        """Puts (key, number, size) one by one; seconds of each call, and how many failed."""
        times, failed = [], 0
        for key, number, size in keys:
            self.pattern.fill(number, self.buffer.part(0, size))
            began = time.perf_counter()
            code = self.store.put_from(key, self.buffer.ptr, size)
            times.append(time.perf_counter() - began)
            failed += code != 0
        return times, failed

    def get(self, keys: list[tuple[str, int, int]]) -> tuple[list[float], int, int]:
        """Reads and checks; seconds of each call, hits, wrong bytes."""
        times, hits, wrong = [], 0, 0
        for key, number, size in keys:
            self.buffer.part(0, size).fill(0)
            began = time.perf_counter()
            found = self.store.get_into(key, self.buffer.ptr, size)
            times.append(time.perf_counter() - began)
            if found == size:
                hits += 1
                wrong += self.pattern.wrong_bytes(number, self.buffer.part(0, size))
        return times, hits, wrong

    def counters(self) -> dict[str, int]:
        return counters(self.store)

    def endpoint(self) -> str:
        """What descriptors call this process's segment: with P2PHANDSHAKE and a port that was picked it is not the segment's name."""
        from mooncake.store import ReplicateConfig
        config = ReplicateConfig()
        config.preferred_segment = self.name()
        key = f"demo/at/{self.name()}"
        self.store.put(key, b"here", config)
        replica = self.store.get_replica_desc(key)[0]
        self.store.remove(key, force=True)
        return replica.get_memory_descriptor().buffer_descriptor.transport_endpoint

    def segment_of(self, keys: list[tuple[str, int, int]]) -> dict[str, tuple[int, int]]:
        """Transport endpoint of a segment -> (objects, bytes) of these keys."""
        held: dict[str, tuple[int, int]] = {}
        for key, _, size in keys:
            for replica in self.store.get_replica_desc(key):
                name = replica.get_memory_descriptor().buffer_descriptor.transport_endpoint
                objects, total = held.get(name, (0, 0))
                held[name] = objects + 1, total + size
        return held

    def close(self) -> None:
        self.store.unregister_buffer(self.buffer.ptr)
        self.store.close()


def keys_of(path: str, writer: int) -> list[tuple[str, int, int]]:
    keys = []
    for size, count in SHAPES:
        for i in range(count // 2):
            number = hash_number(path, writer, size, i)
            keys.append((f"demo/{path.replace(' ', '-')}/{size}/{writer}/{i}", number, size))
    return keys


def hash_number(path: str, writer: int, size: int, i: int) -> int:
    return (len(path) << 40) + (writer << 36) + (size << 8) + i


def show_path(title: str, memcpy: str) -> tuple[list[list[str]], int]:
    """Runs both processes on one path; rows for the table, and how much went wrong."""
    port = free_port()
    env = {"MC_STORE_MEMCPY": memcpy}
    nodes = [Peer(Node, f"embedded:{port}", env=env)]
    try:
        nodes[0].ready()
        nodes.append(Peer(Node, f"127.0.0.1:{port}", env=env).ready())
        mine = [keys_of(title, writer) for writer in range(len(nodes))]
        everything = [key for keys in mine for key in keys]
        total_bytes = sum(size for _, _, size in everything)

        puts, failed = [], 0
        for node, keys in zip(nodes, mine):
            times, bad = node.call("put", keys)
            puts += times
            failed += bad
        held = nodes[0].call("segment_of", everything)
        names = [(node.call("name"), node.call("endpoint")) for node in nodes]
        gets, hits, wrong = [], 0, 0
        for node in nodes:
            times, found, bad = node.call("get", everything)
            gets += times
            hits += found
            wrong += bad
        after = [node.call("counters") for node in nodes]
    finally:
        for node in reversed(nodes):
            node.stop()

    print(f"\n{title}: {len(everything)} objects, {format_size(total_bytes)}; written and read by both processes")
    for i, (name, endpoint) in enumerate(names):
        objects, size = held.get(endpoint, (0, 0))
        print(f"  segment {name} of process {i + 1}: {objects} objects, {format_size(size)}")
    if carried := {name: sum(c.get(name, 0) for c in after) for name in
                   ("bytes_own_read", "bytes_same_host_read", "bytes_fetched", "bytes_stored")}:
        print("  bytes read in the own segment {bytes_own_read}, mapped {bytes_same_host_read}; by UCX fetched {bytes_fetched}, "
              "stored {bytes_stored}".format(**{name: format_size(n) for name, n in carried.items()}))
    rows = [
        [title, "put", str(len(puts)), "-", f"{rate(total_bytes, sum(puts)):.2f}", format_time(percentile(puts, 50)),
         format_time(percentile(puts, 99))],
        ["", "get", str(len(gets)), f"{hits / len(gets):.0%}", f"{rate(total_bytes * len(nodes), sum(gets)):.2f}",
         format_time(percentile(gets, 50)), format_time(percentile(gets, 99))],
    ]
    if failed or wrong or hits != len(gets):
        print(f"  {failed} puts failed, {len(gets) - hits} reads missed, {wrong} bytes wrong", file=sys.stderr)
    return rows, failed + wrong + len(gets) - hits


def main() -> int:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    ipc_dir = private_ipc_dir()
    print("A master inside the first of two processes; each process lends the store a segment of "
          f"{format_size(SEGMENT)}.\nBlocks: " + ", ".join(f"{count} of {format_size(size)}" for size, count in SHAPES))
    rows, bad = [], 0
    for title, memcpy in PATHS:
        more, went_wrong = show_path(title, memcpy)
        rows += more
        bad += went_wrong
    ipc_dir.cleanup()
    print()
    print_table(["path", "call", "times", "hits", "GB/s", "p50", "p99"], rows)
    print("""
Next:
  make test                      the whole test suite
  make bench-smoke               put and get beside the machine's memcpy
  make bench TRACE=file.jsonl    replay a request trace, every byte verified
  build/release/master/mooncake_master --help
  README.md                      the quick start with a master of its own""")
    return fail("something went wrong, see above") if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PeerError as error:
        sys.exit(fail(f"a process failed: {error}"))
