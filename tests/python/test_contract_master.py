"""Contract: what the master decides: placement, replication, pins, eviction, groups, segments of clients that leave. Masters of their own, small segments."""

import json
import threading
import time
import urllib.request

import pytest
from contract_support import MIB, fresh, new_store, pattern
from python_support import Master, wait_until


@pytest.fixture(scope="module")
def strict(master_binary, tmp_path_factory):
    """A master that evicts only when a put finds no room, and answers -200 at once when that does not help."""
    master = Master(
        tmp_path_factory.mktemp("strict"),
        "--default_kv_lease_ttl=500",
        "--eviction_high_watermark_ratio=1.0",
        "--default_kv_soft_pin_ttl=600000",
    )
    yield master
    assert master.stop() == 0


@pytest.fixture
def small(real, strict):
    """The only segment of its master: 16 MiB."""
    store = new_store(real, strict, segment=16 * MIB, buffer=32 * MIB)
    yield store
    store.close()


def config_of(real, **values):
    config = real.ReplicateConfig()
    for name, value in values.items():
        setattr(config, name, value)
    return config


def names(store, key):
    return [replica.segment_name for replica in store.get_replica_desc(key)]


# ---- placement and replication ----


def test_replicas_lie_in_distinct_segments(real, master):
    stores = [new_store(real, master) for _ in range(3)]
    key = fresh()
    assert stores[0].put(key, b"x" * 1000, config_of(real, replica_num=3)) == 0
    assert len(set(names(stores[0], key))) == 3
    for store in stores:
        assert store.get(key) == b"x" * 1000
    for store in stores:
        store.close()


def test_more_replicas_than_segments_is_as_many_as_there_are(real, small):
    key = fresh()
    assert small.put(key, b"x", config_of(real, replica_num=9)) == 0
    assert len(names(small, key)) == 1


def test_no_replica_at_all_is_refused(real, small):
    assert small.put(fresh(), b"x", config_of(real, replica_num=0)) == -600


def test_preferred_segments_are_tried_in_order(real, master):
    stores = [new_store(real, master) for _ in range(3)]
    hosts = [store.get_hostname() for store in stores]
    for wanted in hosts:
        for values in ({"preferred_segment": wanted}, {"preferred_segments": ["nowhere:1", wanted]}):
            key = fresh()
            assert stores[0].put(key, b"x", config_of(real, **values)) == 0
            assert names(stores[0], key) == [wanted]
    key = fresh()
    assert stores[0].put(key, b"x", config_of(real, replica_num=2, preferred_segments=hosts[1:])) == 0
    assert set(names(stores[0], key)) == set(hosts[1:])
    assert stores[0].put(fresh(), b"x", config_of(real, preferred_segment="nowhere:1")) == 0, "an unknown one is passed over"
    many = config_of(real, preferred_segments=[f"nowhere:{i}" for i in range(100_000)])
    assert stores[0].put(fresh(), b"x", many) == 0, "the master lives through any number"
    for store in stores:
        store.close()


def test_a_read_goes_on_to_another_replica_when_a_segment_leaves(real, master):
    keeper, leaver, reader = (new_store(real, master, segment=size) for size in (64 * MIB, 64 * MIB, 0))
    key, value = fresh(), pattern(100_000)
    both = config_of(real, replica_num=2, preferred_segments=[keeper.get_hostname(), leaver.get_hostname()])
    assert reader.put(key, value, both) == 0
    assert set(names(reader, key)) == {keeper.get_hostname(), leaver.get_hostname()}
    leaver.close()
    assert reader.get(key) == value
    wait_until(lambda: names(reader, key) == [keeper.get_hostname()], "the other replica is forgotten")
    keeper.close()
    reader.close()


# ---- room ----


def test_a_value_that_fits_no_segment_is_no_space(real, small):
    assert small.put(fresh(), bytes(17 * MIB)) == -200


def test_a_view_that_is_held_delays_no_upsert_and_no_forced_removal(real, master_binary, tmp_path):
    """Nobody can begin to read the old value once its owner has struck it: 50 s of a lease need not pass."""
    master = Master(tmp_path, "--default_kv_lease_ttl=100000")
    store, other = new_store(real, master), new_store(real, master)
    for change in (lambda: other.upsert("k", b"new"), lambda: other.remove("k", True)):
        assert store.put("k", b"x" * 100000) == 0
        view = memoryview(store.get_buffer("k"))
        assert view.readonly and other.is_exist("k") == 1
        before = bytes(view)
        begun = time.monotonic()
        assert change() == 0
        assert time.monotonic() - begun < 20
        assert store.get("k") in (b"new", b"") and bytes(view) == before
    view.release()
    store.close()
    other.close()
    assert master.stop() == 0


def test_what_is_leased_is_not_evicted(real, small):
    keys = [fresh() for _ in range(14)]
    assert small.put_batch(keys, [pattern(MIB, i) for i in range(14)]) == 0
    assert small.batch_is_exist(keys) == [1] * 14
    assert small.put(fresh(), bytes(8 * MIB)) == -200, "no room can be made"
    assert small.get_batch(keys) == [pattern(MIB, i) for i in range(14)], "exist, then get inside the lease never misses"
    wait_until(lambda: small.put(fresh(), bytes(8 * MIB)) == 0, "when the leases are over, room is made")
    small.remove_all(force=True)


def test_the_oldest_are_evicted_first(real, small):
    small.remove_all(force=True)
    keys = [fresh() for _ in range(22)]
    for key in keys:  # of one size, 15 fit
        wait_until(lambda: small.put(key, bytes(MIB)) == 0, "there is room")
    there = small.batch_is_exist(keys)
    assert there == sorted(there), "those that went are older than those that stayed"
    assert 0 < sum(there) <= 15
    small.remove_all(force=True)


def test_soft_pins_go_last_and_hard_pins_never(real, small):
    small.remove_all(force=True)
    hard, soft = fresh(), fresh()
    pinned = config_of(real, with_hard_pin=True)

    def put(key, config):
        wait_until(lambda: small.put(key, bytes(MIB), config) == 0, "there is room")

    put(hard, pinned)
    put(soft, config_of(real, soft_pin_action=real.SoftPinAction.ENABLE))
    for _ in range(30):  # of one size, so that each needs the place of one other: twice what fits
        put(fresh(), real.ReplicateConfig())
    assert small.is_exist(hard) == 1 and small.is_exist(soft) == 1
    for _ in range(14):  # 15 values and their headers fit
        put(fresh(), pinned)
    assert small.is_exist(hard) == 1 and small.is_exist(soft) == 0, "the soft pin gives way"
    assert small.remove(hard, force=True) == 0, "a hard pin can be removed"
    small.remove_all(force=True)


@pytest.mark.parametrize(
    "values, code",
    [
        ({"action": "ENABLE", "ttl": 1000}, 0),
        ({"action": "ENABLE", "ttl": 0}, 0),
        ({"action": "ENABLE", "ttl": 86_400_001}, -600),
        ({"action": "PRESERVE", "ttl": 1000}, -600),
        ({"action": "DISABLE", "ttl": 1000}, -600),
        ({"action": "DISABLE", "ttl": None}, 0),
    ],
)
def test_soft_pin_times(real, small, values, code):
    config = config_of(real, soft_pin_action=getattr(real.SoftPinAction, values["action"]), soft_pin_ttl_ms=values["ttl"])
    assert small.put(fresh(), b"x", config) == code


def test_groups_go_together(real, small):
    small.remove_all(force=True)
    group = [fresh() for _ in range(4)]
    config = config_of(real, group_ids=["g"] * 4)
    wait_until(lambda: small.put_batch(group, [bytes(MIB)] * 4, config) == 0, "there is room")
    for _ in range(14):
        key = fresh()
        wait_until(lambda: small.put(key, bytes(MIB)) == 0, "there is room")
    assert sum(small.batch_is_exist(group)) == 0, "the oldest has to go, and the others with it"
    small.remove_all(force=True)


def test_writers_at_the_brim_get_room_or_no_space(real, small):
    small.remove_all(force=True)
    codes, wrong = set(), []

    def write(number):
        for i in range(40):
            key, value = fresh(), pattern(700_000, number)
            code = small.put(key, value)
            codes.add(code)
            got = small.get(key)
            if got not in (b"", value):
                wrong.append(key)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes <= {0, -200} and 0 in codes and wrong == []
    assert time.monotonic() - begin < 60
    small.remove_all(force=True)


# ---- removal ----


def test_remove_all_counts_and_passes_leased_ones_over(real, small):
    small.remove_all(force=True)
    keys = [fresh() for _ in range(5)]
    assert small.put_batch(keys, [b"x"] * 5) == 0
    assert small.is_exist(keys[0]) == 1
    assert small.remove_all() == 4
    assert small.batch_is_exist(keys) == [1, 0, 0, 0, 0]
    assert small.remove_all(force=True) == 1


@pytest.mark.parametrize("pattern_text", ["(a+)+$", "(x*)*y", "(.*){30}z"])
def test_a_hard_expression_ends(real, small, pattern_text):
    key = "a" * 3000 + fresh()
    assert small.put(key, b"x") == 0
    begin = time.monotonic()
    assert small.remove_by_regex(pattern_text) in (-600, 0, 1)
    assert time.monotonic() - begin < 10
    small.remove_all(force=True)


# ---- keys and batches ----


def test_twenty_thousand_keys_are_asked_in_one_call(real, small):
    keys = [fresh() for _ in range(20_000)]
    assert small.put(keys[7], b"x") == 0
    answer = small.batch_is_exist(keys)
    assert len(answer) == 20_000 and sum(answer) == answer[7] == 1
    assert small.batch_is_exist([]) == []


@pytest.mark.parametrize("key", ["k" * 4096, "\x01\x02\xff", "schlüssel-鍵-🔑", "a/b:c@d#e?f=g&h", " ", "%s%n", "-"])
def test_odd_keys(real, small, key):
    assert small.put(key, b"value") == 0
    assert small.get(key) == b"value" and small.is_exist(key) == 1
    assert small.remove(key, force=True) == 0


@pytest.mark.parametrize("key", ["", "k" * 8193])
def test_keys_that_are_none(real, small, key):
    assert small.put(key, b"value") == -600
    assert small.is_exist(key) == -600 and small.get(key) == b"" and small.remove(key) == -600


# ---- tenants, health ----


def test_tenants_are_ignored_by_default(real, strict, small):
    other = new_store(real, strict, segment=0, tenant_id="another")
    key = fresh()
    assert small.put(key, b"x") == 0
    assert other.get(key) == b"x"
    other.close()


def test_health_follows_the_master(real, master_binary, tmp_path):
    master = Master(tmp_path)
    store = new_store(real, master)
    assert store.health_check() == 0
    assert master.stop() == 0
    wait_until(lambda: store.health_check() == 2, "the loss is noticed")
    assert store.put(fresh(), b"x") < 0 and store.get(fresh()) == b""
    assert store.close() == 0 and store.health_check() == 1


def test_the_accounts_agree_with_what_is_there(real, strict, small):
    small.remove_all(force=True)

    def metric(name):
        with urllib.request.urlopen(f"http://127.0.0.1:{strict.metrics_port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise AssertionError(f"{name} is not in /metrics")

    wait_until(lambda: metric("master_key_count") == 0 and metric("master_allocated_bytes") == 0, "all space has come back")
    keys = [fresh() for _ in range(10)]
    assert small.put_batch(keys, [bytes(1000)] * 10) == 0
    assert metric("master_key_count") == 10
    assert metric("master_allocated_bytes") == 10 * (64 + 1024), "a header, the value, in steps of 64 bytes"
    small.remove_all(force=True)
    wait_until(lambda: metric("master_allocated_bytes") == 0, "all space has come back")


def test_segments_are_listed(real, strict, small):
    with urllib.request.urlopen(f"http://127.0.0.1:{strict.metrics_port}/get_all_segments", timeout=5) as answer:
        text = answer.read().decode()
    assert small.get_hostname() in text or small.get_hostname() in json.dumps(text)
