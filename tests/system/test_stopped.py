"""SIGSTOP: a stopped process is not dead, and can write whenever it wakes (rule 6)."""

import pytest

from tests.support.processes import MIB
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

UCX = {"MC_STORE_MEMCPY": "0", "MC_TRANSFER_TIMEOUT": "1"}


def put_replicas(store, keys, size, replicas, segments):
    from mooncake.store import ReplicateConfig
    from tests.support.contents import pattern
    config = ReplicateConfig()
    config.replica_num = replicas
    config.preferred_segments = segments
    return [store.put(key, pattern(i, size), config) for i, key in enumerate(keys)]


def read_all(store, keys, size):
    """(right, missing, wrong) and the longest get."""
    import time
    from tests.support.contents import pattern
    right = missing = wrong = 0
    longest = 0.0
    for i, key in enumerate(keys):
        began = time.monotonic()
        value = store.get(key)
        longest = max(longest, time.monotonic() - began)
        if value == pattern(i, size):
            right += 1
        elif value == b"":
            missing += 1
        else:
            wrong += 1
    return right, missing, wrong, longest


@pytest.mark.soak
def test_reads_fail_over_from_a_stopped_holder_and_lose_no_buffer(start_master, start_peer):
    master = start_master("--client_ttl=30")
    stopped = start_peer("stopped", env=UCX).setup(master)
    other = start_peer("other", env=UCX).setup(master)
    size = 4 * MIB
    reader = start_peer("reader", env=UCX).setup(master, segment=0, buffer=16 * MIB)
    names = [stopped.hostname(), other.hostname()]
    both, single = [f"both{i}" for i in range(4)], [f"single{i}" for i in range(4)]
    assert reader.run(put_replicas, both, size, 2, names) == [0] * 4
    assert reader.run(put_replicas, single, size, 1, names[:1]) == [0] * 4
    assert reader.run(read_all, both, size)[:3] == (4, 0, 0)
    stopped.freeze()
    try:
        right, missing, wrong, longest = reader.run(read_all, both, size, timeout=120)
        assert (right, missing, wrong) == (4, 0, 0), "the other replica is read"
        assert longest < 5 * TIME_FACTOR
        # The local buffer holds four such values: twelve failed reads would have used it up, were one not given back.
        for _ in range(3):
            right, missing, wrong, longest = reader.run(read_all, single, size, timeout=120)
            assert (right, wrong) == (0, 0) and missing == 4
            assert longest < 5 * TIME_FACTOR, "every transfer has a deadline"
    finally:
        stopped.thaw()
    wait_until(lambda: reader.run(read_all, single, size, timeout=120)[:3] == (4, 0, 0), "the holder serves again", 30)
    for _ in range(3):
        assert reader.run(read_all, both, size)[:3] == (4, 0, 0)
        assert reader.call("put", "local", b"q" * (12 * MIB)) == 0 and reader.call("get", "local") == b"q" * (12 * MIB)
        wait_until(lambda: reader.call("remove", "local") == 0, "the lease ends")
    assert reader.counters()["failovers"] > 0


def test_put_with_a_stopped_holder_ends_in_time_and_goes_elsewhere(start_master, start_peer):
    master = start_master("--client_ttl=30")
    stopped = start_peer("stopped", env=UCX).setup(master)
    start_peer("other", env=UCX).setup(master)
    writer = start_peer("writer", env=UCX).setup(master, segment=0)
    name = stopped.hostname()
    assert writer.run(put_replicas, ["warm"], 1000, 1, [name]) == [0]
    stopped.freeze()
    try:
        with Stopwatch() as watch:
            code, = writer.run(put_replicas, ["k"], MIB, 1, [name], timeout=60)
        assert watch.seconds < 8 * TIME_FACTOR
        assert code == 0, "a put that cannot reach its segment is placed once more"
        assert writer.run(read_all, ["k"], MIB)[:3] == (1, 0, 0)
    finally:
        stopped.thaw()
    assert writer.run(read_all, ["k"], MIB)[:3] == (1, 0, 0)


# ---- the stopped writer ----

def write_big(store, segment, key, size):
    import ctypes
    from mooncake.store import ReplicateConfig
    config = ReplicateConfig()
    config.preferred_segment = segment
    source = ctypes.create_string_buffer(size)
    ctypes.memset(source, 0xEE, size)  # what nobody may ever read
    return store.put_from(key, ctypes.addressof(source), size, config)


def fill(store, prefix, count, size):
    """Puts values that are never evicted until there is no room; the keys that are stored."""
    from mooncake.store import ReplicateConfig
    from tests.support.contents import pattern
    config = ReplicateConfig()
    config.with_hard_pin = True
    stored = []
    while len(stored) < count and store.put(f"{prefix}{len(stored)}", pattern(len(stored), size), config) == 0:
        stored.append(f"{prefix}{len(stored)}")
    return stored


def verify_first(store, keys, size):
    """Each key once; the number behind its x is the seed."""
    from tests.support.contents import pattern
    return [key for key in keys if store.get(key) != pattern(int(key.rpartition("x")[2]), size)]


def verify_for_keys(store, keys, size, seconds):
    import time
    from tests.support.contents import pattern
    wrong = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        wrong.update(key for key in keys if store.get(key) != pattern(int(key.rpartition("x")[2]), size))
    return sorted(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("path", ["ucx", "shared_memory"])
def test_writer_that_wakes_after_every_timeout_changes_no_byte_that_is_read(path, start_master, start_peer):
    env = {"MC_STORE_MEMCPY": "0" if path == "ucx" else "1", "MC_TRANSFER_TIMEOUT": "1"}
    master = start_master("--client_ttl=2", "--put_start_discard_timeout_sec=1", "--put_start_release_timeout_sec=2",
                          "--eviction_high_watermark_ratio=1")
    holder = start_peer("holder", env=env).setup(master, segment=520 * MIB)
    writer = start_peer("writer", env=env).setup(master, segment=0)
    reader = start_peer("reader", env=env).setup(master, segment=0)
    size, idle, name = 384 * MIB, master.allocated(), holder.hostname()
    key = None
    for attempt in range(20):
        key = f"late{attempt}"
        if path == "ucx":
            holder.freeze()  # so that the put stays in the middle
        writer.start_run(write_big, name, key, size)
        wait_until(lambda: master.allocated() >= idle + size, "the put has its space", 30)
        writer.freeze()
        if path == "ucx":
            holder.thaw()
        if reader.call("is_exist", key) == 0:
            break
        writer.thaw()
        assert writer.result() == 0
        assert reader.call("remove", key, True) == 0
        wait_until(lambda: master.allocated() == idle, "the space is back")
    else:
        pytest.fail("no put was caught in the middle")
    # Past the discard, the release and the session's time to live; what the owner can take back is given out again and filled.
    wait_until(lambda: master.metrics().get("master_active_clients", 0) <= 2, "the stopped writer's session has ended", 30)
    piece = 2 * MIB
    keys: list[str] = []

    def filled() -> bool:
        keys.extend(reader.run(fill, f"f{len(keys)}x", 200, piece, timeout=120))
        return master.allocated() >= idle + 500 * MIB or (path == "shared_memory" and len(keys) > 0)

    if path == "ucx":
        wait_until(filled, "the space of the stopped put is used again", 60)
        assert len(keys) * piece > 520 * MIB - size, "memory of the unfinished put was given out again"
    else:
        filled()  # its slot keeps the memory out of use: only the rest is filled
        assert reader.call("is_exist", key) == 0
    assert reader.run(verify_first, keys, piece) == []
    writer.thaw()
    reader.start_run(verify_for_keys, keys, piece, 3.0)
    code = writer.result(60)
    assert reader.result(60) == []
    assert code != 0 or reader.call("is_exist", key) == 1, "a put that was given up does not say that it is stored"
    assert reader.run(verify_for_keys, keys, piece, 1.0) == []
    assert writer.call("put", "fresh", b"a" * 100) in (0, -200), "the writer goes on in a new session"
