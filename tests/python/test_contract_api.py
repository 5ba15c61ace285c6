"""Contract: enums, ReplicateConfig, handles, life cycle, data calls and upserts, on the real library and a real master (short leases)."""

import ctypes
import gc

import pytest
from contract_support import LEASE_S, MIB, Memory, found, fresh, inside_a_lease, new_store, pattern
from python_support import wait_until

# ---- enums ----

ENUMS = {
    "ObjectDataType": {
        "UNKNOWN": 0, "KVCACHE": 1, "TENSOR": 2, "WEIGHT": 3, "SAMPLE": 4, "ACTIVATION": 5, "GRADIENT": 6, "OPTIMIZER_STATE": 7,
        "METADATA": 8, "GENERAL": 9,
    },
    "SoftPinAction": {"PRESERVE": 0, "ENABLE": 1, "DISABLE": 2},
    "ReplicaStatus": {"UNDEFINED": 0, "INITIALIZED": 1, "PROCESSING": 2, "COMPLETE": 3, "REMOVED": 4, "FAILED": 5},
}


@pytest.mark.parametrize("name", ENUMS)
def test_enums_have_their_members(real, name):
    kind = getattr(real, name)
    assert {member: int(getattr(kind, member)) for member in ENUMS[name]} == ENUMS[name]


def test_enum_members_are_in_the_module_but_for_the_pin_actions(real):
    assert real.TENSOR == real.ObjectDataType.TENSOR
    assert real.COMPLETE == real.ReplicaStatus.COMPLETE
    assert not hasattr(real, "PRESERVE")


# ---- ReplicateConfig ----

DEFAULTS = {
    "replica_num": 1, "nof_replica_num": 0, "dfs_replica_num": 0, "soft_pin_ttl_ms": None, "with_hard_pin": False,
    "preferred_segments": [], "preferred_nof_segments": [], "preferred_segment": "", "prefer_alloc_in_same_node": False,
    "group_ids": None,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_config_defaults(real, name):
    assert getattr(real.ReplicateConfig(), name) == DEFAULTS[name]


def test_config_enums_and_the_alias_of_soft_pins(real):
    config = real.ReplicateConfig()
    assert config.soft_pin_action == real.SoftPinAction.PRESERVE and config.data_type == real.ObjectDataType.UNKNOWN
    config.with_soft_pin = True
    assert config.soft_pin_action == real.SoftPinAction.ENABLE
    config.with_soft_pin = False
    assert config.soft_pin_action == real.SoftPinAction.PRESERVE
    config.group_ids = ["a", ""]
    config.group_ids = None
    assert config.group_ids is None


@pytest.mark.parametrize("wrong", [-1, 1 << 64, "1", 1.5])
def test_a_soft_pin_ttl_that_is_none_is_a_type_error(real, wrong):
    with pytest.raises(TypeError):
        real.ReplicateConfig().soft_pin_ttl_ms = wrong


def test_config_as_text(real):
    assert str(real.ReplicateConfig()) == (
        "ReplicateConfig: { replica_num: 1, nof_replica_num: 0, dfs_replica_num: 0, soft_pin_action: PRESERVE, "
        "soft_pin_ttl_ms: default, with_hard_pin: 0, preferred_segments: [], preferred_nof_segments: [], "
        "prefer_alloc_in_same_node: 0, data_type: UNKNOWN }"
    )


# ---- one store for the data calls ----


@pytest.fixture(scope="module")
def store(real, master):
    store = new_store(real, master)
    yield store
    store.close()


@pytest.fixture
def memory(store):
    memory = Memory(MIB)
    assert store.register_buffer(memory.ptr, memory.size) == 0
    yield memory
    assert store.unregister_buffer(memory.ptr) == 0


# ---- life cycle ----


def test_setup_in_its_four_forms(real, master):
    positional = ("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address)
    names = ("local_hostname", "metadata_server", "global_segment_size", "local_buffer_size", "protocol", "rdma_devices", "master_server_addr")
    forms = [
        (positional, {}),
        (positional, {"tenant_id": "t", "enable_client_http_server": False, "client_http_port": 9300}),
        ((), dict(zip(names, positional))),
        (({**dict(zip(names, positional)), "global_segment_size": "16MB", "local_buffer_size": "16 MB"},), {}),
        (({"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "master_server_address": master.address, "device_name": ""},), {}),
    ]
    for arguments, keywords in forms:
        store = real.MooncakeDistributedStore()
        key = fresh()
        assert store.setup(*arguments, **keywords) == 0
        assert store.health_check() == 0
        assert store.put(key, b"value") == 0 and store.get(key) == b"value"
        assert store.close() == 0 and store.close() == 0
        assert store.health_check() == 1


def test_setup_needs_seven_arguments_and_names_what_it_does_not_know(real):
    with pytest.raises(TypeError):
        real.MooncakeDistributedStore().setup("127.0.0.1", "P2PHANDSHAKE")
    with pytest.raises(TypeError, match="no_such_option"):
        real.MooncakeDistributedStore().setup("a", "b", 1, 1, "tcp", "", "c", no_such_option=1)


@pytest.mark.parametrize("size", ["50", "1.5 GB", "4g", "16mb"])
def test_size_strings(real, master, size):
    store = real.MooncakeDistributedStore()
    config = {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "master_server_addr": master.address}
    expected = -600 if size == "50" else 0
    assert store.setup({**config, "global_segment_size": size}) == expected, "at least 1024 bytes"
    store.close()


@pytest.mark.parametrize("size", ["", "x", "-1", "4X", "1e", "4 G B", "nan", "50%"])
def test_size_strings_that_are_none(real, master, size):
    config = {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "master_server_addr": master.address}
    assert real.MooncakeDistributedStore().setup({**config, "global_segment_size": size}) == -600


def test_an_explicit_port_is_the_name_and_the_endpoint(real, master):
    store = real.MooncakeDistributedStore()
    assert store.setup("127.0.0.1:19999", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address) == 0
    assert store.get_hostname() == "127.0.0.1:19999"
    key = fresh()
    config = real.ReplicateConfig()
    config.preferred_segment = "127.0.0.1:19999"
    assert store.put(key, b"x", config) == 0
    (replica,) = store.get_replica_desc(key)
    descriptor = replica.get_memory_descriptor().buffer_descriptor
    assert (descriptor.transport_endpoint, descriptor.size) == ("127.0.0.1:19999", 1)
    assert replica.status == real.ReplicaStatus.COMPLETE and replica.is_memory_replica()
    assert not replica.is_disk_replica() and not replica.is_local_disk_replica()
    store.close()


def test_close_takes_the_segment_and_setup_works_again(real, master, store):
    other = new_store(real, master)
    key = fresh()
    config = real.ReplicateConfig()
    config.preferred_segment = other.get_hostname()
    assert other.put(key, b"x", config) == 0
    assert store.get(key) == b"x"
    assert other.close() == 0
    wait_until(lambda: store.is_exist(key) == 0, "it went with its segment")
    assert other.setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address) == 0
    assert other.get(key) == b""
    other.close()


def test_init_all_has_fixed_addresses_of_a_server_that_is_not_here(real):
    assert real.MooncakeDistributedStore().init_all("tcp", "", 16 * MIB) == -600


# ---- data calls ----


def test_put_and_get(store):
    key = fresh()
    assert store.put(key, b"value") == 0
    assert store.get(key) == b"value" and store.get_size(key) == 5
    assert store.is_exist(key) == 1 and store.batch_is_exist([key, fresh(), ""]) == [1, 0, -600]
    assert store.put(key, b"other") == 0
    assert store.get(key) == b"value", "a put of a key that is there keeps its value"


def test_misses(store, memory):
    key = fresh()
    assert store.get(key) == b"" and store.get_batch([key, key]) == [b"", b""]
    assert store.get_buffer(key) is None and store.batch_get_buffer([key]) == [None]
    assert store.get_size(key) == -704 and store.is_exist(key) == 0
    assert store.get_into(key, memory.ptr, memory.size) == -704
    assert store.batch_get_into([key], [memory.ptr], [memory.size]) == [-704]
    assert store.remove(key) == -704 and store.batch_remove([key]) == [-704]
    assert store.get_replica_desc(key) == [] and store.batch_get_replica_desc([key]) == {}


def test_values_of_any_buffer_are_stored_whole(store):
    array = (ctypes.c_double * 10)(*range(10))
    key = fresh()
    assert store.put(key, array) == 0
    assert store.get(key) == bytes(array) and len(bytes(array)) == 80
    strided = fresh()
    assert store.put(strided, memoryview(bytes(range(20)))[::3]) == 0
    assert store.get(strided) == bytes(range(20))[::3]


def test_empty_values(store, memory):
    key = fresh()
    assert store.put(key, b"") == -600
    assert store.put_parts(key) == 0 and store.put_parts(key, b"", b"") == 0
    assert store.put_from(key, memory.ptr, 0) == 0
    assert store.put_from_with_metadata(key, memory.ptr, memory.ptr, 0, 4) == 0
    assert store.upsert_parts(key) == 0 and store.upsert_from(key, memory.ptr, 0) == 0
    assert store.is_exist(key) == 0, "nothing was created"


def test_parts(store):
    key = fresh()
    assert store.put_parts(key, b"ab", bytearray(b"cd"), memoryview(b"ef")) == 0
    assert store.get(key) == b"abcdef"
    with pytest.raises(RuntimeError, match="parts must be 1-D bytes-like"):
        store.put_parts(fresh(), (ctypes.c_double * 2)())
    with pytest.raises(TypeError):
        store.put_parts(fresh(), b"a", confg=None)


def test_put_batch(store):
    keys = [fresh() for _ in range(3)]
    assert store.put(keys[1], b"old") == 0
    assert store.put_batch(keys, [b"1", b"2", b"3"]) == 0
    assert store.get_batch(keys) == [b"1", b"old", b"3"]
    assert store.put_batch(keys, [b"1"]) == -600
    twice = fresh()
    assert store.put_batch([twice, twice], [b"first", b"second"]) == 0
    assert store.get_batch([twice, twice]) == [b"first", b"first"]
    assert store.put_batch([fresh(), fresh()], [b"1", b""]) == -600
    assert store.get_batch([]) == [b""]


def test_values_larger_than_the_local_buffer_or_the_segment(real, master):
    donor = new_store(real, master, segment=16 * MIB)
    small = new_store(real, master, segment=0, buffer=MIB)
    big = Memory(2 * MIB)
    assert small.put(fresh(), bytes(2 * MIB)) == -600
    assert small.put_from(fresh(), big.ptr, big.size) == 0, "nothing is staged"
    huge = Memory(80 * MIB)
    config = real.ReplicateConfig()
    assert small.put_from(fresh(), huge.ptr, huge.size, config) == -200
    small.close()
    donor.close()
    none = new_store(real, master, segment=16 * MIB, buffer=0)
    assert none.put(fresh(), b"x") == -600
    none.close()


def test_registered_buffers(store):
    memory = Memory(8192)
    assert store.register_buffer(memory.ptr, memory.size) == 0
    assert store.register_buffer(memory.ptr + 100, 10) == -600, "overlaps"
    assert store.unregister_buffer(memory.ptr + 1) == -600, "not the base"
    assert store.unregister_buffer(memory.ptr) == 0 and store.unregister_buffer(memory.ptr) == -600
    assert store.register_buffer(0, 10) == -600 and store.register_buffer(memory.ptr, 0) == -600


def test_zero_copy_calls(store, memory):
    key, value = fresh(), pattern(5000)
    memory.array[:5000] = value
    assert store.put_from(key, memory.ptr, 5000) == 0
    assert store.get_into(key, memory.ptr + 10000, 4999) == -600
    assert store.get_into(key, memory.ptr + 10000, 6000) == 5000
    assert memory[10000:15000] == value
    keys = [fresh(), fresh()]
    assert store.batch_put_from(keys, [memory.ptr, memory.ptr + 1], [100, 200]) == [0, 0]
    assert store.batch_get_into(keys, [memory.ptr + 20000, memory.ptr + 30000], [100, 300]) == [100, 200]
    assert store.batch_get_into(keys + keys[:1], [memory.ptr + 40000, memory.ptr + 50000, memory.ptr + 60000], [300] * 3) == [100, 200, 100]
    assert memory[60000:60100] == memory[40000:40100] == value[:100]
    assert store.batch_put_from(keys, [memory.ptr], [1]) == [-600, -600]
    assert store.batch_get_into(keys, [memory.ptr], [1, 2]) == [-600, -600]
    assert store.batch_get_into([], [], []) == [] and store.batch_put_from([], [], []) == []


def test_multi_buffers(store, memory):
    keys = [fresh(), fresh()]
    memory.array[:300] = pattern(300)
    assert store.batch_put_from_multi_buffers(keys, [[memory.ptr, memory.ptr + 200], [memory.ptr + 5]], [[100, 50], [7]]) == [0, 0]
    assert store.get(keys[0]) == pattern(300)[:100] + pattern(300)[200:250]
    got = store.batch_get_into_multi_buffers(keys + [fresh()], [[memory.ptr + 1000, memory.ptr + 2000], [memory.ptr + 3000], [memory.ptr]],
                                             [[60, 90], [10], [1]])
    assert got == [150, 7, -704]
    assert memory[1000:1060] + memory[2000:2090] == store.get(keys[0])
    assert all(type(code) is int for code in got) and type(got) is list


def test_metadata_comes_first_and_errors_are_positive(store, memory):
    key = fresh()
    memory.array[:6] = b"datame"
    assert store.put_from_with_metadata(key, memory.ptr, memory.ptr + 4, 4, 2) == 0
    assert store.get(key) == b"medata"
    assert store.put_from_with_metadata("", memory.ptr, memory.ptr, 4, 2) == 600


def test_handles(store):
    key, value = fresh(), pattern(100_000)
    assert store.put(key, value) == 0
    handle = store.get_buffer(key)
    assert handle.size() == len(handle) == 100_000 and bytes(handle) == value
    view = memoryview(handle)
    assert (view.ndim, view.itemsize, view.strides, view.readonly) == (1, 1, (1,), True), "what lies on this host is shown itself"
    assert ctypes.string_at(handle.ptr(), 10) == value[:10]
    del handle
    gc.collect()
    assert bytes(view[:5]) == value[:5], "the view keeps it"
    handles = store.batch_get_buffer([key, fresh(), key])
    assert [h is not None for h in handles] == [True, False, True]


def test_remove_by_pattern_is_a_search(store):
    prefix = fresh("regex")
    keys = [f"{prefix}-{name}" for name in ("aa", "ab", "bb")]
    assert store.put_batch(keys, [b"x"] * 3) == 0
    assert store.remove_by_regex(f"{prefix}-a") == 2
    assert store.batch_is_exist(keys) == [0, 0, 1]
    assert store.remove_by_regex(f"^{prefix}-bb$", force=True) == 1
    assert store.remove_by_regex("(") == -600
    assert store.remove_by_regex(f"^{prefix}") == 0


# ---- upserts ----


def test_upsert_replaces_in_all_its_forms(store, memory):
    memory.array[:10] = b"0123456789"
    key = fresh()
    assert store.upsert(key, b"new") == 0 and store.get(key) == b"new", "missing: as put"
    assert store.upsert(key, b"two") == 0 and store.get(key) == b"two", "the same size, under a lease"
    assert store.upsert(key, b"longer value") == 0 and store.get(key) == b"longer value"
    assert store.upsert_parts(key, b"a", b"b") == 0 and store.get(key) == b"ab"
    assert store.upsert_batch([key], [b"batch"]) == 0 and store.get(key) == b"batch"
    assert store.upsert_from(key, memory.ptr, 4) == 0 and store.get(key) == b"0123"
    assert store.batch_upsert_from([key, key], [memory.ptr, memory.ptr + 5], [5, 5]) == [0, 0]
    assert store.get(key) == b"01234", "twice in one call: the first counts"
    assert store.upsert(key, b"") == -600 and store.get(key) == b"01234"


def test_another_client_may_upsert(real, master, store):
    other = new_store(real, master)
    key = fresh()
    assert store.put(key, b"mine") == 0
    assert other.upsert(key, b"theirs") == 0
    assert store.get(key) == b"theirs"
    assert store.remove(key, force=True) == 0
    other.close()


def test_a_handle_shows_its_value_after_an_upsert(store):
    key = fresh()
    assert store.put(key, b"old" * 1000) == 0
    handle = store.get_buffer(key)
    assert store.upsert(key, b"new" * 1000) == 0
    assert bytes(handle) == b"old" * 1000 and store.get(key) == b"new" * 1000


# ---- subclasses, the asynchronous wrapper ----


def test_the_asynchronous_wrapper(real, master):
    import asyncio

    from mooncake.async_store import MooncakeDistributedStoreAsync

    async def flow():
        store = MooncakeDistributedStoreAsync()
        assert await store.async_setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", master.address) == 0
        key = fresh()
        assert await store.async_put(key, b"x") == 0
        assert await store.async_get(key) == b"x"
        assert await store.async_batch_is_exist([key]) == [1]
        assert store.close() == 0

    asyncio.run(flow())


# ---- leases of the calls ----

GRANTING = {
    "is_exist": lambda store, key, memory: store.is_exist(key) == 1,
    "batch_is_exist": lambda store, key, memory: store.batch_is_exist([key]) == [1],
    "get": lambda store, key, memory: store.get(key) == b"value",
    "get_batch": lambda store, key, memory: store.get_batch([key]) == [b"value"],
    "get_buffer": lambda store, key, memory: store.get_buffer(key).size() == 5,
    "get_size": lambda store, key, memory: store.get_size(key) == 5,
    "get_into": lambda store, key, memory: store.get_into(key, memory.ptr, 5) == 5,
    "get_replica_desc": lambda store, key, memory: len(store.get_replica_desc(key)) == 1,
    "get_into_ranges": lambda store, key, memory: store.get_into_ranges([memory.ptr], [[key]], [[[0]]], [[[0]]], [[[1]]]) == [[[1]]],
}


@pytest.mark.parametrize("call", GRANTING)
def test_reads_grant_a_lease_that_blocks_removal(store, memory, call):
    def read():
        key = fresh()
        assert store.put(key, b"value") == 0
        assert GRANTING[call](store, key, memory)
        return key

    key, refused = inside_a_lease(read, lambda key: (store.remove(key), store.batch_remove([key]), store.remove_by_regex(f"^{key}$")))
    assert refused == (-706, [-706], 0)
    assert store.remove(key, force=True) == 0
    assert LEASE_S <= 0.5 and store.is_exist(key) == 0


def test_puts_grant_none_and_a_lease_ends(store):
    key = fresh()
    assert store.put(key, b"value") == 0 and store.remove(key) == 0
    assert store.put(key, b"value") == 0 and store.upsert(key, b"other") == 0 and store.remove(key) == 0
    key, refused = inside_a_lease(lambda: found(store), store.remove)
    assert refused == -706
    wait_until(lambda: store.remove(key) == 0, "the lease runs out", deadline_s=5)
