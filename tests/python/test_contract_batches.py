"""Contract: batches of any size, keys of any length in them, empty ones, and the same key several times in one call, by each way that bytes take."""

import pytest
from contract_support import MIB, Memory, fresh, new_store, pattern

WAYS = ["own", "same_host", "transport"]


@pytest.fixture(scope="module", params=WAYS)
def store(request, real, master):
    """Reads what lies in its own segment, or what another's has."""
    patch = pytest.MonkeyPatch()
    if request.param == "transport":
        patch.setenv("MC_STORE_MEMCPY", "0")
    holder = new_store(real, master)
    store = holder if request.param == "own" else new_store(real, master, segment=0)
    patch.undo()
    yield store
    store.close()
    holder.close()


@pytest.fixture
def memory(store):
    memory = Memory(pattern(MIB))
    assert store.register_buffer(memory.ptr, memory.size) == 0
    yield memory
    assert store.unregister_buffer(memory.ptr) == 0


def test_a_key_twice_in_a_put_counts_once_and_the_first_value_stays(store, memory):
    a, b, c, d, e = (fresh() for _ in range(5))
    assert store.put_batch([a, a, b], [b"first", b"second", b"b"]) == 0
    assert store.get_batch([a, b]) == [b"first", b"b"]
    assert store.batch_put_from([c, c], [memory.ptr, memory.ptr + 500], [10, 20]) == [0, 0]
    assert store.get(c) == memory[:10]
    assert store.batch_put_from_multi_buffers([d, d], [[memory.ptr, memory.ptr + 7], [memory.ptr + 9]], [[3, 4], [5]]) == [0, 0]
    assert store.get(d) == memory[:3] + memory[7:11]
    assert store.upsert_batch([a, a], [b"third", b"fourth"]) == 0 and store.get(a) == b"third"
    assert store.batch_upsert_from([a, b, a], [memory.ptr, memory.ptr + 1, memory.ptr + 2], [4, 4, 4]) == [0, 0, 0]
    assert store.get_batch([a, b]) == [memory[:4], memory[1:5]]
    assert store.batch_put_session_start([e, e], [6, 6]) == [0, -600]
    assert store.batch_put_from_multi_buffer_ranges([e, e], [[memory.ptr], [memory.ptr + 3]], [[3], [3]], [[0], [3]]) == [3, 3]
    assert store.batch_put_session_end([e, e]) == [0, -600] and store.get(e) == memory[:6]


def test_a_key_twice_in_a_read_fills_every_buffer(store, memory):
    key, missing, value = fresh(), fresh(), pattern(50_000, 3)
    assert store.put(key, value) == 0
    at = [memory.ptr + n * 60_000 for n in range(6)]
    filled = lambda n, size=50_000: memory[n * 60_000 : n * 60_000 + size] == value[:size]
    assert store.batch_get_into([key, missing, key, key], at[:4], [50_000, 50_000, 49_999, 50_001]) == [50_000, -704, -600, 50_000]
    assert filled(0) and filled(3) and memory[120_000:120_100] == pattern(MIB)[120_000:120_100], "one too small is not written"
    assert store.batch_get_into_multi_buffers([key, key], [[at[4]], [at[5], at[5] + 10]], [[50_000], [10, 49_990]]) == [50_000] * 2
    assert filled(4) and filled(5)
    assert store.get_batch([key, missing, key]) == [value, b"", value]
    assert [None if handle is None else bytes(handle) for handle in store.batch_get_buffer([key, missing, key])] == [value, None, value]
    ranges = store.get_into_ranges([memory.ptr, memory.ptr + 600_000], [[key, key], [key]], [[[0], [10]], [[0, 5]]], [[[0], [100]], [[7, 7]]], [[[10], [10]], [[5, 5]]])
    assert ranges == [[[10], [10]], [[5, 5]]]
    assert memory[:20] == value[:10] + value[100:110] and memory[600_000:600_010] == value[7:12] * 2
    assert store.batch_get_session_start([key, key, missing]) == [0, 0, -704]
    assert store.batch_get_into_multi_buffer_ranges([key, key], [[at[1]], [at[2]]], [[50_000], [50_000]], [[0], [0]]) == [50_000] * 2
    assert filled(1) and filled(2)
    assert store.batch_get_session_end([key]) == 0 and store.batch_get_session_end([key, key]) == 0


def test_a_key_twice_in_other_batches(store):
    key, missing = fresh(), fresh()
    assert store.put(key, b"x") == 0
    assert store.batch_is_exist([key, missing, key, missing]) == [1, 0, 1, 0]
    assert set(store.batch_get_replica_desc([key, key, missing])) == {key}
    assert store.batch_remove([key, key, missing], force=True) == [0, -704, -704]


def test_empty_batches(store):
    assert store.put_batch([], []) == 0 and store.upsert_batch([], []) == 0 and store.get_batch([]) == [b""]
    for call, count in {"batch_is_exist": 1, "batch_remove": 1, "batch_get_buffer": 1, "batch_replica_clear": 1, "batch_get_session_start": 1, "batch_put_session_end": 1,
                        "batch_put_session_revoke": 1, "batch_put_session_start": 2, "batch_put_from": 3, "batch_upsert_from": 3, "batch_get_into": 3,
                        "batch_put_from_multi_buffers": 3, "batch_get_into_multi_buffers": 3, "batch_put_from_multi_buffer_ranges": 4,
                        "batch_get_into_multi_buffer_ranges": 4, "get_into_ranges": 5}.items():
        assert getattr(store, call)(*([[]] * count)) == [], call
    assert store.batch_get_replica_desc([]) == {} and store.batch_get_session_end([]) == 0 and store.unmount_segment([]) == 0
    key = fresh()
    assert store.batch_put_from_multi_buffers([key], [[]], [[]]) == [-600] and store.is_exist(key) == 0
    assert store.get_into_ranges([0], [[]], [[]], [[]], [[]]) == [[]]


@pytest.mark.parametrize("length, count", [(56, 20_000), (4096, 3000), (8192, 700)])
def test_batches_of_many_and_of_long_keys(store, length, count):
    """More keys, and more bytes of keys, than one request takes."""
    stem = fresh()
    keys = [f"{stem}-{n}-".ljust(length, "k") for n in range(count)]
    some = keys[:: max(1, count // 700)]
    assert store.put_batch(some, [key[:40].encode() for key in some]) == 0
    answer = store.batch_is_exist(keys)
    assert len(answer) == count and sum(answer) == len(some) and all(answer[n] == 1 for n in range(0, count, max(1, count // 700)))
    assert store.get_batch(some) == [key[:40].encode() for key in some]
    assert store.batch_remove(keys, force=True).count(0) == len(some)
    assert sum(store.batch_is_exist(keys)) == 0


def test_a_list_of_a_million_keys_is_asked_in_one_call(store):
    stem = fresh()
    keys = [f"{stem}{n}" for n in range(1 << 20)]
    assert store.put_batch([keys[0], keys[-1]], [b"first", b"last"]) == 0
    answer = store.batch_is_exist(keys)
    assert len(answer) == 1 << 20 and answer[0] == answer[-1] == 1 and sum(answer) == 2


@pytest.mark.parametrize("key", ["ключ/🔑", "键" * 1365, b"\x00\xff\xfe\x80", "a\0b\0", b"\xed\xa0\x80", "\x7f\x1b[31m", " \t\n"])
def test_keys_of_any_bytes_in_every_batch(store, memory, key):
    assert store.batch_put_from([key], [memory.ptr], [100]) == [0]
    assert store.batch_is_exist([key, key]) == [1, 1] and store.get_batch([key]) == [memory[:100]]
    assert store.batch_get_into([key], [memory.ptr + 200], [100]) == [100]
    assert store.batch_get_session_start([key]) == [0] and store.batch_get_session_end([key]) == 0
    assert len(store.batch_get_replica_desc([key])) == 1
    assert store.batch_remove([key], force=True) == [0]
