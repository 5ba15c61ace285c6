"""Contract, row by row: names of clients, leases to the moment, pins that run out, strategies, which replica is read, clients that fall silent."""

import os
import signal
import time

import pytest
from contract_support import LEASE_S, MIB, Memory, fresh, inside_a_lease, new_store, pattern
from python_support import Master, wait_until


@pytest.fixture
def start_master(master_binary, tmp_path):
    masters = []

    def start(*flags):
        masters.append(Master(tmp_path, "--default_kv_lease_ttl=500", *flags))
        return masters[-1]

    yield start
    for one in masters:
        assert one.stop() == 0


def config_of(real, **values):
    config = real.ReplicateConfig()
    for name, value in values.items():
        setattr(config, name, value)
    return config


# ---- names of clients (section 5) ----

# given -> the name, "*" for a picked port
HOSTS = {
    "localhost": "localhost:*",
    "localhost:20011": "localhost:20011",
    "127.0.0.1": "127.0.0.1:*",
    "127.0.0.1:20012": "127.0.0.1:20012",
    "some-host.example:20013": "some-host.example:20013",
    "[::1]": "[::1]:*",
    "[::1]:20014": "[::1]:20014",
    "::1": "[::1]:*",
    "fe80::1%lo": "[fe80::1%lo]:*",
    "fe80::1%lo:20015": "[fe80::1%lo]:20015",
    "[fe80::1%lo]:20016": "[fe80::1%lo]:20016",
    "[fe80::1%lo]": "[fe80::1%lo]:*",
    "127.0.0.1:1": "127.0.0.1:1",
    "127.0.0.1:65535": "127.0.0.1:65535",
}


@pytest.mark.parametrize("central", [False, True], ids=["P2PHANDSHAKE", "http"])
def test_names_of_clients(real, master, central):
    """The name is what get_hostname, the list of segments and preferred_segment say; an endpoint is the same, but for a picked port in P2P mode."""
    metadata = master.metadata if central else "P2PHANDSHAKE"
    for given, expected in HOSTS.items():
        store = real.MooncakeDistributedStore()
        assert store.setup(given, metadata, 16 * MIB, MIB, "tcp", "", master.address) == 0, given
        name = store.get_hostname()
        host, port = expected.rsplit(":", 1)
        assert name.rsplit(":", 1)[0] == host and (port == "*" or name == expected), (given, name)
        assert port != "*" or 12300 <= int(name.rsplit(":", 1)[1]) <= 14300, (given, name)
        key = fresh()
        assert store.put(key, b"value", config_of(real, preferred_segment=name)) == 0
        (replica,) = store.get_replica_desc(key)
        endpoint = replica.get_memory_descriptor().buffer_descriptor.transport_endpoint
        assert endpoint == name if central or port != "*" else endpoint.rsplit(":", 1)[0] == host, (given, endpoint)
        assert store.get(key) == b"value"
        assert store.close() == 0, given


@pytest.mark.parametrize("given", ["", " ", "a b", "[::1", "::1]", "[::g]:80", "[::1]x", "a:b:c", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", ":80", "x" * 300])
def test_names_that_are_none(real, master, given):
    assert real.MooncakeDistributedStore().setup(given, "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", master.address) == -600


def test_two_clients_of_one_name_collide_only_in_the_central_mode(real, master):
    first = real.MooncakeDistributedStore()
    assert first.setup("127.0.0.1:20021", master.metadata, 16 * MIB, MIB, "tcp", "", master.address) == 0
    second = real.MooncakeDistributedStore()
    assert second.setup("127.0.0.1:20021", master.metadata, 16 * MIB, MIB, "tcp", "", master.address) == -600, "the record is there"
    assert first.close() == 0
    assert second.setup("127.0.0.1:20021", master.metadata, 16 * MIB, MIB, "tcp", "", master.address) == 0, "and deleted by close"
    third = real.MooncakeDistributedStore()
    assert third.setup("127.0.0.1:20021", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", master.address) == 0
    key = fresh()
    assert third.put(key, b"x", config_of(real, replica_num=2, preferred_segment="127.0.0.1:20021")) == 0
    names = [replica.segment_name for replica in third.get_replica_desc(key)]
    assert names.count("127.0.0.1:20021") == 1, "segments of one name count as one place"
    third.close()
    second.close()


def test_a_master_on_ipv6(real, master_binary, tmp_path):
    master = Master(tmp_path, "--rpc_address=::1")
    try:
        store = real.MooncakeDistributedStore()
        assert store.setup("[::1]", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", f"[::1]:{master.rpc_port}") == 0
        assert store.put("k", b"v") == 0 and store.get("k") == b"v"
        assert store.close() == 0
    finally:
        assert master.stop() == 0


# ---- leases ----


def test_a_lease_is_over_after_exactly_its_time(real, master):
    """Tests and engines sleep for the lease and then require remove() == 0: it counts from the query, and `now >= end` is over."""
    store = new_store(real, master)
    memory = Memory(5)
    reads = {
        "exist": lambda key: store.is_exist(key) == 1, "get": lambda key: store.get(key) == b"value", "size": lambda key: store.get_size(key) == 5,
        "into": lambda key: store.get_into(key, memory.ptr, 5) == 5, "buffer": lambda key: store.get_buffer(key).size() == 5,
        "desc": lambda key: len(store.get_replica_desc(key)) == 1,
    }

    def read_all():
        keys = {name: fresh(name) for name in reads}
        for key in keys.values():
            assert store.put(key, b"value") == 0
        for name, read in reads.items():
            assert read(keys[name])
        return keys

    keys, refused = inside_a_lease(read_all, lambda keys: [store.remove(key) for key in keys.values()])
    assert refused == [-706] * len(keys)
    time.sleep(LEASE_S)
    assert {name: store.remove(key) for name, key in keys.items()} == dict.fromkeys(keys, 0)
    store.close()


def test_a_lease_does_not_block_upserts_and_goes_on_with_the_new_value(real, master):
    store = new_store(real, master)
    for size in (5, 500):

        def upserted():
            key = fresh()
            assert store.put(key, b"value") == 0 and store.is_exist(key) == 1
            assert store.upsert(key, bytes(size)) == 0 and store.get_size(key) == size
            return key

        key, refused = inside_a_lease(upserted, lambda key: (store.remove(key), store.remove_by_regex(f"^{key}$"), store.batch_replica_clear([key])))
        assert refused == (-706, 0, [])
        assert store.remove(key, force=True) == 0
    store.close()


# ---- pins ----


def test_a_soft_pin_holds_for_its_time_from_the_first_readable_moment(real, start_master):
    master = start_master("--eviction_high_watermark_ratio=1")
    store = new_store(real, master, segment=16 * MIB, buffer=32 * MIB)
    short, long = fresh("short"), fresh("long")
    pin = real.SoftPinAction.ENABLE
    assert store.put(short, bytes(MIB), config_of(real, soft_pin_action=pin, soft_pin_ttl_ms=300)) == 0
    assert store.put(long, bytes(MIB), config_of(real, soft_pin_action=pin)) == 0
    began = time.monotonic()
    while time.monotonic() - began < 1.0:  # reads do not extend a pin; the last lease is over soon after
        store.get_batch([short, long])
        time.sleep(0.05)
    time.sleep(LEASE_S)
    for _ in range(30):
        wait_until(lambda: store.put(fresh(), bytes(MIB)) == 0, "there is room")
    assert store.batch_is_exist([short, long]) == [0, 1]
    store.close()


def test_soft_pins_are_never_evicted_when_the_master_says_so(real, start_master):
    master = start_master("--allow_evict_soft_pinned_objects=false", "--eviction_high_watermark_ratio=1", "--eviction_wait_ms=0")
    store = new_store(real, master, segment=16 * MIB, buffer=32 * MIB)
    pinned = config_of(real, with_soft_pin=True)
    keys = [fresh() for _ in range(14)]
    assert [store.put(key, bytes(MIB), pinned) for key in keys] == [0] * 14
    assert store.put(fresh(), bytes(4 * MIB)) == -200, "at once, as the flag says"
    assert store.batch_is_exist(keys) == [1] * 14
    store.close()


# ---- placement ----


def test_free_ratio_first_fills_evenly(real, start_master):
    master = start_master("--allocation_strategy=free_ratio_first")
    stores = [new_store(real, master, segment=32 * MIB) for _ in range(2)]
    keys = [fresh() for _ in range(20)]
    assert [stores[0].put(key, bytes(MIB)) for key in keys] == [0] * 20
    names = [stores[0].get_replica_desc(key)[0].segment_name for key in keys]
    assert sorted(names.count(store.get_hostname()) for store in stores) == [10, 10]
    for store in stores:
        store.close()


def test_local_first_puts_where_the_writer_is(real, start_master):
    master = start_master("--allocation_strategy=local_first")
    stores = [new_store(real, master, segment=32 * MIB) for _ in range(3)]
    for store in stores:
        keys = [fresh() for _ in range(5)]
        assert [store.put(key, bytes(1000)) for key in keys] == [0] * 5
        assert {store.get_replica_desc(key)[0].segment_name for key in keys} == {store.get_hostname()}
    for store in stores:
        store.close()


def test_random_uses_all_segments_and_falls_back_from_a_full_one(real, start_master):
    master = start_master("--eviction_high_watermark_ratio=1")
    small, large = new_store(real, master, segment=4 * MIB), new_store(real, master, segment=64 * MIB)
    wanted = config_of(real, preferred_segment=small.get_hostname())
    keys = [fresh() for _ in range(20)]
    assert [large.put(key, bytes(MIB), wanted) for key in keys] == [0] * 20, "a preferred one that is full is passed over"
    names = {large.get_replica_desc(key)[0].segment_name for key in keys if large.get_replica_desc(key)}
    assert names == {small.get_hostname(), large.get_hostname()}
    small.close()
    large.close()


# ---- which replica is read ----


def test_a_read_takes_the_nearest_replica(real, master, worker):
    """One's own segment, then one of this host, then over the network (here: a holder that offers no shared memory)."""
    far, near = worker({"MC_STORE_MEMCPY": "0"}), worker()
    for one in (far, near):
        assert one(f"connect({master.address!r})") == 0
    reader = new_store(real, master, segment=64 * MIB)
    names = {"far": far("store.get_hostname()"), "near": near("store.get_hostname()"), "own": reader.get_hostname()}
    ways = {"own": "bytes_own_read", "near": "bytes_same_host_read", "far": "bytes_fetched"}
    memory = Memory(100_000)
    for places in (("far", "near", "own"), ("far", "near"), ("far", "own"), ("far",)):
        key = fresh("-".join(places))
        config = config_of(real, replica_num=len(places), preferred_segments=[names[place] for place in places])
        assert reader.put(key, pattern(100_000), config) == 0
        assert {replica.segment_name for replica in reader.get_replica_desc(key)} == {names[place] for place in places}
        before = reader.counters()
        assert reader.get_into(key, memory.ptr, memory.size) == 100_000 and bytes(memory) == pattern(100_000)
        after = reader.counters()
        assert {way for way in ways.values() if after[way] > before[way]} == {ways[places[-1]]}, places
    reader.close()


# ---- clients that fall silent ----


def test_a_client_that_is_silent_for_its_time_is_dropped_and_mounts_anew(real, start_master, worker):
    master = start_master("--client_ttl=2")
    holder = worker()
    assert holder(f"connect({master.address!r})") == 0
    reader = new_store(real, master, segment=0)
    name, key = holder("store.get_hostname()"), fresh()
    assert holder(f"store.put({key!r}, b'value')") == 0 and reader.get(key) == b"value"

    def segments():
        import urllib.request
        with urllib.request.urlopen(f"http://127.0.0.1:{master.metrics_port}/get_all_segments", timeout=5) as answer:
            return answer.read().decode().split()

    os.kill(holder.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: segments() == [], "the segment is unmounted", 20)
        assert reader.is_exist(key) == 0 and reader.get(key) == b"" and reader.put(fresh(), b"x") == -200
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    wait_until(lambda: segments() == [name], "it mounts anew", 20)
    assert reader.is_exist(key) == 0, "new memory"
    new = fresh()
    wait_until(lambda: reader.put(new, b"other") == 0, "it is placed on again", 20)
    assert reader.get(new) == b"other" and holder(f"store.get({new!r})") == b"other"
    assert holder("store.health_check()") == 0
    reader.close()


def test_only_who_mounted_a_segment_unmounts_it_and_a_client_without_one_is_healthy(real, master):
    owner, other = new_store(real, master, segment=0), new_store(real, master, segment=0)
    assert owner.health_check() == 0 and other.health_check() == 0
    mounted = owner.allocate_and_mount_segment(16 * MIB)
    assert other.unmount_segment(mounted["segment_ids"]) == -101
    assert owner.unmount_segment(mounted["segment_ids"]) == 0
    owner.close()
    other.close()


# ---- options that ask for what is not here ----


@pytest.mark.parametrize("flag", ["--enable_multi_tenants=true", "--enable_ha=true", "--allocation_strategy=cxl", "--memory_allocator=other", "--put_start_discard_timeout_sec=600",
                                  "--eviction_ratio=2", "--default_kv_lease_ttl=-1", "--default_kv_soft_pin_ttl=2d"])
def test_flags_that_are_refused_end_the_master_with_a_word(master_binary, tmp_path, flag):
    import subprocess
    done = subprocess.run([str(master_binary), "--rpc_address=127.0.0.1", "--rpc_port=0", "--metrics_port=0", flag], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and flag.split("=")[0].strip("-") in done.stdout + done.stderr
