"""Two processes read each other's data, over UCX and over shared memory; and the counters say which of the two it was."""

import pytest

from tests.support.processes import MIB

PATHS = {"ucx": {"MC_STORE_MEMCPY": "0"}, "shared_memory": {"MC_STORE_MEMCPY": "1"}}


@pytest.fixture(params=PATHS)
def pair(request, master, start_peer):
    """(path, two peers with a segment each)."""
    peers = [start_peer(name, env=PATHS[request.param]) for name in ("one", "two")]
    for peer in peers:
        peer.setup(master, segment=256 * MIB, buffer=128 * MIB)
    return request.param, peers


def put_on(store, segment, sizes, prefix):
    """Values of these sizes on one segment; the codes."""
    from mooncake.store import ReplicateConfig
    from tests.support.contents import pattern
    config = ReplicateConfig()
    config.preferred_segment = segment
    return [store.put(f"{prefix}{i}", pattern(i, size), config) for i, size in enumerate(sizes)]


def count_wrong(store, sizes, prefix):
    """Keys whose value is not the pattern, by get, get_buffer and get_into."""
    import ctypes
    from tests.support.contents import pattern
    wrong = []
    for i, size in enumerate(sizes):
        expected = pattern(i, size)
        if store.get(f"{prefix}{i}") != expected:
            wrong.append((i, "get"))
        handle = store.get_buffer(f"{prefix}{i}")
        if handle is None or bytes(handle) != expected:
            wrong.append((i, "get_buffer"))
        target = ctypes.create_string_buffer(size + 1)
        if store.get_into(f"{prefix}{i}", ctypes.addressof(target), size) != size or target.raw[:size] != expected or target.raw[size] != 0:
            wrong.append((i, "get_into"))
        if store.get_size(f"{prefix}{i}") != size or store.is_exist(f"{prefix}{i}") != 1:
            wrong.append((i, "size"))
    return wrong


SIZES = [1, 63, 64, 65, 4096, 65537, MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 20 * MIB + 7]


def check_paths(path, peer):
    counters = peer.counters()
    if path == "ucx":
        assert counters["bytes_fetched"] > 0 and counters["bytes_stored"] > 0
        assert counters.get("bytes_same_host_read", 0) == counters.get("bytes_own_read", 0) == 0
        assert counters.get("bytes_same_host_written", 0) == counters.get("bytes_own_written", 0) == 0
    else:
        assert counters["bytes_same_host_read"] + counters["bytes_viewed"] > 0 and counters["bytes_same_host_written"] > 0
        assert counters["bytes_fetched"] == counters["bytes_stored"] == 0
    assert counters["crc_errors"] == 0


def test_each_reads_what_the_other_wrote_into_either_segment(pair):
    path, (one, two) = pair
    for writer, other in ((one, two), (two, one)):
        for where in (one, two):
            prefix = f"{writer.name}-in-{where.name}-"
            assert writer.run(put_on, where.hostname(), SIZES, prefix) == [0] * len(SIZES)
            assert other.run(count_wrong, SIZES, prefix) == []
            assert writer.run(count_wrong, SIZES, prefix) == []
    check_paths(path, one)
    check_paths(path, two)


def many_batches(store, counts, size, prefix):
    """put_batch / get_batch / batch_put_from / batch_get_into of so many keys each; wrong results."""
    import ctypes
    from tests.support.contents import pattern
    wrong = []
    for count in counts:
        keys = [f"{prefix}{count}-{i}" for i in range(count)]
        values = [pattern(count * 2000 + i, size) for i in range(count)]
        half = count // 2
        if half and store.put_batch(keys[:half], values[:half]) != 0:
            wrong.append((count, "put_batch"))
        source = ctypes.create_string_buffer(b"".join(values), count * size)
        base = ctypes.addressof(source)
        codes = store.batch_put_from(keys[half:], [base + i * size for i in range(half, count)], [size] * (count - half))
        if codes != [0] * (count - half):
            wrong.append((count, "batch_put_from", codes[:5]))
    return wrong


def check_batches(store, counts, size, prefix):
    import ctypes
    from tests.support.contents import pattern
    wrong = []
    for count in counts:
        keys = [f"{prefix}{count}-{i}" for i in range(count)]
        values = [pattern(count * 2000 + i, size) for i in range(count)]
        if store.batch_is_exist(keys + ["absent"]) != [1] * count + [0]:
            wrong.append((count, "exist"))
        if store.get_batch(keys) != values:
            wrong.append((count, "get_batch"))
        target = ctypes.create_string_buffer(count * size)
        base = ctypes.addressof(target)
        sizes = store.batch_get_into(keys + ["absent"], [base + i * size for i in range(count)] + [base], [size] * (count + 1))
        if sizes != [size] * count + [-704] or target.raw != b"".join(values):
            wrong.append((count, "batch_get_into"))
        if [h is not None and bytes(h) for h in store.batch_get_buffer(keys)] != values:
            wrong.append((count, "batch_get_buffer"))
    return wrong


def test_batches_of_1_to_1024_keys_are_right(pair):
    path, (one, two) = pair
    counts = [1, 2, 3, 16, 100, 512, 1023, 1024]
    assert one.run(many_batches, counts, 3000, "b") == []
    assert two.run(check_batches, counts, 3000, "b") == []
    assert path != "ucx" or two.counters()["bytes_fetched"] >= 3 * 3000 * sum(counts)


def eight_threads(store, seed, others):
    """Each thread puts its own keys and reads those of all, its own at once and the others' when they are there."""
    import concurrent.futures
    from tests.support.contents import pattern

    def size_of(number):
        return 1 + number * 7919 % 300_000

    def work(thread):
        wrong = []
        for i in range(30):
            number = thread * 1000 + i
            if store.put(f"t{seed}-{number}", pattern(seed * 100_000 + number, size_of(number))) != 0:
                wrong.append((number, "put"))
            if store.get(f"t{seed}-{number}") != pattern(seed * 100_000 + number, size_of(number)):
                wrong.append((number, "own"))
            for other in others:
                value = store.get(f"t{other}-{number}")
                if value not in (b"", pattern(other * 100_000 + number, size_of(number))):
                    wrong.append((number, "other", len(value)))
        return wrong

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(work, range(8)), [])


def check_threads(store, seed):
    from tests.support.contents import pattern
    numbers = [thread * 1000 + i for thread in range(8) for i in range(30)]
    return [n for n in numbers if store.get(f"t{seed}-{n}") != pattern(seed * 100_000 + n, 1 + n * 7919 % 300_000)]


def test_eight_threads_in_each_process_read_no_wrong_byte(pair):
    _, (one, two) = pair
    one.start_run(eight_threads, 1, [2])
    two.start_run(eight_threads, 2, [1])
    assert one.result() == [] and two.result() == []
    assert one.run(check_threads, 2) == [] and two.run(check_threads, 1) == []


def test_a_client_without_memory_of_its_own_uses_that_of_others(master, start_peer):
    holder = start_peer("holder").setup(master, segment=64 * MIB, buffer=0)
    reader = start_peer("reader").setup(master, segment=0, buffer=64 * MIB)
    assert reader.call("put", "k", b"x" * 100_000) == 0
    assert reader.call("get", "k") == b"x" * 100_000
    assert master.segments() == [holder.hostname()]


def test_value_lives_as_long_as_its_holder(master, start_peer):
    holder = start_peer("holder").setup(master)
    reader = start_peer("reader").setup(master, segment=0)
    assert holder.call("put", "k", b"x" * 1000) == 0
    assert reader.call("get", "k") == b"x" * 1000
    assert holder.call("close") == 0
    assert reader.call("is_exist", "k") == 0
    assert reader.call("get", "k") == b""
    assert reader.call("put", "k", b"y") == -200, "there is no segment any more"
    holder.setup(master)
    assert reader.call("get", "k") == b"" and reader.call("put", "k", b"y" * 10) == 0
    assert holder.call("get", "k") == b"y" * 10
