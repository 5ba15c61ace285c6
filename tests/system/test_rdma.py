"""Protocol rdma, processes with registered buffers: on this machine's devices where it has some, else over UCX's emulation on TCP."""

import pytest

from tests.support.processes import MIB, ROOT, PeerDied, find_build_dir, rdma_env
from tests.support.waiting import TIME_FACTOR, Stopwatch, wait_until

ENV = rdma_env()
SHORT = ENV | {"MC_TRANSFER_TIMEOUT": str(int(TIME_FACTOR))}


def exchange(store, prefix, sizes, patience=20):
    """Puts from and gets into registered memory; what is wrong, and how many bytes devices moved. `patience`: seconds until it must be registered."""
    import ctypes
    import mmap
    import time
    from tests.support.contents import there_and_back, unlike
    room = sum(sizes) + (1 << 16)
    memory = mmap.mmap(-1, 2 * room)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert store.register_buffer(base, 2 * room) == 0
    assert store.put_from(f"{prefix}-first", base, 1 << 20) == 0
    before = store.counters()["transport_rdma_bytes"]
    deadline = time.monotonic() + patience
    while store.counters()["transport_rdma_bytes"] == before and time.monotonic() < deadline:  # registered in the background
        assert store.get_into(f"{prefix}-first", base, 1 << 20) == 1 << 20
    before = store.counters()["transport_rdma_bytes"]

    def write(at, data):
        memory[at:at + len(data)] = data

    keys, to, wrong = there_and_back(store, prefix, sizes, base, room, write)
    wrong += unlike(store, keys, to, sizes, lambda at, size: memory[at - base:at - base + size])
    moved = store.counters()["transport_rdma_bytes"] - before
    assert store.unregister_buffer(base) == 0
    return wrong, moved


def test_registered_memory_is_moved_and_not_copied(start_master, start_peer):
    master = start_master()
    holder = start_peer("holder", env=ENV).setup(master, segment=200 * MIB)
    user = start_peer("user", env=ENV).setup(master, segment=0)
    sizes = [1, 4096, 16384, 65536, MIB - 1, MIB, MIB + 1, 5 * MIB + 77, 30 * MIB]
    wrong, moved = user.run(exchange, "k", sizes, 20, timeout=200)
    assert wrong == []
    large = sum(size - size % MIB for size in sizes)
    assert 2 * large <= moved <= 3 * sum(sizes), "both ways, and gets of copies where their memory is registered by then"
    assert holder.counters()["transport_rdma_bytes"] >= moved


def test_with_a_peer_of_tcp_everything_goes_by_messages(start_master, start_peer):
    master = start_master()
    start_peer("holder", env={name: value for name, value in ENV.items() if name != "MC_STORE_RDMA_TRANSPORTS"}).setup(master)
    user = start_peer("user", env=ENV).setup(master, segment=0)
    wrong, moved = user.run(exchange, "k", [4096, 5 * MIB + 77], 1)
    assert (wrong, moved) == ([], 0)


def arm(store, key, size):
    """A registered buffer, filled with what nobody stores, that a get of it has used once."""
    import ctypes
    import mmap
    import time
    global memory, base
    memory = mmap.mmap(-1, size)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert store.register_buffer(base, size) == 0
    before = store.counters()["transport_rdma_bytes"]
    deadline = time.monotonic() + 20
    while store.counters()["transport_rdma_bytes"] == before and time.monotonic() < deadline:
        assert store.get_into(key, base, size) == size
    ctypes.memset(base, 0xEE, size)
    import builtins
    builtins.armed = (memory, base)
    return store.counters()["transport_rdma_bytes"] - before


def get_armed(store, key, size):
    import builtins
    return store.get_into(key, builtins.armed[1], size)


def count_changed(store):
    import builtins
    memory = builtins.armed[0]
    return len(memory) - memory[:].count(b"\xee")


@pytest.mark.soak
def test_a_holder_that_wakes_after_the_deadline_writes_nothing(start_master, start_peer):
    master = start_master("--client_ttl=30", "--default_kv_lease_ttl=20000")
    holder = start_peer("holder", env=SHORT).setup(master, segment=256 * MIB)
    size = (64 if ENV["MC_STORE_RDMA_TRANSPORTS"] == "tcp" else 16) * MIB  # a device in software is slow
    user = start_peer("user", env=SHORT).setup(master, segment=0, buffer=2 * size)
    assert user.call("put", "k", b"\x11" * size, timeout=120) == 0
    assert user.run(arm, "k", size, timeout=120) > 0
    for _ in range(4):
        user.start_run(get_armed, "k", size)
        holder.freeze()
        with Stopwatch() as watch:
            code = user.result(60)
        assert watch.seconds < 10 * TIME_FACTOR
        changed = user.run(count_changed)
        assert code in (size, -800), code
        holder.thaw()
        wait_until(lambda: user.call("get", "k", timeout=60) == b"\x11" * size, "the holder serves again", 60)
        assert user.run(count_changed) == changed, "memory of a call that had ended was written to"


def test_a_holder_that_dies_in_the_middle_is_noticed(start_master, start_peer):
    master = start_master("--client_ttl=10", "--default_kv_lease_ttl=20000")
    size = (64 if ENV["MC_STORE_RDMA_TRANSPORTS"] == "tcp" else 16) * MIB
    user = start_peer("user", env=ENV | {"MC_TRANSFER_TIMEOUT": "60"}).setup(master, segment=0, buffer=2 * size)
    holder = start_peer("holder", env=ENV).setup(master, segment=256 * MIB)
    assert user.call("put", "k", b"\x11" * size, timeout=120) == 0
    assert user.run(arm, "k", size, timeout=120) > 0
    user.start_run(get_armed, "k", size)
    holder.kill()
    with Stopwatch() as watch:
        code = user.result(120)
    assert code == size or code < 0
    assert watch.seconds < 6 * TIME_FACTOR, "not by the transfer's deadline"
    assert user.run(get_armed, "k", size) < 0


def test_a_user_that_dies_in_the_middle_leaves_nothing_behind(start_master, start_peer):
    master = start_master("--client_ttl=3")
    holder = start_peer("holder", env=SHORT).setup(master, segment=256 * MIB)
    size = 32 * MIB
    other = start_peer("other", env=SHORT).setup(master, segment=0, buffer=2 * size)
    assert other.call("put", "k", b"\x22" * size, timeout=120) == 0
    for number in range(3):
        user = start_peer(f"user{number}", env=SHORT).setup(master, segment=0)
        assert user.run(arm, "k", size, timeout=120) > 0
        user.start_run(get_armed, "k", size)
        user.kill()
        with pytest.raises(PeerDied):
            user.result(10)
        assert other.call("get", "k", timeout=60) == b"\x22" * size
    wait_until(lambda: other.call("remove", "k") == 0, "nobody holds it")
    wait_until(lambda: master.allocated() == 0, "its memory is back", 30)
    assert holder.alive()


def test_without_devices_set_up_says_what_is_missing(start_master, start_peer):
    master = start_master()
    peer = start_peer("peer", env={"MC_STORE_RDMA_TRANSPORTS": "rc"})
    assert peer.call("setup", "127.0.0.1", "P2PHANDSHAKE", MIB, MIB, "rdma", "nothing9", master.address) == -600
    assert "device nothing9 is not there" in peer.log()
    auto = start_peer("auto", env={"MC_STORE_RDMA_TRANSPORTS": "rc", "MC_MS_AUTO_DISC": "0"})
    assert auto.call("setup", "127.0.0.1", "P2PHANDSHAKE", MIB, MIB, "rdma", "", master.address) == -600
    assert "rdma_devices must name them" in auto.log()
    forced = start_peer("forced", env={"MC_FORCE_TCP": "1"})
    assert forced.call("setup", "127.0.0.1", "P2PHANDSHAKE", MIB, MIB, "rdma", "nothing9", master.address) == 0
    assert "ignored for protocol tcp" in forced.log()


# ---- GPU memory (tests/fake_cuda), read and written by devices ----


def exchange_gpu(store, sizes, paths):
    """As `exchange`, with memory of a GPU; what is wrong, and how the counters have changed."""
    import sys
    import time
    from tests.support.contents import there_and_back, unlike
    sys.path[:0] = paths
    from cuda_driver import Cuda
    cuda = Cuda().start()
    names = ("bytes_gpudirect", "bytes_staged", "transport_rdma_bytes")
    room = sum(sizes) + (1 << 16)
    base = cuda.alloc(2 * room)
    assert store.register_buffer(base, 2 * room) == 0
    deadline = time.monotonic() + 20
    first = 0
    while store.counters()["bytes_gpudirect"] == 0 and time.monotonic() < deadline and first < 60:  # registered in the background
        assert store.put_from(f"first{first}", base, 1 << 20) == 0
        first += 1
        if store.counters()["bytes_staged"] > 0:
            time.sleep(0.02)
    before = store.counters()
    keys, to, wrong = there_and_back(store, "gpu", sizes, base, room, lambda at, data: cuda.write(base + at, data))
    after = store.counters()
    wrong += unlike(store, keys, to, sizes, cuda.read)
    assert store.unregister_buffer(base) == 0
    cuda.free(base)
    return wrong, {name: after[name] - before[name] for name in names}


GPU_SIZES = [16384, 65536, MIB - 1, MIB, MIB + 1, 5 * MIB + 77, 30 * MIB]


def gpu_env(how):
    build = find_build_dir()
    if not (build / "tests" / "fake_cuda" / "libcuda.so.1").exists() or not list((build / "gpu").glob("*.fatbin")):
        pytest.skip("needs tests/fake_cuda and the kernels (nvcc)")
    return ENV | {"FAKE_CUDA_RDMA": how, "MCS_BUILD_DIR": str(build)}


def gpu_paths():
    return [str(ROOT / "tests" / "python")]


@pytest.mark.parametrize("how", ["1", "2"], ids=["ordered", "flushed"])
def test_registered_gpu_memory_is_moved_by_the_devices(start_master, start_peer, how):
    master = start_master()
    holder = start_peer("holder", env=ENV).setup(master, segment=400 * MIB)
    user = start_peer("user", env=gpu_env(how)).setup(master, segment=0)
    wrong, moved = user.run(exchange_gpu, GPU_SIZES, gpu_paths(), timeout=200)
    assert wrong == []
    assert moved == {"bytes_gpudirect": 2 * sum(GPU_SIZES), "bytes_staged": 0, "transport_rdma_bytes": 2 * sum(GPU_SIZES)}
    assert holder.counters()["transport_rdma_bytes"] >= 2 * sum(GPU_SIZES)


def test_gpu_memory_that_devices_do_not_reach_goes_through_the_host(start_master, start_peer):
    master = start_master()
    start_peer("holder", env=ENV).setup(master, segment=400 * MIB)
    user = start_peer("user", env=gpu_env("0")).setup(master, segment=0)
    wrong, moved = user.run(exchange_gpu, GPU_SIZES[:-1], gpu_paths(), timeout=200)
    assert wrong == []
    assert moved["bytes_gpudirect"] == 0 and moved["bytes_staged"] == 2 * sum(GPU_SIZES[:-1])


def test_gpu_memory_and_a_peer_of_tcp(start_master, start_peer):
    master = start_master()
    start_peer("holder", env={name: value for name, value in ENV.items() if name != "MC_STORE_RDMA_TRANSPORTS"}).setup(master, segment=400 * MIB)
    user = start_peer("user", env=gpu_env("1")).setup(master, segment=0)
    wrong, moved = user.run(exchange_gpu, GPU_SIZES[:-1], gpu_paths(), timeout=200)
    assert wrong == []
    assert moved["bytes_gpudirect"] == 0 and moved["bytes_staged"] == 2 * sum(GPU_SIZES[:-1])
