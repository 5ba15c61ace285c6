"""What is measured. A section starts its systems, and then goes round by round: every case, every system, one after another, so that whatever else the
machine does meets all of them alike. Before the first round each system has a round that is not counted: connections, mappings, faults.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import guard, systems
from .networks import Cable
from .procs import BENCH, LineProcess, WorkerError, rss_bytes, sockets_between
from .results import Results
from .systems import MIB, Ceilings, Missing, Place, System

KIB = 1024
GB = 1e9


@dataclass
class Size:
    """How much of everything; quick is for a look and for the tests, never for figures to be quoted."""

    rounds: int = 5
    work: int = 128 * MIB           # bytes a sample moves; also the worker's buffer
    segment: int = 512 * MIB
    latency: int = 2000             # single calls a sample
    small: int = 8192               # 4 KiB objects a sample of batches
    pings: int = 4000
    loop_seconds: float = 0.5
    keys: tuple[int, ...] = (1000, 1_000_000, 10_000_000)
    memory_keys: int = 10_000_000
    evictions: int = 9              # rounds of a second: the p99.9 of one is a single moment of the machine
    peer_keys: int = 200_000
    lookups: int = 300_000
    policy_requests: int = 1500
    setup_segment: int = 1 << 30
    misses: int = 20_000
    ops: int = 20_000
    trace_requests: int = 300
    bulk: tuple = (("1 MiB", MIB, 1), ("4 MiB", 4 * MIB, 1), ("16 MiB", 16 * MIB, 1), ("32 x 1 MiB", MIB, 32), ("256 x 64 KiB", 64 * KIB, 256))
    peers: bool = True


QUICK = Size(rounds=2, work=32 * MIB, segment=160 * MIB, latency=300, small=1024, pings=500, loop_seconds=0.1, keys=(1000, 50_000),
             memory_keys=50_000, evictions=2, peer_keys=5000, lookups=20_000, policy_requests=60, setup_segment=64 * MIB, misses=20_000, ops=2000,
             trace_requests=60, bulk=(("1 MiB", MIB, 1), ("256 x 64 KiB", 64 * KIB, 256)))


class Run:
    """What the sections share: where, how much, and what has been found."""

    def __init__(self, place: Place, size: Size, results: Results, say: Callable[[str], None] = lambda text: None, trace: str | None = None):
        self.place, self.size, self.results, self.say, self.trace = place, size, results, say, trace

    def start(self, section: str, name: str, make: Callable[[], System], into: list[System]) -> None:
        """A system that cannot be had is a row that says so."""
        try:
            into.append(make())
        except (Missing, WorkerError, OSError) as error:
            text = systems.reason(error)
            self.say(f"{name}: {text}")
            self.results.missing(section, name, text)


def _bad(path: str, found: dict) -> str:
    if found.get("wrong"):
        return f"{found['wrong']} wrong bytes"
    return guard.verdict(path, found["bytes"], found["passed"]) if "passed" in found else ""


def _stores(run: Run, section: str, into: list[System], own: bool = True, tcp: bool = True, others: bool = True, cable: Cable | None = None) -> None:
    """The rows of the module under test."""
    p, s = run.place, run.size
    if own:
        run.start(section, "store, own segment", lambda: systems.store(p, "store, own segment", "own", s.segment, s.work), into)
    run.start(section, "store, same host", lambda: systems.store(p, "store, same host", "same host", s.segment, s.work), into)
    if not tcp:
        return
    run.start(section, "store, tcp", lambda: systems.store(p, "store, tcp", "tcp", s.segment, s.work), into)
    if others and p.own:
        found = systems.other_ucx()
        loaded = systems.loaded_ucx(into[-1].worker.pid) if into and into[-1].path == "tcp" else ""
        if found and loaded and found[0] != loaded:
            name = f"store, tcp, UCX {'.'.join(found[0].split('.')[:2])}"
            run.results.environment["ucx"] = loaded
            run.start(section, name, lambda: systems.store(p, name, "tcp", s.segment, s.work, {"MC_STORE_UCX_LIB": found[1]}), into)
    if cable is not None:
        name = "store, two networks"
        run.start(section, name, lambda: systems.store(p, name, "tcp", s.segment, s.work, networks=cable), into)


def _peers(run: Run, section: str, into: list[System], own: bool = True) -> None:
    p, s = run.place, run.size
    if not s.peers:
        return
    if own:
        run.start(section, "mooncake, own segment", lambda: systems.mooncake(p, "mooncake, own segment", "own", s.segment, s.work), into)
    run.start(section, "mooncake, tcp", lambda: systems.mooncake(p, "mooncake, tcp", "tcp", s.segment, s.work), into)
    if section == "bulk":
        name = "mooncake, as it comes"
        run.start(section, name, lambda: systems.mooncake(p, name, "tcp", s.segment, s.work, tuned=False), into)
    run.start(section, "redis", lambda: systems.redis(p, s.work, 2 * s.segment), into)
    run.start(section, "memcached", lambda: systems.memcached(p, s.work, 2 * s.segment), into)


def _rotated(running: list[System], turn: int) -> list[System]:
    """Another one is first in each round: who comes after the ceilings finds the machine in another state than who comes after a store."""
    at = turn % len(running) if running else 0
    return running[at:] + running[:at]


def _stop(running: list) -> None:
    for thing in reversed(running):
        thing.stop()


def _failed(run: Run, section: str, system: System, running: list[System], error: WorkerError) -> None:
    """A system that failed is out of this section; its row says why."""
    text = systems.reason(error)
    run.say(f"{system.name}: {text}")
    run.results.missing(section, system.name, text)
    running.remove(system)
    system.stop()


# ---- large objects ----

def bulk(run: Run) -> None:
    """put_from and get_into of 1-16 MiB, and batches, beside memcpy and a raw stream."""
    section, size, results = "bulk", run.size, run.results
    running: list[System] = []
    ceilings: dict[str, Ceilings] = {}
    cable = None
    try:
        ceilings["loopback"] = Ceilings(run.place)
        reno = "reno" in Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
        if reno:
            ceilings["Reno"] = Ceilings(run.place, congestion="reno")  # what the store's connections inside one machine use
        try:
            cable = Cable()
            ceilings["two networks"] = Ceilings(run.place, cable)
            if reno:
                ceilings["two networks, Reno"] = Ceilings(run.place, cable, "reno")
        except OSError as error:
            results.missing(section, "store, two networks", str(error))
        _stores(run, section, running, cable=cable)
        _peers(run, section, running)
        for turn in range(-1, size.rounds):
            for case, length, batch in size.bulk:
                _bulk_ceilings(run, ceilings, turn, case, length)
                for system in _rotated(running, turn):
                    _bulk_one(run, system, running, turn, case, length, batch)
            run.say(f"bulk: round {turn + 1} of {size.rounds}")
        for system in running:
            if system.path == "tcp" and system.holder is not None:
                results.add(section, "after all", "sockets", system.name, 0, sockets_between(system.worker.pid, system.holder.pid), "connections")
    finally:
        _stop(running)
        _stop(list(ceilings.values()))
        if cable is not None:
            cable.close()


def _bulk_ceilings(run: Run, ceilings: dict[str, Ceilings], turn: int, case: str, length: int) -> None:
    amount = run.size.work
    for where, ceiling in ceilings.items():
        for what in ("memcpy", "get", "put") if where == "loopback" else ("get", "put"):
            found = ceiling.run(what, length, amount)
            if turn >= 0:
                name = "memcpy" if what == "memcpy" else "raw stream" if where == "loopback" else f"raw stream, {where}"
                for op in ("put", "get") if what == "memcpy" else (what,):
                    run.results.add("bulk", case, op, name, turn, found["bytes"] / found["seconds"] / GB, "GB/s",
                                    cpu_per_gb=found["cpu"] / found["bytes"] * GB)


def _bulk_one(run: Run, system: System, running: list[System], turn: int, case: str, length: int, batch: int) -> None:
    count = run.size.work // length
    try:
        found = system.worker.call("transfer", "bulk", length, min(batch, count), count, system.helpers)
    except WorkerError as error:
        return _failed(run, "bulk", system, running, error)
    for op, one in found.items():
        if turn >= 0:
            run.results.add("bulk", case, op, system.name, turn, one["bytes"] / one["seconds"] / GB, "GB/s", bad=_bad(system.path, one),
                            cpu_per_gb=one["cpu"] / one["bytes"] * GB)


# ---- small objects ----

def small(run: Run) -> None:
    """4 KiB: one at a time (latency), 32 a call on 1, 2 and 4 threads (rate), and an open loop at shares of the peak."""
    section, size = "small", run.size
    running: list[System] = []
    ceiling = None
    s = run.size
    run = Run(run.place, replace(size, work=max(16 * MIB, 4 * KIB * max(s.small, s.latency)), segment=160 * MIB), run.results, run.say, run.trace)
    try:
        ceiling = Ceilings(run.place)
        _stores(run, section, running, others=False)
        _peers(run, section, running)
        for turn in range(-1, size.rounds):
            _ping(run, ceiling, turn)
            for system in _rotated(running, turn):
                try:
                    _latency(run, system, turn)
                    _rates(run, system, turn)
                except WorkerError as error:
                    _failed(run, section, system, running, error)
            run.say(f"small: round {turn + 1} of {size.rounds}")
        _open_loops(run, running)
    finally:
        _stop(running)
        if ceiling is not None:
            ceiling.stop()


def _ping(run: Run, ceiling: Ceilings, turn: int) -> None:
    found = ceiling.run("ping", 4 * KIB, run.size.pings)
    if turn >= 0:
        for op in ("get", "put"):
            run.results.add("small", "one", op, "raw round trip", turn, found["p50_us"], "us", p99=found["p99_us"], p999=found["p999_us"],
                            cpu_per_gb=found["cpu"] / found["bytes"] * GB)


def _latency(run: Run, system: System, turn: int) -> None:
    count, length = run.size.latency, 4 * KIB
    found = {"put": system.worker.call("latency_put", "one", length, count, system.helpers)}
    # Another process puts what is read first, where there is one: nobody has the place of what it reads for the first time.
    writer = system.holder if system.holder is not None else system.worker
    keys = writer.call("store_objects", "asked", length, count)
    first = writer.call("stored_from")
    found["get, first time"] = system.worker.call("latency_get", keys, first, length, 1, system.helpers)
    some = keys[:64]
    found["get"] = system.worker.call("latency_get", some, first, length, max(count // len(some), 2), system.helpers)
    writer.call("remove_keys", keys)
    for op, one in found.items():
        if turn >= 0:
            run.results.add("small", "one", op, system.name, turn, one["us"]["p50"], "us", bad=_bad(system.path, one), p99=one["us"]["p99"],
                            p999=one["us"]["p99.9"], rate=one["count"] / one["seconds"] / 1e3, cpu_per_gb=one["cpu"] / one["bytes"] * GB,
                            asked=one["asked"] / one["count"] if "asked" in one else None)


def _rates(run: Run, system: System, turn: int) -> None:
    for threads in (1, 2, 4):
        found = system.worker.call("threads", "many", 4 * KIB, 32, threads, run.size.small, system.helpers)
        for op, one in found.items():
            if turn >= 0:
                run.results.add("small", f"32 a call, {threads} thread{'s' * (threads > 1)}", op, system.name, turn,
                                one["count"] / one["seconds"] / 1e3, "k/s", bad=_bad(system.path, one), cpu_per_gb=one["cpu"] / one["bytes"] * GB)


def _open_loops(run: Run, running: list[System]) -> None:
    """Calls at the times of a Poisson process at 50, 80 and 95 % of the closed loop's rate: what a call waits behind others counts."""
    for turn in range(min(run.size.rounds, 3)):
        for share in (50, 80, 95):
            for system in list(running):
                try:
                    for op in ("get", "put"):
                        _open_loop(run, system, op, share, turn)
                except WorkerError as error:
                    _failed(run, "small", system, running, error)
        run.say(f"small: open loops, round {turn + 1}")


def _open_loop(run: Run, system: System, op: str, share: int, turn: int) -> None:
    row = run.results.find("small", "one", op, system.name)
    if row is None or not row.get("rate", 0) > 0:
        return
    rate = row["rate"] * 1e3 * share / 100
    found = system.worker.call("open_loop", "open", op, 4 * KIB, rate, run.size.loop_seconds, share + turn, system.helpers)
    run.results.add("small", f"open loop, {share} % of peak", op, system.name, turn, found["us"]["p50"], "us", bad=_bad(system.path, found),
                    p99=found["us"]["p99"], p999=found["us"]["p99.9"], rate=rate / 1e3)


# ---- first use, misses, views ----

def first_use(run: Run) -> None:
    """setup, the first calls, 20,000 misses in one call, get_buffer."""
    section, s = "first use", run.size
    makers = {"store, own segment": lambda: systems.store(run.place, "store, own segment", "own", s.setup_segment, 64 * MIB),
              "store, same host": lambda: systems.store(run.place, "store, same host", "same host", s.segment, 64 * MIB)}
    if s.peers:
        makers["mooncake, own segment"] = lambda: systems.mooncake(run.place, "mooncake, own segment", "own", s.setup_segment, 64 * MIB)
        makers["mooncake, tcp"] = lambda: systems.mooncake(run.place, "mooncake, tcp", "tcp", s.segment, 64 * MIB)
    for turn in range(s.rounds):
        for name, make in list(makers.items()):
            running: list[System] = []
            run.start(section, name, make, running)
            if not running:
                del makers[name]
                continue
            try:
                _first_use_one(run, running[0], turn)
            except WorkerError as error:
                _failed(run, section, running[0], running, error)
                del makers[name]
            finally:
                _stop(running)
        run.say(f"first use: round {turn + 1} of {s.rounds}")


def _first_use_one(run: Run, system: System, turn: int) -> None:
    add = run.results.add
    if system.path == "own":
        add("first use", "setup", "setup", system.name, turn, system.opened["setup_s"] * 1e3, "ms")
        first = system.worker.call("first_calls", "first", 4 * KIB)
        add("first use", "4 KiB", "first put", system.name, turn, first["put"] * 1e3, "ms", bad=_bad("", first))
        add("first use", "4 KiB", "first get", system.name, turn, first["get"] * 1e3, "ms", bad=_bad("", first))
    for n in range(3):  # the first one also connects
        found = system.worker.call("exist", f"miss{n}", run.size.misses, system.helpers)
    add("first use", f"{run.size.misses} misses", "batch_is_exist", system.name, turn, found["seconds"] * 1e3, "ms", bad=_bad("", found))
    view = system.worker.call("buffers", "view", 4 * MIB, 8, system.helpers)
    add("first use", "4 MiB", "get_buffer", system.name, turn, view["seconds"] / view["count"] * 1e6, "us", bad=_bad("", view),
        copied=view["copied"] / view["bytes"] if view["copied"] is not None else None)


# ---- the master ----

def master(run: Run) -> None:
    """Requests on a running master, without data: rates, latencies, memory, eviction."""
    section = "master"
    if not run.place.own:
        return run.results.missing(section, run.place.module, "the load generator speaks this build's RPC only")
    try:
        run.place.micro("master_load")
        for keys in run.size.keys:
            _master_rates(run, keys)
            run.say(f"master: {keys} keys")
        for length in (56, 126):
            _master_memory(run, length)
            run.say(f"master: memory, keys of {length}")
        _master_eviction(run)
        run.say("master: eviction")
    except (Missing, WorkerError) as error:
        run.results.missing(section, "mooncake_master", systems.reason(error))
    if run.size.peers:
        _peer_memory(run)


class Load:
    """A master and the load generator (bench/micro/master_load.c)."""

    def __init__(self, run: Run, *flags: str, way: str = "unix", segment: int = 1 << 40):
        self.master = systems.start_master(run.place, "--client_ttl=86400", *flags)
        try:
            self.process = LineProcess([str(run.place.micro("master_load")), f"127.0.0.1:{self.master.port}", *(["unix"] if way == "unix" else [])],
                                       run.place.log("master-load"))
            self.extent = self.ask(f"mount {segment}")["extent"]
        except BaseException:
            self.stop()
            raise

    def ask(self, line: str, timeout: float = 300) -> dict:
        return json.loads(self.process.ask(line, timeout))

    def stop(self) -> None:
        if hasattr(self, "process"):
            self.process.stop()
        self.master.stop()


def _master_rates(run: Run, keys: int) -> None:
    size = run.size
    loads = {way: Load(run, way=way) for way in ("unix", "tcp")}
    lookups = min(size.lookups, 100_000 if keys <= 1000 else size.lookups)
    work = (("lookup, 1 key, 8 connections", f"lookup {keys} {lookups} 56 8 16 1"),
            ("lookup, 128 keys, 2 connections", f"lookup {keys} {lookups * 8} 56 2 4 128"),
            ("exist, 128 keys, 2 connections", f"exist {keys} {lookups * 8} 56 2 4 128"))
    try:
        for way, load in loads.items():
            found = load.ask(f"put 0 {keys} 56 2 4 128")
            _master_row(run, f"put, 128 keys, 2 connections, first {_count(keys)}", way, 0, found)
        more = min(max(keys, 20_000), size.lookups)
        for turn in range(size.rounds):
            for way, load in loads.items():
                for case, command in work:
                    _master_row(run, f"{case}, {_count(keys)} there", way, turn, load.ask(command))
                _master_row(run, f"put, 128 keys, 2 connections, {_count(keys)} there", way, turn, load.ask(f"put {keys + turn * more} {more} 56 2 4 128"))
                load.ask(f"remove {keys + turn * more} {more} 56 2 4 128")
                load.ask("settle 100")
    finally:
        for load in loads.values():
            load.stop()


def _count(keys: int) -> str:
    return f"{keys // 1_000_000} M" if keys >= 1_000_000 else f"{keys // 1000} k"


def _master_row(run: Run, case: str, way: str, turn: int, found: dict) -> None:
    bad = f"{found['absent']} keys failed or are missing" if found["absent"] else ""
    run.results.add("master", case, way, "mooncake_master", turn, found["keys"] / found["seconds"] / 1e3, "k keys/s", bad=bad, p50=found["p50_us"],
                    p99=found["p99_us"], p999=found["p999_us"])


def _master_memory(run: Run, length: int) -> None:
    """Resident memory a key; the same after everything was removed, and after as many other keys came."""
    keys, load = run.size.memory_keys, Load(run)
    try:
        pid = load.master.pid
        load.ask(f"put 0 2048 {length} 2 4 128")  # sessions, buffers
        base = rss_bytes(pid)
        load.ask(f"put 2048 {keys} {length} 2 4 128")
        full = rss_bytes(pid)
        removed = load.ask(f"remove 2048 {keys} {length} 2 4 128")
        load.ask("settle 500")
        empty = rss_bytes(pid)
        load.ask(f"put {keys + 4096} {keys} {length} 2 4 128")
        again = rss_bytes(pid)
        bad = f"{removed['absent']} keys were not removed" if removed["absent"] else ""
        for op, amount in (("full", full), ("all removed", empty), ("full again", again)):
            run.results.add("master", f"memory, {_count(keys)} keys of {length}", op, "mooncake_master", 0, (amount - base) / keys, "bytes/key", bad=bad)
    finally:
        load.stop()


def _house_ns(pid: int) -> int:
    """Processor time of the master's housekeeping thread so far."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "mcs-house":
            return int((task / "schedstat").read_text().split()[0])
    return 0


def _evicted(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        match = re.search(r"^master_evicted_key_count(?:_total)? (\d+)", answer.read().decode(), re.M)
    return int(match[1]) if match else 0


def _master_eviction(run: Run) -> None:
    """Puts beyond the watermark while single keys are looked up, and the same puts with room: what is left over is eviction's doing."""
    keys = run.size.memory_keys
    part = max(keys // 100, 10_000)
    ratio = 10_000 / keys if keys > 100_000 else 0.1
    load = Load(run, f"--eviction_ratio={ratio}", "--eviction_high_watermark_ratio=0.9", segment=int(keys / 0.9) * 4096)
    case = f"lookup beside puts, {_count(keys)} there"
    try:
        pid, port, end = load.master.pid, load.master.metrics_port, keys - 2000
        load.ask(f"put 0 {end} 56 2 4 128")
        for turn in range(max(run.size.evictions, run.size.rounds)):
            # The oldest keys go, so that there is room for as many; the second lot then has to push others out: the oldest after those.
            load.ask(f"remove {2 * turn * part} {part} 56 2 4 128")
            load.ask("settle 300")
            evicted, house, wall = _evicted(port), _house_ns(pid), time.monotonic()
            quiet = load.ask(f"mixed {end} {part} 56 1 1 128")
            load.ask("settle 300")
            with_room = (_house_ns(pid) - house) / (time.monotonic() - wall)
            had_room = _evicted(port) == evicted
            if had_room:
                _lookup_row(run, case, "puts with room", turn, quiet)
            evicted, house, wall = _evicted(port), _house_ns(pid), time.monotonic()
            busy = load.ask(f"mixed {end + part} {part} 56 1 1 128")
            load.ask("settle 300")
            work = _house_ns(pid) - house - with_room * (time.monotonic() - wall)
            evicted = _evicted(port) - evicted
            end += 2 * part
            if evicted > 0:
                _lookup_row(run, case, "puts that evict", turn, busy)
            if evicted > 0 and had_room:
                run.results.add("master", f"eviction, {_count(keys)} there", "work for 10,000", "mooncake_master", turn, work / evicted * 10_000 / 1e6,
                                "ms", evicted=evicted)
    finally:
        load.stop()


def _lookup_row(run: Run, case: str, op: str, turn: int, found: dict) -> None:
    run.results.add("master", case, op, "mooncake_master", turn, found["p50_us"], "us", p99=found["p99_us"], p999=found["p999_us"])


def _peer_memory(run: Run) -> None:
    """What a key costs the original's master: it has no other way in than the API, so there are fewer keys."""
    running: list[System] = []
    keys = run.size.peer_keys
    run.start("master", "mooncake", lambda: systems.mooncake(run.place, "mooncake", "own", run.size.segment, 16 * MIB), running)
    try:
        for system in running:
            system.worker.call("fill_keys", "warm", 2048, 56)
            base = rss_bytes(system.master.pid)
            found = system.worker.call("fill_keys", "key", keys, 56, timeout=600)
            run.results.add("master", f"memory, {_count(keys)} keys of 56", "full", "mooncake", 0, (rss_bytes(system.master.pid) - base) / keys,
                            "bytes/key", rate=keys / found["seconds"] / 1e3)
    except WorkerError as error:
        run.results.missing("master", "mooncake", systems.reason(error))
    finally:
        _stop(running)


# ---- single parts ----

def parts(run: Run) -> None:
    """Allocator, and single operations in this process: what the CRC costs, what index, wire and RPC cost."""
    try:
        _allocator(run)
        _ops(run)
    except Missing as error:
        run.results.missing("parts", "bench/micro", str(error))


def _allocator(run: Run) -> None:
    quick = ["--quick"] if run.size.rounds < 5 else []
    done = subprocess.run([str(run.place.micro("allocator_bench")), "--json", *quick], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if "fill" in row:
            run.results.add("parts", row["load"], "first refusal", "allocator", 0, row["fill"] * 100, "% used")
            run.results.add("parts", row["load"], "after 10 capacities", "allocator", 0, row["churn"] * 100, "% used", least=row["churn_min"] * 100)
        else:
            run.results.add("parts", f"{row['extents']} extents, {row['sizes']}", "free or alloc", "allocator", 0, row["p50_ns"], "ns", p99=row["p99_ns"])
    run.say("parts: allocator")


def _ops(run: Run) -> None:
    binary = str(run.place.micro("ops_bench"))
    kinds = [line.split()[0] for line in subprocess.run([binary, "list"], capture_output=True, text=True, check=True).stdout.splitlines()]
    for turn in range(run.size.rounds):
        for kind in kinds:
            count = max(run.size.ops // 20, 50) if kind.endswith("_1m") else run.size.ops
            done = subprocess.run([binary, kind, str(count)], capture_output=True, text=True)
            if done.returncode == 0:
                run.results.add("parts", "one operation", kind, "ops", turn, json.loads(done.stdout)["ns"], "ns")
            elif turn == 0:
                run.results.missing("parts", f"ops: {kind}", (done.stderr.strip().splitlines() or ["?"])[-1])
    run.say("parts: operations")


# ---- eviction's choice ----

SHARES = (1, 2, 5, 10, 20)


def policies(run: Run) -> None:
    """Block hit rates of a trace: the master's own eviction on a virtual clock, and classical policies as yardsticks."""
    sys.path.insert(0, str(BENCH))
    import trace_replay
    requests = trace_replay.load(run.trace, sys.maxsize) if run.trace else trace_replay.generate(run.size.policy_requests, conversations=200)
    numbers: dict[int, int] = {}
    text = "".join(" ".join(str(numbers.setdefault(i, len(numbers))) for i in ids) + "\n" for ids in requests)
    try:
        binary = run.place.micro("policy_bench")
        for policy in [*(f"master:{name}" for name in master_policies(run.place)), "lru", "arc", "s3fifo"]:
            for share in SHARES:
                blocks = max(len(numbers) * share // 100, 1)
                done = subprocess.run([str(binary), policy, str(blocks)], input=text, capture_output=True, text=True, timeout=600)
                if done.returncode != 0:
                    run.results.missing("policies", policy, (done.stderr.strip().splitlines() or ["?"])[-1])
                    break
                found = json.loads(done.stdout)
                run.results.add("policies", f"{share} %", "hit rate", policy, 0, 100 * found["hits"] / found["accesses"], "%", capacity=blocks)
            run.say(f"policies: {policy}")
    except (Missing, subprocess.TimeoutExpired) as error:
        run.results.missing("policies", "policy_bench", str(error))


def master_policies(place: Place) -> list[str]:
    """Names that the master's --help lists for --eviction_policy."""
    return policy_names(subprocess.run([str(place.master), "--help"], capture_output=True, text=True).stdout)


def policy_names(text: str) -> list[str]:
    """"--eviction_policy (NAME (what it is) or NAME) type: …": what stands in brackets of its own is no name."""
    match = re.search(r"eviction_policy \((.*?)\) type:", text, re.S)
    words = re.findall(r"[a-z][a-z0-9_]*", re.sub(r"\([^)]*\)", " ", match[1].rpartition(":")[2])) if match else []
    return [word for word in words if word not in ("or", "and")] or ["lru"]


# ---- a trace through the whole store ----

def replay(run: Run) -> None:
    """bench/trace_replay.py: several clients, eviction, every byte checked."""
    if not run.place.own:
        run.results.missing("replay", run.place.module, "the replay runs on this build only")
        return
    command = [sys.executable, str(BENCH / "trace_replay.py"), "--json", "--max-requests", str(run.size.trace_requests), "--object-size", "256K"]
    environment = {k: v for k, v in os.environ.items() if k != "TRACE"} | {"PYTHONPATH": str(run.place.build / "python")}
    for path in ("auto", "tcp"):
        done = subprocess.run([*command, "--path", path, *(["--trace", run.trace] if run.trace else [])], capture_output=True, text=True, timeout=600,
                              env=environment)
        if done.returncode not in (0, 1) or not done.stdout.strip():
            run.results.missing("replay", path, (done.stderr.strip().splitlines() or ["?"])[-1])
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        bad = f"{found['wrong_bytes']} wrong bytes" if found["wrong_bytes"] else ""
        name = "store, same host" if path == "auto" else "store, tcp"
        run.results.add("replay", "multi-turn trace", "hit rate", name, 0, found["hit_rate"] * 100, "%", bad=bad)
        run.results.add("replay", "multi-turn trace", "moved", name, 0, found["gbps"], "GB/s", bad=bad)
        for call, quantiles in found["latency_us"].items():
            run.results.add("replay", "multi-turn trace", call, name, 0, quantiles["p50"], "us", bad=bad, p99=quantiles["p99"])
    run.say("replay")


SECTIONS = {"bulk": bulk, "small": small, "first use": first_use, "master": master, "parts": parts, "policies": policies, "replay": replay}
