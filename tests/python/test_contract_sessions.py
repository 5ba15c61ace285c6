"""Contract: pieces of values (get_into_ranges) and the sessions of reads and writes, over all three ways that bytes take."""

import pytest
from contract_support import LEASE_S, MIB, Memory, fresh, new_store, pattern
from python_support import wait_until

WAYS = ["own", "same_host", "transport"]


@pytest.fixture(scope="module", params=WAYS)
def pair(request, real, master):
    """(writer, reader): the reader gets what the writer has by way of the parameter."""
    patch = pytest.MonkeyPatch()
    if request.param == "transport":
        patch.setenv("MC_STORE_MEMCPY", "0")
    writer = new_store(real, master)
    reader = writer if request.param == "own" else new_store(real, master, segment=0)
    patch.undo()
    before = reader.counters()
    yield writer, reader
    after = reader.counters()
    moved = {name: after[name] - before[name] for name in ("bytes_own_read", "bytes_same_host_read", "bytes_fetched")}
    expected = {"own": "bytes_own_read", "same_host": "bytes_same_host_read", "transport": "bytes_fetched"}[request.param]
    assert [name for name, bytes_moved in moved.items() if bytes_moved] == [expected]
    reader.close()
    writer.close()


@pytest.fixture
def memory(pair):
    """A registered buffer of the reader's (and of the writer's)."""
    memory = Memory(8 * MIB)
    for store in set(pair):
        assert store.register_buffer(memory.ptr, memory.size) == 0
    yield memory
    for store in set(pair):
        assert store.unregister_buffer(memory.ptr) == 0


PIECES = [
    (0, 1),
    (0, 4096),
    (1, 4096),
    (MIB - 1, 2),
    (MIB, MIB),
    (MIB - 7, MIB + 14),
    (0, 3 * MIB + 5),
    (3 * MIB, 5),
    (3 * MIB + 4, 1),
    (2 * MIB + 1, MIB + 4),
    (3 * MIB + 5, 0),
    (17, 0),
]


@pytest.mark.parametrize("src, size", PIECES)
def test_a_piece_of_any_place_and_size_is_exact(pair, memory, src, size):
    writer, reader = pair
    key, value = fresh(), pattern(3 * MIB + 5)
    assert writer.put(key, value) == 0
    assert reader.get_into_ranges([memory.ptr], [[key]], [[[100]]], [[[src]]], [[[size]]]) == [[[size]]]
    assert memory[100 : 100 + size] == value[src : src + size]
    assert memory[100 + size : 100 + size + 64] == bytes(64), "nothing beside it is written"


def test_only_the_pieces_are_moved(pair, memory):
    writer, reader = pair
    key = fresh()
    assert writer.put(key, pattern(6 * MIB)) == 0
    count = lambda: sum(reader.counters()[n] for n in ("bytes_own_read", "bytes_same_host_read", "bytes_fetched"))
    before = count()
    assert reader.get_into_ranges([memory.ptr], [[key]], [[[0, 9]]], [[[5, 3 * MIB]]], [[[7, 1000]]]) == [[[7, 1000]]]
    assert count() - before == 1007


def test_a_piece_beyond_the_end_fails_alone(pair, memory):
    writer, reader = pair
    key, value = fresh(), pattern(1000)
    assert writer.put(key, value) == 0
    missing = fresh()
    result = reader.get_into_ranges(
        [memory.ptr],
        [[key, missing]],
        [[[0, 10, 20, 30, 2**63], [0]]],
        [[[0, 995, 1001, 2**64 - 1, 0], [0]]],
        [[[10, 6, 0, 2, 1], [1]]],
    )
    assert result == [[[10, -600, -600, -600, -600], [-704]]]
    assert memory[:10] == value[:10]


def test_pieces_outside_registered_memory_are_refused(pair, memory):
    writer, reader = pair
    key, other = fresh(), Memory(100)
    assert writer.put(key, b"x" * 100) == 0
    assert reader.get_into_ranges([other.ptr], [[key]], [[[0]]], [[[0]]], [[[10]]]) == [[[-600]]]
    assert reader.get_into_ranges([memory.ptr], [[key]], [[[memory.size - 9]]], [[[0]]], [[[10]]]) == [[[-600]]]
    assert bytes(other) == bytes(100)


def test_the_same_key_in_several_buffers_and_pieces(pair, memory):
    writer, reader = pair
    key, value = fresh(), pattern(2 * MIB, 3)
    assert writer.put(key, value) == 0
    half = memory.ptr + 4 * MIB
    result = reader.get_into_ranges([memory.ptr, half], [[key, key], [key]], [[[0], [10]], [[0, 10]]], [[[0], [5]], [[MIB, 1]]],
                                    [[[10], [10]], [[10, 10]]])
    assert result == [[[10], [10]], [[10, 10]]]
    assert memory[:20] == value[:10] + value[5:15]
    assert memory[4 * MIB : 4 * MIB + 20] == value[MIB : MIB + 10] + value[1:11]


# ---- get sessions ----


def read(store, key, memory, *pieces):
    """pieces: (offset in memory, offset in the value, size)."""
    return store.batch_get_into_multi_buffer_ranges(
        [key], [[memory.ptr + at for at, _, _ in pieces]], [[size for _, _, size in pieces]], [[src for _, src, _ in pieces]]
    )


def test_a_get_session_reads_layer_after_layer(pair, memory):
    writer, reader = pair
    keys = [fresh() for _ in range(3)]
    values = [pattern(2 * MIB + 100, i) for i in range(3)]
    for key, value in zip(keys, values):
        assert writer.put(key, value) == 0
    assert reader.batch_get_session_start(keys) == [0, 0, 0]
    layer = (2 * MIB + 100) // 4
    for n in range(4):
        base = n * layer
        results = reader.batch_get_into_multi_buffer_ranges(
            keys,
            [[memory.ptr + i * 4 * 1000, memory.ptr + i * 4 * 1000 + 1000] for i in range(3)],
            [[1000, 2000]] * 3,
            [[base, base + 5000]] * 3,
        )
        assert results == [3000] * 3
        for i in range(3):
            at = i * 4000
            assert memory[at : at + 1000] == values[i][base : base + 1000]
            assert memory[at + 1000 : at + 3000] == values[i][base + 5000 : base + 7000]
    assert reader.batch_get_session_end(keys) == 0
    assert reader.batch_get_session_end(keys) == 0


def test_a_get_session_asks_the_master_once_and_keeps_its_lease(pair, memory):
    writer, reader = pair
    key = fresh()
    assert writer.put(key, b"0123456789") == 0
    assert reader.batch_get_session_start([key]) == [0]
    leased = []

    def past_two_leases():
        leased.append(writer.remove(key))
        return len(leased) > 1 and (len(leased) * 0.01) > 2.5 * LEASE_S

    wait_until(past_two_leases, "two leases are over")
    assert set(leased) == {-706}, "the session's lease was renewed all the time"
    assert read(reader, key, memory, (0, 2, 3)) == [3]
    assert memory[:3] == b"234"
    assert reader.batch_get_session_end([key]) == 0
    wait_until(lambda: writer.remove(key) == 0, "the lease runs out after the end of the session")


def test_a_get_session_that_nobody_reads_from_lets_go_and_wakes_up(pair, memory):
    writer, reader = pair
    keys = [fresh(), fresh()]
    assert writer.put(keys[0], b"0123456789") == writer.put(keys[1], b"abcdefghij") == 0
    # As a caller leaves it that wanted every key.
    assert reader.batch_get_session_start([*keys, fresh()]) == [0, 0, -704]
    wait_until(lambda: writer.remove(keys[0]) == 0, "the forgotten session lets its object go", deadline_s=30 * LEASE_S)
    assert read(reader, keys[0], memory, (0, 0, 3)) == [-704]
    assert read(reader, keys[1], memory, (0, 2, 3)) == [3], "a session that rested goes on"
    assert memory[:3] == b"cde"
    leased = []

    def past_two_leases():
        leased.append(writer.remove(keys[1]))
        return len(leased) > 1 and (len(leased) * 0.01) > 2.5 * LEASE_S

    wait_until(past_two_leases, "two leases are over")
    assert set(leased) == {-706}, "and its lease is renewed again"
    assert reader.batch_get_session_end(keys) == 0


def test_a_get_session_never_reads_another_value(pair, memory):
    writer, reader = pair
    key = fresh()
    assert writer.put(key, b"a" * 3000) == 0
    assert reader.batch_get_session_start([key]) == [0]
    assert writer.upsert(key, b"b" * 3000) == 0
    wait_until(lambda: read(reader, key, memory, (0, 0, 1000)) != [1000], "the old value goes")
    assert read(reader, key, memory, (0, 0, 1000)) == [-704]
    assert memory[:1000] in (bytes(1000), b"a" * 1000)
    assert reader.batch_get_session_start([key]) == [0]
    assert read(reader, key, memory, (0, 0, 1000)) == [1000]
    assert memory[:1000] == b"b" * 1000
    assert reader.batch_get_session_end([key]) == 0


def test_what_a_get_session_refuses(pair, memory):
    writer, reader = pair
    key, missing = fresh(), fresh()
    assert writer.put(key, b"0123456789") == 0
    assert reader.batch_get_session_start([key, missing, "", key]) == [0, -704, -600, 0]
    assert read(reader, missing, memory, (0, 0, 1)) == [-600], "not in session"
    assert read(reader, key, memory, (0, 5, 6)) == [-600], "beyond the end"
    assert read(reader, key, memory, (0, 2**64 - 1, 2)) == [-600]
    assert read(reader, key, memory, (memory.size, 0, 1)) == [-600], "not registered"
    assert read(reader, key, memory, (0, 5, 5), (5, 0, 5)) == [10]
    assert memory[:10] == b"5678901234"
    assert reader.batch_get_into_multi_buffer_ranges([key], [], [], []) == [-600]
    assert reader.batch_get_into_multi_buffer_ranges([key, key], [[memory.ptr], [memory.ptr]], [[1], [1, 1]], [[0], [0]]) == [1, -600]
    assert reader.batch_get_into_multi_buffer_ranges([], [], [], []) == []
    assert reader.batch_get_session_end([key]) == 0
    assert read(reader, key, memory, (0, 0, 1)) == [-600]


# ---- put sessions ----


def write(store, key, memory, *pieces):
    """pieces: (offset in memory, offset in the value, size)."""
    return store.batch_put_from_multi_buffer_ranges(
        [key], [[memory.ptr + at for at, _, _ in pieces]], [[size for _, _, size in pieces]], [[dst for _, dst, _ in pieces]]
    )


def fill(memory, content):
    memory.array[: len(content)] = content


def test_a_put_session_shows_the_whole_value_at_its_end(pair, memory):
    writer, reader = pair
    key, value = fresh(), pattern(2 * MIB + 77, 5)
    fill(memory, value)
    assert writer.batch_put_session_start([key], [len(value)]) == [0]
    for at in reversed(range(0, len(value), 300_000)):
        size = min(300_000, len(value) - at)
        assert write(writer, key, memory, (at, at, size)) == [size]
        assert reader.is_exist(key) == 0
    assert writer.batch_put_session_end([key]) == [0]
    assert reader.get(key) == value
    assert writer.batch_put_session_end([key]) == [-600], "it is over"


def test_a_revoked_put_session_leaves_nothing(pair, memory):
    writer, reader = pair
    key = fresh()
    assert writer.batch_put_session_start([key], [10]) == [0]
    assert write(writer, key, memory, (0, 0, 10)) == [10]
    assert writer.batch_put_session_revoke([key, key]) == [0, -600]
    assert reader.is_exist(key) == 0
    assert write(writer, key, memory, (0, 0, 10)) == [-600]


def test_a_value_with_a_hole_is_not_stored(pair, memory):
    writer, reader = pair
    key = fresh()
    fill(memory, b"0123456789")
    assert writer.batch_put_session_start([key], [10]) == [0]
    assert write(writer, key, memory, (0, 0, 4), (6, 6, 4)) == [8]
    assert writer.batch_put_session_end([key]) == [-700]
    assert reader.is_exist(key) == 0
    assert write(writer, key, memory, (3, 3, 4)) == [4]
    assert writer.batch_put_session_end([key]) == [0]
    assert reader.get(key) == b"0123456789"


def test_a_put_session_over_a_key_that_is_there_keeps_its_value(pair, memory):
    writer, reader = pair
    key = fresh()
    assert writer.put(key, b"there already") == 0
    assert writer.batch_put_session_start([key], [4]) == [0]
    assert write(writer, key, memory, (0, 0, 4)) == [4]
    assert writer.batch_put_session_end([key]) == [0]
    assert reader.get(key) == b"there already"


def test_what_a_put_session_refuses(pair, memory):
    writer, _ = pair
    key, other = fresh(), fresh()
    assert writer.batch_put_session_start([key, "", other, key], [10, 1, 0, 5]) == [0, -600, -600, -600]
    assert writer.batch_put_session_start([other], [2**64 - 1]) == [-600]
    assert writer.batch_put_session_start([other], [1 << 40]) == [-200], "more than sessions may hold"
    assert writer.batch_put_session_start([other], []) == [-600]
    assert write(writer, key, memory, (0, 8, 3)) == [-600]
    assert write(writer, key, memory, (0, 2**64 - 1, 2)) == [-600]
    assert write(writer, key, memory, (memory.size - 1, 0, 2)) == [-600], "not registered"
    assert write(writer, other, memory, (0, 0, 1)) == [-600], "not in session"
    assert writer.batch_put_session_end([other]) == [-600]
    assert writer.batch_put_session_revoke([key]) == [0]


def test_sessions_of_many_keys_with_groups_and_pins(pair, real, memory):
    writer, reader = pair
    config = real.ReplicateConfig()
    config.with_hard_pin = True
    keys = [fresh() for _ in range(5)]
    config.group_ids = ["", "g", "g", "", "h"]
    fill(memory, pattern(500))
    assert writer.batch_put_session_start(keys, [100] * 5, config) == [0] * 5
    assert writer.batch_put_from_multi_buffer_ranges(
        keys, [[memory.ptr + i * 100] for i in range(5)], [[100]] * 5, [[0]] * 5
    ) == [100] * 5
    assert writer.batch_put_session_end(keys[::-1]) == [0] * 5
    for i, key in enumerate(keys):
        assert reader.get(key) == pattern(500)[i * 100 : i * 100 + 100]


def test_close_ends_sessions(real, master, memory):
    store = new_store(real, master)
    key = fresh()
    assert store.put(key, b"x") == 0
    assert store.batch_get_session_start([key]) == [0]
    assert store.batch_put_session_start([fresh()], [1 << 20]) == [0]
    assert store.close() == 0
    assert store.batch_get_session_start([key]) == []
    assert store.batch_get_session_end([key]) == -1


def test_sessions_of_thousands_of_keys_start_at_once(pair, memory):
    writer, reader = pair
    keys = [fresh() for _ in range(5000)]
    assert writer.put_batch(keys, [b"0123456789"] * 5000) == 0
    assert reader.batch_get_session_start(keys) == [0] * 5000
    for _ in range(2):
        results = reader.batch_get_into_multi_buffer_ranges(
            keys, [[memory.ptr + 10 * i, memory.ptr + 10 * i + 5] for i in range(5000)], [[5, 5]] * 5000, [[5, 0]] * 5000
        )
        assert results == [10] * 5000
        assert memory[:50000] == b"5678901234" * 5000
    assert reader.batch_get_session_end(keys) == 0
    assert writer.batch_remove(keys, force=True) == [0] * 5000
