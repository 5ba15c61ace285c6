"""Contract: segments mounted and unmounted at run time, placement, groups, batch_replica_clear, memory of the host."""

import ctypes
import os
import threading

import pytest
from contract_support import MIB, fresh, inside_a_lease, new_store, pattern
from python_support import wait_until


@pytest.fixture
def pair(real, master):
    """Two stores with segments of their own."""
    stores = [new_store(real, master) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def segments_of(store, key):
    return [replica.segment_name for replica in store.get_replica_desc(key)]


def on(real, store, replicas=1, **keywords):
    config = real.ReplicateConfig()
    config.replica_num = replicas
    config.preferred_segment = store.get_hostname()
    for name, value in keywords.items():
        setattr(config, name, value)
    return config


# ---- mounted at run time ----


def test_memory_is_mounted_used_and_unmounted(real, master):
    holder = new_store(real, master, segment=0)
    other = new_store(real, master, segment=0)
    key, value = fresh(), pattern(3 * MIB)
    config = on(real, holder)
    mounted = holder.allocate_and_mount_segment(20 * MIB)
    assert mounted["ret"] == 0 and mounted["allocated_size"] == 32 * MIB
    assert len(mounted["segment_ids"]) == 1
    high, low = mounted["segment_ids"][0].split("-")
    assert 0 <= int(high) < 2**64 and 0 <= int(low) < 2**64
    assert other.put(key, value, config) == 0
    assert segments_of(other, key) == [holder.get_hostname()]
    assert other.get(key) == value
    view = other.get_buffer(key)
    assert holder.unmount_and_free_segment(mounted["segment_ids"]) == 0
    wait_until(lambda: other.is_exist(key) == 0, "what lay there is gone")
    assert bytes(view) == value, "a view outlives it"
    assert holder.unmount_and_free_segment(mounted["segment_ids"]) == -101
    other.close()
    holder.close()


def test_a_file_is_mounted_used_and_unmounted(real, master, tmp_path):
    store = new_store(real, master, segment=0)
    other = new_store(real, master, segment=0)
    path = tmp_path / "memory"
    path.write_bytes(b"\7" * (20 * MIB + 8192))
    mounted = store.mount_segment(str(path), 20 * MIB, 8192)
    assert mounted["ret"] == 0 and len(mounted["segment_ids"]) == 1 and set(mounted) == {"ret", "segment_ids"}
    key, value = fresh(), pattern(5 * MIB)
    assert other.put(key, value, on(real, store)) == 0 and segments_of(other, key) == [store.get_hostname()]
    path.write_bytes(b"")
    assert other.get(key) == value, "whatever becomes of the file"
    assert store.unmount_segment(mounted["segment_ids"]) == 0
    wait_until(lambda: other.is_exist(key) == 0, "what lay there is gone")
    other.close()
    store.close()


@pytest.mark.parametrize(
    "size, offset, protocol, code",
    [(MIB, 1, "tcp", -600), (3 * MIB, 0, "tcp", -600), (MIB, 2 * MIB, "tcp", -600), (0, 0, "tcp", -600), (2**63, 2**63, "tcp", -600), (MIB, 0, "rdma", -600)],
)
def test_a_file_that_does_not_hold_what_is_mounted_is_refused(real, master, tmp_path, size, offset, protocol, code):
    store = new_store(real, master, segment=0)
    path = tmp_path / "memory"
    path.write_bytes(b"\0" * (2 * MIB))
    assert store.mount_segment(str(path), size, offset, protocol) == {"ret": code, "segment_ids": []}
    assert store.mount_segment(str(tmp_path / "none"), MIB)["ret"] == -1100
    assert store.mount_segment(str(tmp_path), MIB)["ret"] in (-600, -1101), "a folder"
    store.close()


def test_several_segments_of_one_store_go_one_by_one(real, master):
    store = new_store(real, master, segment=16 * MIB)
    ids = [store.allocate_and_mount_segment(16 * MIB, "tcp", "cpu:0")["segment_ids"][0] for _ in range(3)]
    assert len(set(ids)) == 3
    config = on(real, store)
    keys = [fresh() for _ in range(40)]
    assert [store.put(key, pattern(MIB, 1), config) for key in keys] == [0] * 40, "more than the segment of setup has"
    assert store.unmount_segment(ids[:1]) == 0
    assert store.unmount_segment(ids) == -101, "one of them is gone: the others go all the same"
    assert store.unmount_segment(ids[1:]) == -101
    wait_until(lambda: sum(store.batch_is_exist(keys)) <= 16, "what lay in them is gone")
    for key in keys:
        assert store.get(key) in (b"", pattern(MIB, 1))
    store.close()


@pytest.mark.parametrize("segment_id", ["", "-", "1", "1-", "-1", "1-2", "x-y", "1-2-3", "99999999999999999999-1", "0-0"])
def test_foreign_ids_are_rejected(pair, segment_id):
    assert pair[0].unmount_and_free_segment([segment_id]) == -101


def test_another_store_cannot_unmount_mine(pair):
    mounted = pair[0].allocate_and_mount_segment(16 * MIB)
    assert pair[1].unmount_and_free_segment(mounted["segment_ids"]) == -101
    assert pair[0].unmount_and_free_segment(mounted["segment_ids"]) == 0


@pytest.mark.parametrize("size, protocol", [(0, "tcp"), (2**64 - 1, "tcp"), (1 << 50, "tcp"), (MIB, "rdma"), (MIB, "")])
def test_sizes_and_protocols_that_cannot_be(pair, size, protocol):
    assert pair[0].allocate_and_mount_segment(size, protocol) == {"ret": -600, "segment_ids": [], "allocated_size": 0}


def test_a_grace_period_takes_no_new_values(real, master, pair):
    holder = new_store(real, master, segment=0)
    mounted = holder.allocate_and_mount_segment(16 * MIB)
    key = fresh()
    assert pair[0].put(key, b"old", on(real, holder)) == 0
    assert segments_of(pair[0], key) == [holder.get_hostname()]
    assert holder.unmount_segment(mounted["segment_ids"], grace_period_seconds=1) == 0
    new = fresh()
    assert pair[0].put(new, b"new", on(real, holder)) == 0
    assert segments_of(pair[0], new) != [holder.get_hostname()]
    wait_until(lambda: pair[0].is_exist(key) == 0, "the period is over")
    assert holder.unmount_segment(mounted["segment_ids"]) == -101
    holder.close()


def test_threads_mount_and_unmount_beside_puts(real, master):
    store = new_store(real, master, segment=16 * MIB)
    wrong = []

    def mount():
        for _ in range(15):
            mounted = store.allocate_and_mount_segment(16 * MIB)
            if mounted["ret"] != 0 or store.unmount_segment(mounted["segment_ids"]) != 0:
                wrong.append(mounted)

    def put():
        for i in range(60):
            key, value = fresh(), pattern(100_000, i)
            code = store.put(key, value)
            if code not in (0, -200, -800) or store.get(key) not in (b"", value):
                wrong.append(code)

    threads = [threading.Thread(target=target) for target in (mount, mount, put, put)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.counters()["owner_segments"] == 1
    store.close()


def test_calls_of_what_is_not_here_say_so(pair):
    store = pair[0]
    assert store.setup_dummy(MIB, MIB, "127.0.0.1:1") == -900 and store.alloc_from_mem_pool(1) == 0
    assert store.health_check() == 0, "it did nothing to the store"
    assert store.get_offload_rpc_read_count() == 0
    assert store.unmount_local_disk_segment(5) == 0


# ---- batch_replica_clear ----


def test_replica_clear_gives_up_one_replica_or_all(real, pair):
    one, two = pair
    key, value = fresh(), pattern(1000)
    assert one.put(key, value, on(real, one, 2)) == 0
    names = {one.get_hostname(), two.get_hostname()}
    assert names == set(segments_of(one, key))
    wait_until(lambda: one.batch_replica_clear([key], one.get_hostname()) == [key], "the lease of the lookup is over")
    assert segments_of(one, key) == [two.get_hostname()]
    assert two.get(key) == value
    wait_until(lambda: one.batch_replica_clear([key]) == [key], "the lease is over")
    assert one.is_exist(key) == 0


def test_what_replica_clear_passes_over(real, pair):
    one, two = pair
    mine, theirs, leased, missing = fresh(), fresh(), fresh(), fresh()
    assert one.put(mine, b"1", on(real, one)) == 0
    assert two.put(theirs, b"2") == 0
    assert one.put(leased, b"3") == 0
    assert two.get(leased) == b"3"
    assert one.batch_replica_clear([mine, theirs, leased, missing, "", mine]) == [mine]
    assert two.is_exist(theirs) == 1 and two.is_exist(leased) == 1
    again = fresh()
    assert one.put(again, b"4", on(real, one)) == 0
    assert one.batch_replica_clear([again], two.get_hostname()) == []
    assert one.batch_replica_clear([again], "x" * 5000) == []
    assert one.batch_replica_clear([]) == []
    assert one.batch_replica_clear([again.encode()]) == [again.encode()], "keys come back as they were given"


# ---- placement ----


def test_same_node_places_on_this_host(real, master):
    far = new_store(real, master, segment=64 * MIB, name="localhost")
    near = new_store(real, master, segment=64 * MIB, name="127.0.0.1")
    memory = ctypes.create_string_buffer(b"x" * 4096, 4096)
    address = ctypes.addressof(memory)
    config = real.ReplicateConfig()
    config.prefer_alloc_in_same_node = True
    keys = [fresh() for _ in range(8)]
    assert near.batch_put_from_multi_buffers(keys, [[address]] * 8, [[4096]] * 8, config) == [0] * 8
    for key in keys:
        assert [name.rsplit(":", 1)[0] for name in segments_of(near, key)] == ["127.0.0.1"]
    assert near.put(fresh(), b"x", config) == -600
    assert near.put_from(fresh(), address, 10, config) == -600
    assert near.batch_put_from([fresh()], [address], [10], config) == [-600]
    assert near.batch_get_into_multi_buffers(keys[:1], [[address]], [[4096]], prefer_alloc_in_same_node=True) == [4096]
    near.close()
    far.close()


def test_a_read_of_one_member_leases_its_group(real, pair):
    store = pair[0]
    config = real.ReplicateConfig()
    group = fresh("group")

    def read_one():
        keys = [fresh() for _ in range(3)]
        config.group_ids = [group, group, ""]
        assert store.put_batch(keys, [b"1", b"2", b"3"], config) == 0
        assert store.is_exist(keys[0]) == 1
        return keys

    assert inside_a_lease(read_one, store.batch_remove)[1] == [-706, -706, 0]
    config.group_ids = [group]
    assert store.put_batch([fresh(), fresh()], [b"1", b"2"], config) == -600, "one group for each key"


# ---- memory of the host ----


def test_the_allocator_gives_memory_and_takes_only_its_own(real):
    allocator = real.MooncakeHostMemAllocator()
    address = allocator.alloc(3 * MIB)
    assert address % (2 * MIB) == 0
    ctypes.memset(address, 7, 3 * MIB)
    del allocator
    assert ctypes.string_at(address + 3 * MIB - 1, 1) == b"\7", "it outlives the object"
    allocator = real.MooncakeHostMemAllocator()
    assert allocator.free(address) == 0
    assert allocator.free(address) == -600
    mine = ctypes.create_string_buffer(8 * MIB)
    for wrong in (0, 1, 2 * MIB, 2**64 - 2 * MIB, (ctypes.addressof(mine) // (2 * MIB) + 2) * 2 * MIB):
        assert allocator.free(wrong) == -600
    assert allocator.alloc(0) == 0
    assert allocator.alloc(2**64 - 1) == 0
    for wrong in (-1, 1.5, "x", None, 2**64):
        with pytest.raises(TypeError):
            allocator.alloc(wrong)
        with pytest.raises(TypeError):
            allocator.free(wrong)


def test_allocated_memory_is_registered_and_read_into(real, pair):
    allocator = real.MooncakeHostMemAllocator()
    address = allocator.alloc(MIB)
    store, key = pair[0], fresh()
    assert store.register_buffer(address, MIB) == 0
    assert store.put(key, b"abc" * 1000) == 0
    assert store.get_into(key, address, MIB) == 3000
    assert ctypes.string_at(address, 3000) == b"abc" * 1000
    assert store.unregister_buffer(address) == 0
    assert allocator.free(address) == 0


def test_the_functions_for_pluggable_allocators_are_callable(real):
    alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)(real.get_alloc_func_addr())
    free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)(real.get_free_func_addr())
    memory = alloc(MIB, 0, None)
    ctypes.memset(memory, 1, MIB)
    free(memory, MIB, 0, None)
    assert alloc(0, 0, None) is None and alloc(-1, 0, None) is None
    free(None, 0, 0, None)


@pytest.mark.parametrize("node", [0, -1, 12345, 2**70])
def test_binding_to_a_node_never_fails(real, node):
    before, after = os.sched_getaffinity(0), []

    def bind():
        assert real.bind_to_numa_node(node) is None
        after.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=bind)
    thread.start()
    thread.join()
    assert after and after[0] and os.sched_getaffinity(0) == before, "only the thread that asks is bound"
    for wrong in (None, "0", 1.0):
        with pytest.raises(TypeError):
            real.bind_to_numa_node(wrong)
