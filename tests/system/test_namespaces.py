"""Master, holder and reader on three machines, as far as the network can tell: all that joins them is the cables, and these are counted."""

import pytest

from tests.support.processes import MIB

pytestmark = pytest.mark.netns


@pytest.fixture
def cluster(networks, start_master, start_peer, scratch):
    """(master, holder, reader, the two networks of holder and reader)."""
    m, h, r = networks(3)
    env = {"MC_STORE_MEMCPY": "0"}
    master = start_master("--ipc_dir=none", host="0.0.0.0", prefix=m.prefix)
    holder = start_peer("holder", env=env | {"MC_STORE_IPC_DIR": str(scratch.folder("h"))}, prefix=h.prefix)
    reader = start_peer("reader", env=env | {"MC_STORE_IPC_DIR": str(scratch.folder("r"))}, prefix=r.prefix)
    holder.setup(f"{m.address_for(h)}:{master.rpc_port}", segment=600 * MIB, buffer=300 * MIB, host=h.address_for(r))
    reader.setup(f"{m.address_for(r)}:{master.rpc_port}", segment=0, buffer=300 * MIB, host=r.address_for(h))
    return master, holder, reader, h, r


def put_one(store, key, seed, size):
    import ctypes
    from tests.support.contents import pattern
    value = pattern(seed, size)
    source = ctypes.create_string_buffer(value, size)
    code = store.put(key, value)
    return code, store.put_from(key + "-from", ctypes.addressof(source), size)


def read_one(store, key, seed, size):
    import ctypes
    from tests.support.contents import pattern
    expected = pattern(seed, size)
    target = ctypes.create_string_buffer(size)
    return (store.get(key) == expected, store.get_into(key + "-from", ctypes.addressof(target), size), target.raw == expected)


def test_all_sizes_cross_the_cable_unchanged(cluster):
    _, holder, reader, h, r = cluster
    assert holder.call("put", "empty", b"") == -600, "an empty value is a documented error"
    assert reader.call("put", "empty", b"") == -600
    for seed, size in enumerate([1, 4096, MIB, 256 * MIB]):
        before = r.bytes_received(h), h.bytes_received(r)
        assert holder.run(put_one, f"h{seed}", seed, size) == (0, 0), size
        assert reader.run(read_one, f"h{seed}", seed, size) == (True, size, True), size
        assert r.bytes_received(h) - before[0] >= 2 * size, "the bytes did not come over the cable"
        assert holder.call("remove_all", True) == 2
        assert reader.run(put_one, f"r{seed}", seed + 100, size) == (0, 0), size
        assert holder.run(read_one, f"r{seed}", seed + 100, size) == (True, size, True), size
        assert h.bytes_received(r) - before[1] >= 2 * size
        assert reader.call("remove_all", True) == 2
    for peer in (holder, reader):
        counters = peer.counters()
        assert counters["bytes_fetched"] >= 512 * MIB, "everything is read over UCX"
        assert counters["bytes_stored"] >= 512 * MIB
        assert counters.get("bytes_same_host_read", 0) == counters.get("bytes_own_read", 0) == 0
        assert counters["crc_errors"] == 0


def test_batches_and_threads_over_the_cable(cluster):
    from test_two_processes import check_batches, check_threads, eight_threads, many_batches
    _, holder, reader, h, r = cluster
    counts = [1, 7, 128, 1024]
    before = r.bytes_received(h)
    assert holder.run(many_batches, counts, 2000, "b") == []
    assert reader.run(check_batches, counts, 2000, "b") == []
    assert r.bytes_received(h) - before > sum(counts) * 2000 * 3
    holder.start_run(eight_threads, 1, [2])
    reader.start_run(eight_threads, 2, [1])
    assert holder.result() == [] and reader.result() == []
    assert holder.run(check_threads, 2) == [] and reader.run(check_threads, 1) == []
