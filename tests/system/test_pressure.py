"""A cluster that is full all the time: what exists is got, writers and readers all go on, and the accounts are right to the byte."""

import re

import pytest

from tests.support.processes import MIB
from tests.support.waiting import TIME_FACTOR, wait_until

PATHS = {"same_host": {"MC_STORE_MEMCPY": "1"}, "transport": {"MC_STORE_MEMCPY": "0"}}
LEASE_S = 2.0


def exist_then_get(store, seed, seconds, lease):
    """Three threads put and upsert what is not theirs alone, ask what is there, and get it by every call inside the lease. What went wrong."""
    import ctypes
    import random
    import threading
    import time
    from tests.support.contents import pattern
    sizes = (700, 5_000, 70_000, 300_000, 1_100_000)
    told = {"stored": 0, "full": 0, "got": 0, "late": 0, "missed": [], "wrong": []}
    lock = threading.Lock()

    def size_of(n):
        return sizes[n % len(sizes)]

    def get(way, key, size, memory):
        at = ctypes.addressof(memory)
        if way == "get":
            return store.get(key)
        if way == "get_batch":
            first, second = store.get_batch([key, key])
            return first if first == second else b"one of two: " + first[:10] + second[:10]
        if way == "get_buffer":
            handle = store.get_buffer(key)
            return b"" if handle is None else bytes(handle)
        if way == "get_into":
            return memory.raw[:size] if store.get_into(key, at, size) == size else b""
        if way == "multi_buffers":
            half = size // 2
            result = store.batch_get_into_multi_buffers([key], [[at, at + half]], [[half, size - half]])
            return memory.raw[:size] if result == [size] else b""
        return memory.raw[:size] if store.batch_get_into([key], [at], [size]) == [size] else b""

    def work(number):
        rng = random.Random(f"{seed}/{number}")
        memory = ctypes.create_string_buffer(max(sizes))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            n = rng.randrange(200)
            write = store.put if rng.random() < 0.9 else store.upsert
            code = write(f"k{n}", pattern(n, size_of(n)))
            keys = [rng.randrange(200) for _ in range(rng.choice((1, 1, 16, 64)))]
            began = time.monotonic()
            there = [k for k, code in zip(keys, store.batch_is_exist([f"k{k}" for k in keys])) if code == 1]
            for k in there:
                way = rng.choice(("get", "get_batch", "get_buffer", "get_into", "multi_buffers", "batch_get_into"))
                value = get(way, f"k{k}", size_of(k), memory)
                late = time.monotonic() - began > lease * 0.9
                with lock:
                    told["late"] += late
                    if value == pattern(k, size_of(k)):
                        told["got"] += 1
                    elif value != b"":
                        told["wrong"].append((way, k, len(value)))
                    elif not late:
                        told["missed"].append((way, k, time.monotonic() - began))
            with lock:
                told["stored"] += code == 0
                told["full"] += code == -200
                if code not in (0, -200):
                    told["wrong"].append(("code", n, code))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.mark.parametrize("path", PATHS)
def test_what_exists_is_got_inside_the_lease_while_eviction_runs(path, start_master, start_peer):
    master = start_master(f"--default_kv_lease_ttl={int(LEASE_S * 1000)}")
    holders = [start_peer(f"holder{n}", env=PATHS[path]).setup(master, segment=6 * MIB) for n in range(2)]
    readers = [start_peer(f"reader{n}", env=PATHS[path]).setup(master, segment=0) for n in range(2)]
    peers = holders + readers
    for seed, peer in enumerate(peers):
        peer.start_run(exist_then_get, seed, 4.0, LEASE_S)
    told = [peer.result(120) for peer in peers]
    for one in told:
        assert one["missed"] == [] and one["wrong"] == [], one
        assert one["got"] > 50 and one["stored"] > 0, one
    assert sum(one["full"] for one in told) > 0, "there was room all the time"
    assert master.metrics()["master_evicted_key_count"] > 20, "nothing was evicted"


# ---- full ----

def write_all_the_time(store, who, seconds):
    """Eight threads; the codes, the longest call, and whether the last second still had a put that succeeded."""
    import random
    import threading
    import time
    from tests.support.contents import pattern
    codes, longest, last_success = {}, [0.0], [0.0]
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def work(number):
        rng, count = random.Random(f"{who}/{number}"), 0
        while time.monotonic() < end:
            count += 1
            key, value = f"{who}-{number}-{count}", pattern(number, rng.choice((300, 64, 4096, 100_001, 700_000)))
            began = time.monotonic()
            kind = rng.random()
            code = store.put(key, value) if kind < 0.7 else store.upsert(f"{who}-{number}", value) if kind < 0.9 else store.remove(key)
            now = time.monotonic()
            with lock:
                codes[code] = codes.get(code, 0) + 1
                longest[0] = max(longest[0], now - began)
                if code == 0:
                    last_success[0] = now
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes, longest[0], end - last_success[0]


def read_all_the_time(store, keys, seconds):
    """Rounds, the longest one, and what was wrong."""
    import time
    from tests.support.contents import pattern
    rounds, longest, wrong = 0, 0.0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        for n, key in enumerate(keys):
            if store.get(key) != pattern(n, 10_000) or store.is_exist(key) != 1:
                wrong.append(key)
        longest = max(longest, time.monotonic() - began)
        rounds += 1
    return rounds, longest, wrong


def pin(store, keys):
    from mooncake.store import ReplicateConfig
    from tests.support.contents import pattern
    config = ReplicateConfig()
    config.with_hard_pin = True
    return [store.put(key, pattern(n, 10_000), config) for n, key in enumerate(keys)]


def extent(payload):
    """Bytes that a value of at most 4 MiB takes in a segment: a header of 64 bytes and the value, in steps of 64 (core/wire/extent.h)."""
    return -(-(64 + payload) // 64) * 64


def walk(master):
    """Bytes by segment, from every replica of every key that the admin port tells of."""
    import json
    import urllib.parse
    keys = master.admin("/get_all_keys")[1].split()
    by_segment = {}
    for begin in range(0, len(keys), 200):
        status, text = master.admin("/batch_query_keys?keys=" + urllib.parse.quote(",".join(keys[begin:begin + 200])))
        assert status == 200
        for entry in json.loads(text)["data"].values():
            for replica in entry["values"] if entry["ok"] else ():
                name = replica["transport_endpoint_"]
                by_segment[name] = by_segment.get(name, 0) + extent(replica["size_"])
    return by_segment, len(keys)


def test_a_full_master_serves_eight_writers_and_all_readers_and_loses_no_byte(start_master, start_peer):
    master = start_master("--default_kv_lease_ttl=200", "--eviction_high_watermark_ratio=1")
    ports = iter((21_001, 21_002))
    holders = [start_peer(f"holder{n}").setup(master, segment=8 * MIB, host=f"127.0.0.1:{next(ports)}") for n in range(2)]
    writer = start_peer("writer").setup(master, segment=0)
    reader = start_peer("reader").setup(master, segment=0)
    pinned = [f"pinned{n}" for n in range(20)]
    assert writer.run(pin, pinned) == [0] * 20
    seconds = 4.0
    writer.start_run(write_all_the_time, "w", seconds)
    holders[0].start_run(write_all_the_time, "h", seconds)
    reader.start_run(read_all_the_time, pinned, seconds)
    for peer in (writer, holders[0]):
        codes, longest, since = peer.result(120)
        assert codes.get(0, 0) > 100 and set(codes) <= {0, -200, -704}, codes
        assert longest < 5 * TIME_FACTOR, "a writer hung"
        assert since < 3 * TIME_FACTOR, "writers starved"
    rounds, longest, wrong = reader.result(120)
    assert wrong == [] and rounds > 10 and longest < 3 * TIME_FACTOR, "readers starved"
    metrics = master.metrics()
    assert metrics["master_evicted_key_count"] > 100
    assert metrics["master_allocated_bytes"] > 0.7 * metrics["master_total_capacity_bytes"], "it was not full"

    def accounts_agree():
        by_segment, count = walk(master)
        now = master.metrics()
        shown = {re.search('"(.*)"', name)[1]: int(value) for name, value in now.items() if name.startswith("segment_allocated_bytes{")}
        return (shown == by_segment and now["master_allocated_bytes"] == sum(by_segment.values()) and now["master_key_count"] == count
                and now.get("master_put_start_discarded_staging_size", 0) == 0)
    wait_until(accounts_agree, "everything on its way back has come back, and the metrics equal a walk", 20)
    assert reader.call("remove_all", force=True) > 0
    wait_until(lambda: master.metrics()["master_allocated_bytes"] == 0, "an empty store holds nothing", 20)
