"""Contract: the calls of each inference engine's connector, in its order and forms, with what it requires of each answer."""

import ctypes
import inspect
import json
import threading
import urllib.request

import pytest
from contract_support import MIB, Memory, fresh, new_store, pattern
from python_support import run_python, wait_until


@pytest.fixture
def donor(real, master):
    """Another process's memory, as far as an engine can tell."""
    store = new_store(real, master, segment=64 * MIB)
    yield store
    store.close()


def setup_seven(real, master, segment, buffer=16 * MIB, **keywords):
    """Seven by position, as most engines do."""
    store = real.MooncakeDistributedStore()
    assert store.setup("127.0.0.1", "P2PHANDSHAKE", segment, buffer, "tcp", "", master.address, **keywords) == 0
    return store


def plain(values, count):
    """What the strictest of them ask: a list, of that length, of ints that are no bool."""
    assert type(values) is list and len(values) == count
    assert all(type(value) is int for value in values), values
    return values


def admin(master, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{master.metrics_port}{path}", timeout=5) as answer:
        return answer.read().decode()


# ---- vLLM ----


@pytest.mark.parametrize("grouped", [False, True])
def test_vllm_saves_and_loads_blocks(real, master, donor, grouped):
    """One registration of the whole KV; a lookup thread asks, a sending thread asks again and puts what is missing, receiving threads get fragments."""
    layers, block, blocks = 4, 16384, 12
    kv, other_kv = Memory(pattern(layers * block * blocks)), Memory(layers * block * blocks)
    store = setup_seven(real, master, 0, tenant_id="default")
    prefix = fresh("model@tp_rank:0@pcp0@dcp0@pp_rank:0@group:0@")
    keys = [f"{prefix}{n:064x}" for n in range(blocks)]
    assert store.register_buffer(kv.ptr, kv.size) == 0 and store.register_buffer(other_kv.ptr, other_kv.size) == 0
    config = real.ReplicateConfig()
    config.preferred_segment = donor.get_hostname()
    assert hasattr(real.ReplicateConfig, "group_ids") and hasattr(config, "group_ids"), "the engine looks for the feature so"

    def fragments(memory, indices):
        return [[memory.ptr + (layer * blocks + n) * block for layer in range(layers)] for n in indices], [[block] * layers for _ in indices]

    told = []

    def look_up():
        told.append(plain(store.batch_is_exist(keys), blocks))

    def save():
        missing = [n for n, code in enumerate(plain(store.batch_is_exist(keys), blocks)) if code != 1]
        pointers, sizes = fragments(kv, missing)
        if grouped:
            config.group_ids = [f"request-{n % 2}" for n in missing]
        told.append(plain(store.batch_put_from_multi_buffers([keys[n] for n in missing], pointers, sizes, config), len(missing)))

    def load():
        pointers, sizes = fragments(other_kv, range(blocks))
        told.append(plain(store.batch_get_into_multi_buffers(keys, pointers, sizes), blocks))

    for step in (look_up, save, look_up, load):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert told == [[0] * blocks, [0] * blocks, [1] * blocks, [layers * block] * blocks], "exists, puts, exists, the sum of the fragments"
    assert bytes(other_kv) == bytes(kv)
    tiers = store.batch_get_replica_desc([*keys, fresh()])
    assert type(tiers) is dict and set(tiers) == set(keys)
    for replicas in tiers.values():
        assert [replica.is_memory_replica() for replica in replicas] == [True]
        assert not replicas[0].is_disk_replica() and not replicas[0].is_local_disk_replica()
    assert store.remove_by_regex(f"^{prefix}", force=True) == blocks
    assert store.close() == 0
    assert bytes(kv) == pattern(kv.size), "what was saved from is as it was"


def test_vllm_takes_no_space_for_pressure_and_goes_on(real, master_binary, tmp_path):
    from python_support import Master
    master = Master(tmp_path, "--default_kv_lease_ttl=300000")
    store = setup_seven(real, master, 16 * MIB)
    source = Memory(pattern(MIB))
    keys = [fresh() for _ in range(24)]
    codes = plain(store.batch_put_from_multi_buffers(keys[:12], [[source.ptr]] * 12, [[MIB]] * 12, real.ReplicateConfig()), 12)
    assert codes == [0] * 12 and store.batch_is_exist(keys[:12]) == [1] * 12
    codes = plain(store.batch_put_from_multi_buffers(keys[12:], [[source.ptr]] * 12, [[MIB]] * 12, real.ReplicateConfig()), 12)
    assert set(codes) == {0, -200} and codes.count(-200) >= 8, "all that is there is leased"
    assert plain(store.batch_is_exist(keys[12:]), 12) == [1 if code == 0 else 0 for code in codes], "what failed left nothing"
    assert store.remove_all(force=True) == 12 + codes.count(0), "reset_cache"
    wait_until(lambda: store.batch_put_from_multi_buffers(keys[12:], [[source.ptr]] * 12, [[MIB]] * 12) == [0] * 12, "the space is back")
    assert store.close() == 0
    assert master.stop() == 0


def test_vllm_encoder_cache_registers_around_every_call(real, master, donor):
    store = setup_seven(real, master, 0)
    config = real.ReplicateConfig()
    config.data_type = real.ObjectDataType.TENSOR
    for n in range(5):
        source, target = Memory(pattern(50_000, n)), Memory(50_000)
        key = fresh("ec")
        assert store.register_buffer(source.ptr, source.size) == 0
        assert plain(store.batch_put_from_multi_buffers([key], [[source.ptr]], [[source.size]], config), 1) == [0]
        assert store.unregister_buffer(source.ptr) == 0
        assert plain(store.batch_is_exist([key]), 1) == [1]
        assert store.register_buffer(target.ptr, target.size) == 0
        assert plain(store.batch_get_into_multi_buffers([key], [[target.ptr]], [[target.size]]), 1) == [50_000]
        assert store.unregister_buffer(target.ptr, target.size) == 0, "the other one gives the size, too"
        assert bytes(target) == bytes(source)
    keys = [fresh(), fresh()]
    assert store.put_batch(keys, [b"one", b"two"], config) == 0 and store.get_batch(keys) == [b"one", b"two"]
    assert store.close() == 0


# ---- SGLang ----


def test_sglang_hicache(real, master):
    """Eight positionals; optional keywords are dropped by the name in the error and tried again; no close: the destructor takes the segment back."""
    store = real.MooncakeDistributedStore()
    extras = {"enable_ssd_offload": False, "ssd_offload_path": "", "tenant_id": "default", "enable_client_http_server": False, "client_http_port": 9300}
    with pytest.raises(TypeError) as caught:
        store.setup("127.0.0.1", "P2PHANDSHAKE", 64 * MIB, 16777216, "tcp", "", master.address, None, **extras, an_option_of_tomorrow=1)
    assert [name for name in [*extras, "an_option_of_tomorrow"] if name in str(caught.value)] == ["an_option_of_tomorrow"]
    assert not store.setup("127.0.0.1", "P2PHANDSHAKE", 64 * MIB, 16777216, "tcp", "", master.address, None, **extras)
    wait_until(lambda: store.get_hostname() in admin(master, "/get_all_segments"), "check_server sees the segment")
    warm_up = fresh("sglang_mooncake_store_warmup_key")
    assert store.put(warm_up, bytes(4096)) == 0 and store.is_exist(warm_up) == 1 and store.get(warm_up) == bytes(4096)
    page = 64 * 1024
    pools = [Memory(pattern(page * 64, n)) for n in range(2)]  # K and V
    targets = [Memory(page * 64) for _ in range(2)]
    for memory in (*pools, *targets):
        assert store.register_buffer(memory.ptr, memory.size) == 0
    tag = fresh("page")
    keys = [f"{tag}{n:064x}_0_{kind}" for n in range(64) for kind in "kv"]
    config = real.ReplicateConfig()
    config.group_ids = [f"sglang-hicache:{key}" for key in keys]

    def pointers(memories):
        return [memories[i % 2].ptr + i // 2 * page for i in range(128)]

    found = []

    def backup():
        missing = [i for i, code in enumerate(plain(store.batch_is_exist(keys), 128)) if code != 1]
        found.append(len(missing))
        found.append(plain(store.batch_put_from([keys[i] for i in missing], [pointers(pools)[i] for i in missing], [page] * len(missing)), len(missing)))

    def prefetch():
        if all(code == 1 for code in store.batch_is_exist(keys)):
            found.append(plain(store.batch_get_into(keys, pointers(targets), [page] * 128), 128))

    for step in (backup, prefetch, backup):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert found == [128, [0] * 128, [page] * 128, 0, []], "a put is only right when 0, a get when > 0"
    assert [bytes(memory) for memory in targets] == [bytes(memory) for memory in pools]
    assert store.batch_put_from([fresh() for _ in keys], pointers(pools), [page] * 128, config) == [0] * 128
    assert store.remove_all() >= 0, "what is leased stays"
    name = store.get_hostname()
    del store
    wait_until(lambda: name not in admin(master, "/get_all_segments"), "the segment went with the object")


def test_sglang_standalone_mode_gets_a_code(real):
    allocator = real.MooncakeHostMemAllocator()
    pool = allocator.alloc(4 * MIB)
    store = real.MooncakeDistributedStore()
    assert store.setup_dummy(4 * MIB, 16777216, "127.0.0.1:1") < 0, "truthy: the engine gives up with a message"
    assert allocator.free(pool) == 0


# ---- LMCache ----


def test_lmcache(real, master, donor):
    """setup(dict of str) in both spellings, one lookup a key on the loop's thread, handles to memoryview, transfers on other threads."""
    import asyncio

    names = {"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "global_segment_size": "33554432", "local_buffer_size": "33554432",
             "protocol": "tcp", "device_name": "", "rdma_devices": "", "master_server_address": master.address, "master_server_addr": master.address,
             "transfer_timeout": "1", "save_chunk_meta": "False"}
    store = real.MooncakeDistributedStore()
    assert store.setup(names) == 0
    pool = Memory(8 * MIB)
    assert store.register_buffer(pool.ptr, pool.size) == 0
    config = real.ReplicateConfig()
    config.replica_num = 1
    config.preferred_segment = store.get_hostname()
    meta = bytes(range(28))
    keys = [fresh("vllm@model@1@0@") for _ in range(10)]
    chunk = 200_000

    async def flow():
        assert [store.is_exist(key) for key in keys] == [0] * 10
        for n, key in enumerate(keys[:5]):
            assert await asyncio.to_thread(store.put_parts, key, meta, memoryview(pattern(chunk, n))) == 0
        assert await asyncio.to_thread(store.put_parts, keys[5], meta, memoryview(pattern(chunk, 5)), config=config) == 0
        pool.array[:chunk] = pattern(chunk, 6)
        assert await asyncio.to_thread(store.put_from, keys[6], pool.ptr, chunk, config) == 0
        assert plain(await asyncio.to_thread(store.batch_put_from, keys[7:], [pool.ptr] * 3, [chunk] * 3, config), 3) == [0] * 3
        assert plain(await asyncio.to_thread(store.batch_is_exist, keys), 10) == [1] * 10
        handles = await asyncio.to_thread(store.batch_get_buffer, [*keys[:6], fresh()])
        assert handles[6] is None
        for n, handle in enumerate(handles[:6]):
            view = memoryview(handle)
            assert bytes(view[:28]) == meta and bytes(view[28:]) == pattern(chunk, n)
        at = [pool.ptr + (1 + n) * chunk for n in range(4)]
        assert plain(await asyncio.to_thread(store.batch_get_into, keys[6:], at, [chunk] * 4), 4) == [chunk] * 4
        assert all(pool[(1 + n) * chunk : (2 + n) * chunk] == pattern(chunk, 6) for n in range(4))
        assert store.unregister_buffer(pool.ptr) == 0
        assert store.close() == 0

    asyncio.run(flow())


def test_lmcache_lookup_client_has_no_segment(real, master, donor):
    store = setup_seven(real, master, 0, 16 * MIB)
    key = fresh()
    assert not store.is_exist(key), "read as a truth value: a negative code would mean that it is there"
    assert donor.put(key, b"x") == 0
    assert store.is_exist(key)
    store.close()
    assert not real.MooncakeDistributedStore().get(key)


# ---- vllm-ascend ----


def test_ascend_sets_up_by_keywords_and_looks_for_its_option(real, master, donor):
    setup = real.MooncakeDistributedStore.setup
    try:
        named = "enable_ssd_offload" in inspect.signature(setup).parameters
    except ValueError:
        named = False
    assert named or "enable_ssd_offload" in setup.__doc__
    store = real.MooncakeDistributedStore()
    assert store.setup(local_hostname="127.0.0.1:15555", metadata_server="P2PHANDSHAKE", global_segment_size=16 * MIB, local_buffer_size=0, protocol="tcp",
                       rdma_devices="", master_server_addr=master.address, engine=object(), enable_ssd_offload=False, ssd_offload_path="") == 0
    source, target, key = Memory(pattern(3000)), Memory(3000), fresh()
    config = real.ReplicateConfig()
    config.prefer_alloc_in_same_node = True
    config.preferred_segment = "127.0.0.1:15555"
    parts = [[source.ptr, source.ptr + 1000]], [[1000, 2000]]
    assert store.batch_put_from_multi_buffers([key], *parts, config) == [0], "no local buffer is needed"
    assert store.batch_get_into_multi_buffers([key], [[target.ptr, target.ptr + 5]], [[5, 2995]], True) == [3000]
    assert bytes(target) == bytes(source)
    assert store.close() == 0


# ---- TensorRT-LLM, LMDeploy ----


def test_tensorrt_llm_registers_ranges_and_a_donor_leaves_by_del(real, master):
    donor = setup_seven(real, master, 32 * MIB, 64 * MIB)
    store = setup_seven(real, master, 0)
    staging = Memory(pattern(4 * MIB))
    step = staging.size // 64
    for n in range(64):
        assert store.register_buffer(staging.ptr + n * step, step) == 0
    keys = [f"ns/model/w8r3/lg0/t32b{step}/{fresh()}" for _ in range(64)]
    rows, sizes = [[staging.ptr + n * step] for n in range(64)], [[step]] * 64
    assert plain(store.batch_is_exist(keys), 64) == [0] * 64
    assert plain(store.batch_put_from_multi_buffers(keys, rows, sizes), 64) == [0] * 64
    target = Memory(4 * MIB)
    rows = [[target.ptr + n * step] for n in range(64)]
    assert plain(store.batch_get_into_multi_buffers(keys, rows, sizes), 64) == [step] * 64
    assert bytes(target) == bytes(staging)
    for n in range(64):
        assert store.unregister_buffer(staging.ptr + n * step) == 0
    name = donor.get_hostname()
    del donor
    wait_until(lambda: name not in admin(master, "/get_all_segments"), "its memory is withdrawn")
    assert store.close() == 0


def test_lmdeploy_takes_nothing_but_0_and_1_for_an_existence(real, master, donor):
    store = setup_seven(real, master, 16 * MIB)
    rows = [Memory(pattern(4096, n)) for n in range(33)]
    for row in rows:
        assert store.register_buffer(row.ptr, row.size) == 0
    keys = [fresh("model@tp_rank:0@group:0@") for _ in rows]
    assert set(plain(store.batch_is_exist(keys), 33)) == {0}
    assert plain(store.batch_put_from_multi_buffers(keys, [[row.ptr] for row in rows], [[4096]] * 33, real.ReplicateConfig()), 33) == [0] * 33
    assert set(plain(store.batch_is_exist(keys), 33)) == {1}
    missing = fresh()
    results = plain(store.batch_get_into_multi_buffers([keys[0], missing], [[rows[1].ptr], [rows[2].ptr]], [[4096], [4096]]), 2)
    assert results[0] == 4096 and results[1] < 0 and bytes(rows[2]) == pattern(4096, 2), "a failed block is not written"
    assert store.close() in (0, None)


# ---- FlexKV, FastDeploy, UCM ----


def test_flexkv_asks_with_a_client_without_data_plane(real, master, donor):
    query = real.MooncakeDistributedStore()
    assert query.setup("127.0.0.1", "P2PHANDSHAKE", 0, 0, "rpc_only", "", master.address) == 0
    worker = setup_seven(real, master, 0)
    memory, keys = Memory(pattern(8 * 1000)), [f"{fresh()}_FlexKV" for _ in range(8)]
    assert worker.register_buffer(memory.ptr, memory.size) == 0
    pointers = [memory.ptr + n * 1000 for n in range(8)]
    assert plain(query.batch_is_exist(keys), 8) == [0] * 8
    assert plain(worker.batch_put_from(keys, pointers, [1000] * 8), 8) == [0] * 8
    assert plain(query.batch_is_exist(keys), 8) == [1] * 8
    assert query.put(keys[0] + "x", b"v") == -600, "it has no buffer to put from"
    assert all(count > 0 for count in plain(worker.batch_get_into(keys, pointers, [1000] * 8), 8))
    assert worker.unregister_buffer(memory.ptr) == 0
    assert query.close() == 0 and worker.close() == 0


def test_flexkv_sets_up_in_the_worker_after_the_fork(real, master):
    script = f"""
import os
from mooncake.store import MooncakeDistributedStore, ReplicateConfig
child = os.fork()
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 16 << 20, 1 << 20, "tcp", "", {master.address!r}) == 0
key, config = f"fork-{{os.getpid()}}", ReplicateConfig()
config.preferred_segment = store.get_hostname()  # the other one leaves when it likes
assert store.put(key, b"v", config) == 0 and store.get(key) == b"v"
assert store.close() == 0
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""
    run_python(script, package="real")


def test_fastdeploy_and_ucm_warm_up_and_put_again(real, master):
    store = setup_seven(real, master, 32 * MIB, 128 * MIB)
    key = fresh("warmup")
    assert store.put(key, bytes(MIB)) == 0
    assert store.is_exist(key) == 1 and store.get(key) == bytes(MIB)
    wait_until(lambda: store.remove(key) == 0, "the lease of the read is over")
    assert store.put(key, b"safetensors") == 0 and store.put(key, b"safetensors") == 0, "put again is no error"
    assert store.close() == 0


# ---- training ----


def test_specforge_removes_by_force_and_pins(real, master):
    store = real.MooncakeDistributedStore()
    assert store.setup(local_hostname="127.0.0.1", metadata_server="P2PHANDSHAKE", global_segment_size=32 * MIB, local_buffer_size=16 * MIB, protocol="tcp",
                       rdma_devices="", master_server_addr=master.address) == 0
    config = real.ReplicateConfig()
    config.replica_num, config.with_hard_pin, config.with_soft_pin = 1, True, True
    memory, key = Memory(pattern(20_000)), fresh()
    assert store.register_buffer(memory.ptr, memory.size) == 0
    assert store.put_from(key, memory.ptr, 20_000, config) == 0
    assert store.unregister_buffer(memory.ptr) == 0
    target = Memory(20_000)
    assert store.register_buffer(target.ptr, target.size) == 0
    assert store.get_into(key, target.ptr, 20_000) == 20_000 and bytes(target) == bytes(memory)
    assert store.unregister_buffer(target.ptr) == 0
    assert store.remove(key, force=True) == 0
    store.close()


def test_transferqueue_upserts_from_many_registrations_and_threads(real, master, donor):
    store = setup_seven(real, master, 0)
    config = real.ReplicateConfig(with_hard_pin=True)
    wrong = []

    def work(number):
        memories = [Memory(pattern(256 + n, number)) for n in range(50)]
        keys = [fresh(f"tq{number}") for _ in memories]
        for memory in memories:
            if store.register_buffer(memory.ptr, memory.size) != 0:
                wrong.append("register")
        pointers, sizes = [memory.ptr for memory in memories], [memory.size for memory in memories]
        for _ in range(2):
            wrong.extend(code for code in plain(store.batch_upsert_from(keys, pointers, sizes, config=config), 50) if code != 0)
        targets = [Memory(memory.size) for memory in memories]
        if store.batch_get_into(keys, [target.ptr for target in targets], sizes) != sizes or [bytes(t) for t in targets] != [bytes(m) for m in memories]:
            wrong.append("read")
        for memory in memories:
            if store.unregister_buffer(memory.ptr) != 0:
                wrong.append("unregister")
        wrong.extend(code for code in plain(store.batch_remove(keys, force=True), 50) if code not in (0, -704))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.close() == 0


def test_tokenspeed_exports_batches_and_makes_room_itself(real, master_binary, tmp_path):
    from python_support import Master
    master = Master(tmp_path, "--default_kv_lease_ttl=300000")
    store = setup_seven(real, master, 8 * MIB)
    keys = [fresh() for _ in range(6)]
    assert store.put_batch(keys, [bytes(MIB)] * 6) in (0, None)
    assert store.batch_is_exist(keys) == [1] * 6
    more = [fresh() for _ in range(4)]
    assert store.put_batch(more, [bytes(MIB)] * 4) == -200
    assert plain(store.batch_remove(keys, force=True), 6) == [0] * 6
    wait_until(lambda: store.put_batch(more, [bytes(MIB)] * 4) == 0, "tried again until it fits")
    store.close()
    assert master.stop() == 0


def test_torchspec_reads_handles_after_batches(real, master):
    store = setup_seven(real, master, 32 * MIB)
    memory, keys = Memory(pattern(40_000)), [fresh(), fresh()]
    assert store.register_buffer(memory.ptr, memory.size) == 0
    assert store.batch_put_from(keys, [memory.ptr, memory.ptr + 20_000], [20_000] * 2) == [0, 0]
    assert b"".join(map(bytes, store.batch_get_buffer(keys))) == bytes(memory)
    assert store.is_exist(keys[0]) == 1 and store.remove(fresh()) == -704
    store.close()


# ---- stage connectors ----


def test_vllm_omni_polls_until_the_value_is_there(real, master):
    sender = real.MooncakeDistributedStore()
    assert sender.setup("127.0.0.1", master.metadata, 64 * MIB, 16 * MIB, "tcp", "", master.address) == 0
    receiver = real.MooncakeDistributedStore()
    assert receiver.setup("127.0.0.1", master.metadata, 64 * MIB, 16 * MIB, "tcp", "", master.address) == 0
    key, value = fresh("req/stage0_1"), pattern(100_000)
    assert not receiver.get(key), "falsy: not there yet"
    config = real.ReplicateConfig()
    config.with_soft_pin = True
    assert sender.put(key, value, config) == 0
    assert receiver.get(key) == value
    sender.close()
    receiver.close()


# ---- how they start and watch the master ----


def test_flags_and_queries_of_the_launchers(real, master_binary, tmp_path):
    from python_support import Master
    flags = ("--enable_metric_reporting=false", "-v=1", "--logtostderr=1", "--minloglevel=0", "--default_kv_lease_ttl=500ms", "--eviction_ratio", "0.05",
             "-eviction_high_watermark_ratio=0.95", "--max_threads=2", "--cluster_id=c", "--enable_offload=false", "--client_ttl", "10")
    master = Master(tmp_path, *flags)
    store = setup_seven(real, master, 16 * MIB)
    key = fresh()
    assert store.put(key, b"x" * 100) == 0
    (replica,) = store.get_replica_desc(key)
    assert replica.status == real.ReplicaStatus.COMPLETE and replica.is_memory_replica() and not replica.is_local_disk_replica()
    assert admin(master, "/get_all_keys").split() == [key]
    assert admin(master, "/get_all_segments").split() == [store.get_hostname()]
    assert json.loads(admin(master, "/health"))["status"] == "ok"
    assert "master_key_count 1" in admin(master, "/metrics")
    assert store.remove(key, force=True) == 0
    store.close()
    assert master.stop() == 0


def test_addresses_are_only_read_by_a_save(real, master, donor):
    """Memory of a model that is mapped read-only is saved from; nothing is read into it."""
    import mmap
    store = setup_seven(real, master, 0)
    area = mmap.mmap(-1, 8192)
    area.write(pattern(8192))
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(8192), 1) == 0
    key = fresh()
    assert store.put_from(key, base, 8192) == 0 and store.get(key) == pattern(8192)
    assert store.get_into(key, base, 8192) == -600
    assert libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(8192), 3) == 0
    store.close()
