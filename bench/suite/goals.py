"""The goals, and how each is read off the rows. A goal without figures (a peer or a namespace is missing) is neither met nor missed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .results import Results

SINGLE = ("1 MiB", "4 MiB", "16 MiB")
BATCH = ("32 x 1 MiB", "256 x 64 KiB")


@dataclass
class Goal:
    name: str
    limit: float
    at_least: bool
    unit: str
    find: Callable[[Results], float]

    def judge(self, results: Results) -> dict:
        found = self.find(results)
        met = None if math.isnan(found) else found >= self.limit if self.at_least else found <= self.limit
        return {"kind": "goal", "name": self.name, "limit": self.limit, "at_least": self.at_least, "unit": self.unit,
                "found": None if math.isnan(found) else found, "met": met}


def _worst(values, smallest: bool = True) -> float:
    found = [v for v in values if not math.isnan(v)]
    return (min if smallest else max)(found) if found else math.nan


def _bulk(op: str, above: str, below: str, cases, field: str = "value") -> Callable[[Results], float]:
    """The worst case: the smallest ratio of speeds, the largest of processor time."""
    return lambda r: _worst((r.ratio("bulk", case, op, above, below, field) for case in cases), field == "value")


def _both(above: str, below: str, cases, field: str = "value") -> Callable[[Results], float]:
    return lambda r: _worst((_bulk(op, above, below, cases, field)(r) for op in ("put", "get")), field == "value")


def _row(section: str, case: str, op: str, system: str, field: str = "value") -> Callable[[Results], float]:
    def find(results: Results) -> float:
        row = results.find(section, case, op, system)
        return row.get(field, math.nan) if row else math.nan
    return find


def _where(section: str, op: str, system: str, starts: str, smallest: bool, field: str = "value") -> Callable[[Results], float]:
    """The worst row whose case starts like this."""
    return lambda r: _worst((row.get(field, math.nan) for row in r.rows(section)
                             if row["op"] == op and row["system"] == system and row["case"].startswith(starts)), smallest)


def _threads(op: str, system: str) -> Callable[[Results], float]:
    return lambda r: _worst((row["value"] for row in r.rows("small")
                             if row["op"] == op and row["system"] == system and row["case"].startswith("32 a call")), False)


def _tail(system: str) -> Callable[[Results], float]:
    """p99/p50 against the raw round trip's own."""
    def find(results: Results) -> float:
        ours, raw = results.find("small", "one", "get, first time", system), results.find("small", "one", "get", "raw round trip")
        return (ours["p99"] / ours["value"]) / (raw["p99"] / raw["value"]) if ours and raw else math.nan
    return find


def _round_trips(system: str) -> Callable[[Results], float]:
    return lambda r: r.ratio("small", "one", "get, first time", system, "raw round trip", below_op="get")


def _master(case: str) -> Callable[[Results], float]:
    """With the most keys that were there, up to a million."""
    def find(results: Results) -> float:
        rows = [row for row in results.rows("master") if row["case"].startswith(case) and row["op"] == "unix" and "there" in row["case"]]
        fit = [row for row in rows if row["case"].endswith(("k there", ", 1 M there"))]
        return fit[-1]["value"] if fit else math.nan
    return find


def _eviction_tail(results: Results) -> float:
    rows = {row["op"]: row for row in results.rows("master") if row["case"].startswith("lookup beside puts")}
    return rows["puts that evict"]["p999"] - rows["puts with room"]["p999"] if len(rows) == 2 else math.nan


def _reused(results: Results) -> float:
    rows = {row["op"]: row["value"] for row in results.rows("master") if row["case"].startswith("memory") and row["case"].endswith("of 56")
            and row["system"] == "mooncake_master"}
    return rows["full again"] / rows["full"] if {"full", "full again"} <= rows.keys() else math.nan


def _copy_cost(results: Results) -> float:
    return 100 * (results.ratio("parts", "one operation", "copy_crc_1m", "ops", "ops", below_op="memcpy_1m") - 1)


def _policy(results: Results) -> float:
    """Of the best policy of the master: at how many capacities it is at least 5 % (relative) above the master's LRU; -1 when it is below at one.

    Which keys are in the policy's sample is chance: two thousandths between two runs.
    """
    rows = results.rows("policies")
    found = {name: {row["case"]: row["value"] for row in rows if row["system"] == name} for name in {row["system"] for row in rows}}
    lru = found.get("master:lru", {})
    scores = [-1.0 if any(mine[c] < 0.998 * lru[c] for c in lru) else float(sum(mine[c] >= 1.05 * lru[c] for c in lru))
              for name, mine in found.items() if name.startswith("master:") and mine.keys() == lru.keys() and lru]
    return max(scores, default=math.nan)


HOST, OWN, TCP, NETS = "store, same host", "store, own segment", "store, tcp", "store, two networks"
THEIRS, PLAIN, RAW = "mooncake, tcp", "mooncake, as it comes", "raw stream"

GOALS = [
    Goal("same host, 1-16 MiB get_into / memcpy", 0.9, True, "x", _bulk("get", HOST, "memcpy", SINGLE)),
    Goal("same host, 1-16 MiB put_from / memcpy", 0.9, True, "x", _bulk("put", HOST, "memcpy", SINGLE)),
    Goal("same host, 1-16 MiB get_into / mooncake's as it comes", 8, True, "x", _bulk("get", HOST, PLAIN, SINGLE)),
    Goal("same host, 1-16 MiB put_from / mooncake's as it comes", 15, True, "x", _bulk("put", HOST, PLAIN, SINGLE)),
    Goal("same host, 1-16 MiB get_into / mooncake's with its pool", 8, True, "x", _bulk("get", HOST, THEIRS, SINGLE)),
    Goal("same host, 1-16 MiB put_from / mooncake's with its pool", 15, True, "x", _bulk("put", HOST, THEIRS, SINGLE)),
    Goal("same process, 1-16 MiB / memcpy", 0.9, True, "x", _both(OWN, "memcpy", SINGLE)),
    Goal("same host, get_buffer: bytes copied a byte", 0, False, "", _row("first use", "4 MiB", "get_buffer", HOST, "copied")),
    Goal("tcp, 1-16 MiB and batches / raw stream", 0.9, True, "x", _both(TCP, RAW, SINGLE + BATCH)),
    Goal("tcp, UCX 1.13, 1-16 MiB and batches / raw stream", 0.7, True, "x", _both("store, tcp, UCX 1.13", RAW, SINGLE + BATCH)),
    Goal("tcp between networks, 1-16 MiB and batches / raw stream", 0.9, True, "x", _both(NETS, "raw stream, two networks", SINGLE + BATCH)),
    Goal("tcp, processor time a byte / raw stream's", 1.5, False, "x", _both(TCP, RAW, SINGLE + BATCH, "cpu_per_gb")),
    Goal("tcp, connections to a peer", 4, False, "", _row("bulk", "after all", "sockets", TCP)),
    Goal("tcp, single get / mooncake's", 1.5, True, "x", _bulk("get", TCP, THEIRS, SINGLE)),
    Goal("tcp, single put / mooncake's", 2, True, "x", _bulk("put", TCP, THEIRS, SINGLE)),
    Goal("tcp, 256 x 64 KiB / mooncake's", 1.5, True, "x", _both(TCP, THEIRS, ("256 x 64 KiB",))),
    Goal("tcp, never behind mooncake", 1, True, "x", _both(TCP, THEIRS, SINGLE + BATCH)),
    Goal("tcp, processor time a byte / mooncake's", 0.75, False, "x", _both(TCP, THEIRS, SINGLE + BATCH, "cpu_per_gb")),
    Goal("4 KiB get, same host, place known: p50", 5, False, "us", _row("small", "one", "get", HOST)),
    Goal("4 KiB get, same host, master asked / raw round trip: p50", 2, False, "x", _round_trips(HOST)),
    Goal("4 KiB get, same host, master asked: p99/p50 / raw's", 1.5, False, "x", _tail(HOST)),
    Goal("4 KiB get, 32 a call, same host", 500, True, "k/s", _threads("get", HOST)),
    Goal("4 KiB put, 32 a call, same host", 300, True, "k/s", _threads("put", HOST)),
    Goal("4 KiB get, 32 a call, tcp", 150, True, "k/s", _threads("get", TCP)),
    Goal("4 KiB put, 32 a call, tcp", 100, True, "k/s", _threads("put", TCP)),
    Goal("master, lookups of 1 key, pipelined", 150, True, "k/s", _master("lookup, 1 key")),
    Goal("master, lookups in batches of 128", 4000, True, "k keys/s", _master("lookup, 128 keys")),
    Goal("master, puts in batches of 128", 1000, True, "k keys/s", _master("put, 128 keys")),
    Goal("master, memory a key of 56", 160, False, "bytes", lambda r: _where("master", "full", "mooncake_master", "memory", False)(
        _only(r, "of 56"))),
    Goal("master, memory a key of 126", 220, False, "bytes", lambda r: _where("master", "full", "mooncake_master", "memory", False)(
        _only(r, "of 126"))),
    Goal("master, memory after all was removed and put again / before", 1.1, False, "x", _reused),
    Goal("eviction of 10,000 objects: work", 10, False, "ms", _where("master", "work for 10,000", "mooncake_master", "eviction", False)),
    Goal("eviction: added to a lookup's p99.9", 100, False, "us", _eviction_tail),
    Goal("allocator, up to 100,000 extents: p50", 60, False, "ns", lambda r: _worst(
        (row["value"] for row in r.rows("parts") if row["unit"] == "ns" and "extents" in row["case"] and int(row["case"].split()[0]) <= 100000), False)),
    Goal("allocator, uniform sizes", 99, True, "%", _where("parts", "after 10 capacities", "allocator", "uniform", True)),
    Goal("allocator, pairs", 98.5, True, "%", _where("parts", "after 10 capacities", "allocator", "pairs", True)),
    Goal("allocator, random sizes", 92, True, "%", _where("parts", "after 10 capacities", "allocator", "random", True)),
    Goal("eviction policy: capacities 5 % above LRU, never below", 2, True, "", _policy),
    Goal("20,000 misses in one call", 5, False, "ms", _where("first use", "batch_is_exist", HOST, "20000", False)),
    Goal("setup with 1 GiB", 100, False, "ms", _row("first use", "setup", "setup", OWN)),
    Goal("first put on the own segment", 1, False, "ms", _row("first use", "4 KiB", "first put", OWN)),
    Goal("first get on the own segment", 1, False, "ms", _row("first use", "4 KiB", "first get", OWN)),
    Goal("CRC fused with a copy of 1 MiB: extra time", 5, False, "%", _copy_cost),
]


def _only(results: Results, ends: str) -> Results:
    part = Results()
    part.samples = [s for s in results.samples if s["case"].endswith(ends)]
    return part


def judge(results: Results) -> list[dict]:
    return [goal.judge(results) for goal in GOALS]
