"""DLPack to the letter, against another side in C (tests/support/dlpack_peer.c) that keeps books."""

import ctypes
import gc
import threading

import numpy as np
import pytest
import tensor_support as ts
from tensor_support import Producer, no_torch  # noqa: F401

READ_ONLY, COPIED = 1, 2


@pytest.fixture
def peer(no_torch):
    return ts.load_peer()


@pytest.fixture
def books(peer):
    """Every capsule that the peer made is given back by the end, once."""
    before = peer.counts()
    yield peer
    gc.collect()
    after = peer.counts()
    assert after["deleted"] - before["deleted"] == after["made"] - before["made"]


def capsule(peer, array, shape=None, strides=None, dtype=None, device=(1, 0), versioned=True, version=(1, 3), flags=0, offset=0):
    shape = array.shape if shape is None else shape
    dtype = ts.DL[str(array.dtype)] if dtype is None else dtype
    data = None if array is None else memoryview(array).cast("B") if array.size else bytearray(1)
    return peer.capsule(data, shape, strides, dtype, device, versioned, version, flags, offset)


# ---- what we give ----


def taken(peer, tensor, **asked):
    return peer.take(tensor.__dlpack__(**asked))


def content(told):
    size = told["dtype"][1] // 8 * int(np.prod(told["shape"]))
    return ctypes.string_at(told["data"], size) if told["data"] else b""


@pytest.mark.parametrize("asked", [{"max_version": (1, 0)}, {"max_version": (1, 3)}, {"max_version": (2, 0), "copy": None, "dl_device": (1, 0), "stream": None}])
def test_a_versioned_capsule_says_everything(store, peer, asked):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    store.put_tensor("view:k", data)
    told = taken(peer, store.get_dlpack("view:k"), **asked)
    assert told["version"] == (1, 3) and told["flags"] == READ_ONLY
    assert (told["device"], told["dtype"], told["byte_offset"]) == ((1, 0), (0, 16, 1), 0)
    assert (told["shape"], told["strides"]) == ([2, 3, 4], [12, 4, 1])
    assert content(told) == data.tobytes()
    assert store.counters()["handles"] == 1
    peer.give_back(told["taken"])
    assert store.counters()["handles"] == 0


@pytest.mark.parametrize("name", ts.DTYPES)
def test_every_element_type_has_its_code(store, peer, name):
    bits = ts.bytes_of(ts.array_of(ts.BITS.get(name, name), (3,)))
    store.put("k", ts.header(name, (3,)) + bits)
    for asked in ({}, {"max_version": (1, 0)}):
        told = taken(peer, store.get_dlpack("k"), **asked)
        assert told["dtype"] == ts.DL[name] and content(told) == bits
        peer.give_back(told["taken"])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,) * 8])
def test_shapes_at_the_edges(store, peer, shape):
    store.put_tensor("k", np.zeros(shape))
    told = taken(peer, store.get_dlpack("k"), max_version=(1, 0))
    assert told["shape"] == list(shape) and len(told["strides"]) == len(shape)
    assert bool(told["data"]) == bool(np.prod(shape)), "no elements: no address"
    peer.give_back(told["taken"])


@pytest.mark.parametrize("asked", [{}, {"max_version": None}, {"max_version": (0, 8)}])
def test_a_legacy_capsule_of_stored_elements_is_a_copy(store, peer, asked):
    data = np.arange(5)
    store.put_tensor("view:k", data)
    tensor = store.get_dlpack("view:k")
    told = taken(peer, tensor, **asked)
    assert told["version"] == (0, 0) and content(told) == data.tobytes()
    ctypes.memset(told["data"], 0, 40)
    assert bytes(tensor.data) == data.tobytes()
    peer.give_back(told["taken"])
    with pytest.raises(BufferError, match="copy"):
        tensor.__dlpack__(copy=False, **asked)


def test_a_legacy_capsule_of_private_memory_is_that_memory(store, peer):
    store.put_tensor("k", np.arange(5))
    tensor = store.get_dlpack("k")
    told = taken(peer, tensor, copy=False)
    ctypes.memset(told["data"], 0, 40)
    assert bytes(tensor.data) == bytes(40)
    peer.give_back(told["taken"])


def test_copies_are_made_and_marked_as_asked(store, peer):
    data = np.arange(5)
    for key in ("view:k", "k"):
        store.put_tensor(key, data)
        tensor = store.get_dlpack(key)
        told = taken(peer, tensor, max_version=(1, 0), copy=True)
        assert told["flags"] == COPIED and content(told) == data.tobytes()
        ctypes.memset(told["data"], 0, 40)
        assert bytes(tensor.data) == data.tobytes()
        peer.give_back(told["taken"])
        told = taken(peer, tensor, max_version=(1, 0), copy=False)
        assert told["flags"] == (READ_ONLY if tensor.readonly else 0)
        peer.give_back(told["taken"])


def test_what_cannot_be_given_is_refused(store, fake):
    store.put_tensor("k", np.arange(5))
    tensor = store.get_dlpack("k")
    assert tensor.__dlpack_device__() == (1, 0)
    for asked, error in (
        ({"dl_device": (2, 0)}, BufferError), ({"dl_device": (1, 1)}, BufferError), ({"stream": 1}, ValueError), ({"stream": 0}, ValueError), ({"stream": -1}, ValueError),
        ({"max_version": 1}, TypeError), ({"max_version": (1,)}, ValueError), ({"max_version": ("a", "b")}, TypeError), ({"dl_device": (1, 0, 0)}, ValueError),
        ({"copy": "x"}, TypeError), ({"nothing": 1}, TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            tensor.__dlpack__(**asked)
    with pytest.raises(TypeError):
        tensor.__dlpack__(None)


def test_a_capsule_that_nobody_takes_gives_its_memory_back(store, peer):
    store.put_tensor("view:k", np.arange(5))
    for asked in ({}, {"max_version": (1, 0)}):
        held = store.get_dlpack("view:k").__dlpack__(**asked)
        assert store.counters()["handles"] == (1 if asked else 0)
        del held
        assert store.counters()["handles"] == 0


def test_deleters_run_on_any_thread_and_after_the_store_is_gone(store, peer):
    store.put_tensor("view:k", np.arange(5))
    told = [taken(peer, store.get_dlpack("view:k"), max_version=(1, 0)) for _ in range(20)]
    store.close()
    assert store.counters()["handles"] == 20
    for one in told[:10]:
        peer.give_back(one["taken"], True)
    threads = [threading.Thread(target=peer.give_back, args=(one["taken"],)) for one in told[10:]]
    [t.start() for t in threads], [t.join() for t in threads]
    assert store.counters()["handles"] == 0


# ---- what we take ----


@pytest.mark.parametrize("versioned, version", [(True, (1, 0)), (True, (1, 3)), (True, (1, 99)), (False, (0, 0))])
def test_capsules_of_both_kinds_are_taken_and_given_back(store, books, versioned, version):
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    made = []

    def make():
        made.append(capsule(books, data, versioned=versioned, version=version))
        return made[-1]

    producer = Producer(make)
    assert store.put_tensor("k", producer) == 0
    assert producer.asked == [{"max_version": (1, 3)}]
    assert ts.same(store.get_dlpack("k"), data)
    assert "used_dltensor" in repr(made[0]), "consumed"
    assert books.counts()["deleted"] == books.counts()["made"]


def test_old_producers_are_asked_again_without_a_version(store, books):
    data = np.arange(6)
    producer = Producer(lambda: capsule(books, data, versioned=False), old=True)
    assert store.put_tensor("k", producer) == 0 and ts.same(store.get_dlpack("k"), data)
    assert producer.asked == [{"max_version": (1, 3)}, {}]


def test_strides_offsets_and_flags_are_understood(store, books):
    data = np.arange(24, dtype=np.float32)
    for key, shape, strides, offset, expected in (
        ("t", (6, 4), (1, 6), 0, data.reshape(4, 6).T), ("o", (5,), (1,), 12, data[3:8]), ("s", (4,), (5,), 8, data[2:22:5]), ("b", (3, 2), (0, 1), 0, np.broadcast_to(data[:2], (3, 2))),
    ):  # fmt: skip
        assert store.put_tensor(key, Producer(lambda: capsule(books, data, shape, strides, offset=offset, flags=READ_ONLY))) == 0
        assert ts.same(store.get_dlpack(key), np.ascontiguousarray(expected))
    negative = capsule(books, data, (6,), (-2,), offset=40)
    assert store.put_tensor("n", Producer(lambda: negative)) == 0
    assert ts.same(store.get_dlpack("n"), np.ascontiguousarray(data[10::-2]))


def test_of_another_major_version_only_the_deleter_is_called(store, books):
    data = np.arange(6)
    assert store.put_tensor("k", Producer(lambda: capsule(books, data, version=(2, 0)))) == -600


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": (5, 64, 1)}, {"dtype": (2, 32, 4)}, {"dtype": (2, 24, 1)}, {"dtype": (17, 4, 1)}, {"shape": (-1,)}, {"shape": (1,) * 9}, {"shape": (2**62, 2**62)},
        {"device": (4, 0)}, {"device": (0, 0)}, {"device": (8, 0)}, {"shape": (3,), "strides": (2**62,)}, {"offset": 2**64 - 1},
    ],
)  # fmt: skip
def test_tensors_that_cannot_be_are_refused_and_given_back(store, books, wrong):
    data = np.arange(6)
    for versioned in (True, False):
        assert store.put_tensor("k", Producer(lambda: capsule(books, data, versioned=versioned, **wrong))) == -600
    assert store.is_exist("k") == 0


def test_a_capsule_without_memory_is_refused(store, books):
    assert store.put_tensor("k", Producer(lambda: books.capsule(None, (3,), None, (2, 32, 1), (1, 0), True, (1, 3), 0, 0))) == -600
    assert store.put_tensor("k", Producer(lambda: books.capsule(None, (0, 3), None, (2, 32, 1), (1, 0), True, (1, 3), 0, 0))) == 0


@pytest.mark.parametrize("answer", [None, 5, "x", object()])
def test_answers_that_are_no_capsules_are_refused(store, peer, answer):
    assert store.put_tensor("k", Producer(lambda: answer)) == -600


@pytest.mark.parametrize("device", [None, 5, (1,), ("a", 0), (1.5, 0)])
def test_devices_that_make_no_sense_are_refused(store, peer, device):
    assert store.put_tensor("k", Producer(lambda: None, device=device)) == -600


def test_a_consumed_capsule_is_not_taken_again(store, books):
    data = np.arange(6)
    once = capsule(books, data)
    assert store.put_tensor("k", Producer(lambda: once)) == 0
    assert store.put_tensor("l", Producer(lambda: once)) == -600


def test_a_producer_on_a_device_is_asked_for_a_stream(store, books):
    data = np.arange(6)
    producer = Producer(lambda: capsule(books, data, device=(2, 0)), device=(2, 0))
    assert store.put_tensor("k", producer) == 0 and producer.asked == [{"max_version": (1, 3), "stream": 1}]
    old = Producer(lambda: capsule(books, data, device=(2, 0), versioned=False), device=(2, 0), old=True)
    assert store.put_tensor("l", old) == 0 and old.asked[1] == {"stream": 1}
    strided = Producer(lambda: capsule(books, data, (3,), (2,), device=(2, 0)), device=(2, 0))
    assert store.put_tensor("m", strided) == -600, "the processor cannot copy it"
    pinned = Producer(lambda: capsule(books, data, (3,), (2,), device=(3, 0)), device=(3, 0))
    assert store.put_tensor("n", pinned) == 0 and pinned.asked == [{"max_version": (1, 3)}]
    nowhere = Producer(lambda: books.capsule(None, (0,), None, (2, 32, 1), (2, 0), True, (1, 3), 0, 0), device=(2, 0))
    assert store.put_tensor("o", nowhere) == 0


# ---- the exchange table ----


def exchanging(peer, kind, make, fallback=None):
    class Exchanging:
        __dlpack_c_exchange_api__ = peer.exchange(kind)

        def __init__(self):
            self.peer = make()

        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **asked):
            if fallback is None:
                raise AssertionError("the table was enough")
            return fallback()

    return Exchanging()


@pytest.mark.parametrize("kind", ["plain", "newer"])
def test_an_exchange_table_lends_the_tensor_without_a_capsule(store, books, kind):
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    before = books.counts()["borrowed"]
    for key, strides in (("k", None), ("t", (1, 4))):
        assert store.put_tensor(key, exchanging(books, kind, lambda: capsule(books, data, strides=strides))) == 0
    assert books.counts()["borrowed"] == before + 2
    assert ts.same(store.get_dlpack("k"), data)
    assert ts.same(store.get_dlpack("t"), np.ascontiguousarray(data.reshape(6, 4).T))


@pytest.mark.parametrize("kind", ["newest only", "failing", "without", "of another name"])
def test_tables_that_do_not_serve_are_passed_over(store, books, kind):
    data = np.arange(6)
    thing = exchanging(books, kind, lambda: None, lambda: capsule(books, data))
    assert store.put_tensor("k", thing) == 0 and ts.same(store.get_dlpack("k"), data)


def test_a_lent_tensor_on_a_device_is_asked_for_by_capsule(store, books):
    data = np.arange(6)
    thing = exchanging(books, "plain", lambda: capsule(books, data, device=(2, 0)), lambda: capsule(books, data))
    assert store.put_tensor("k", thing) == 0 and ts.same(store.get_dlpack("k"), data)


def test_an_attribute_that_is_no_capsule_is_passed_over(store, books):
    data = np.arange(6)

    class Old(Producer):
        __dlpack_c_exchange_api__ = 12345  # an address, as 1.2 had it

    assert store.put_tensor("k", Old(lambda: capsule(books, data))) == 0 and ts.same(store.get_dlpack("k"), data)


def test_what_a_table_gives_is_taken_and_ended(store, books):
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    for key, strides in (("k", None), ("t", (1, 4))):
        assert store.put_tensor(key, exchanging(books, "managed", lambda: capsule(books, data, strides=strides))) == 0
    assert ts.same(store.get_dlpack("k"), data)
    assert ts.same(store.get_dlpack("t"), np.ascontiguousarray(data.reshape(6, 4).T))
    store.put_tensor("ones", np.ones_like(data))
    readonly = exchanging(books, "managed", lambda: capsule(books, data, flags=READ_ONLY))
    assert store.get_tensor_into_cuda("ones", readonly) == -600 and data[0, 1] == 1, "its flags are believed"
    assert store.get_tensor_into_cuda("ones", exchanging(books, "managed", lambda: capsule(books, data))) == 96 and (data == 1).all()
    other = exchanging(books, "managed", lambda: capsule(books, data, version=(2, 0)), lambda: capsule(books, data))
    assert store.put_tensor("v", other) == 0 and ts.same(store.get_dlpack("v"), data), "by a capsule, then"


# ---- our exchange table ----


def test_the_type_has_an_exchange_table(fake):
    assert "dlpack_exchange_api" in repr(fake.StoredTensor.__dlpack_c_exchange_api__)


def test_our_table_lends_and_gives_what_a_capsule_would_say(store, fake, books):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    store.put_tensor("k", data)
    store.put_tensor("view:k", data)
    for key, flags in (("k", 0), ("view:k", READ_ONLY)):
        tensor = store.get_dlpack(key)
        given = books.managed(fake.StoredTensor, tensor)
        wanted = taken(books, tensor, max_version=(1, 3))
        assert {**given, "taken": 0} == {**wanted, "taken": 0} and given["flags"] == flags
        del tensor
        gc.collect()
        assert content(given) == data.tobytes(), "it keeps the memory"
        books.give_back(given["taken"], True), books.give_back(wanted["taken"])
    assert store.counters()["handles"] == 0
    lent = books.lend(store.get_dlpack("k"))
    assert (lent["device"], lent["dtype"], lent["shape"], lent["strides"]) == ((1, 0), (0, 16, 1), [2, 3, 4], [12, 4, 1])
    with pytest.raises(BufferError, match="read-only"):
        books.lend(store.get_dlpack("view:k"))
    with pytest.raises(TypeError):
        books.managed(fake.StoredTensor, data)
    store.put_tensor("empty", np.zeros((2, 0)))
    assert books.lend(store.get_dlpack("empty"))["data"] == 0


def test_our_own_tensors_are_stored_by_the_table(store, fake):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for key in ("k", "view:k"):
        store.put_tensor(key, data)
        assert store.put_tensor(f"copy-{key}", store.get_dlpack(key)) == 0 and store.get(f"copy-{key}") == store.get(key)
    assert store.get_tensor_into_cuda("k", store.get_dlpack("view:k")) == -600, "stored bytes are not written to"
    assert store.get_tensor_into_cuda("k", store.get_dlpack("k")) == data.nbytes


def test_our_table_imports_a_tensor(store, fake, books):
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    for flags in (0, READ_ONLY):
        tensor = books.import_into(fake.StoredTensor, capsule(books, data, flags=flags))
        assert type(tensor) is fake.StoredTensor and ts.same(tensor, data) and tensor.readonly == bool(flags)
        assert store.upsert_tensor("k", tensor) == 0 and ts.same(store.get_dlpack("k"), data)
        del tensor
    for wrong in ({"strides": (1, 4)}, {"version": (2, 0)}, {"dtype": (5, 64, 1)}, {"device": (10, 0)}):
        with pytest.raises(BufferError):
            books.import_into(fake.StoredTensor, capsule(books, data, **wrong))


@pytest.mark.parametrize("name", ts.DTYPES)
def test_our_table_makes_tensors(fake, peer, name):
    for shape in ((), (5,), (2, 3), (0, 4), (1,) * 8):
        tensor = peer.allocate(fake.StoredTensor, shape, ts.DL[name], (1, 0))
        assert (tensor.shape, tensor.dtype, tensor.readonly) == (shape, name, False)
        memoryview(tensor.data)[:] = bytes(tensor.nbytes)
    for shape, dtype, device in (((2,), (5, 64, 1), (1, 0)), ((2,), (2, 32, 1), (2, 0)), ((-1,), (2, 32, 1), (1, 0)), ((1,) * 9, (2, 32, 1), (1, 0))):
        with pytest.raises(ValueError, match="BufferError: "):
            peer.allocate(fake.StoredTensor, shape, dtype, device)
    with pytest.raises(ValueError, match="MemoryError: "):
        peer.allocate(fake.StoredTensor, (2**61,), (0, 8, 1), (1, 0))


# ---- other libraries ----


def test_numpy_takes_and_gives(store, no_torch):
    data = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    store.put_tensor("view:k", data)
    if ts.VERSIONED_NUMPY:
        shown = np.from_dlpack(store.get_dlpack("view:k"))
        assert not shown.flags.writeable and (shown == data).all() and store.counters()["handles"] == 1
        copied = np.from_dlpack(store.get_dlpack("view:k"), copy=True)
        assert copied.flags.writeable and (copied == data).all()
    else:
        assert (np.from_dlpack(store.get_dlpack("view:k")) == data).all()


@pytest.mark.skipif(not ts.real_torch(), reason="torch is not installed")
@pytest.mark.parametrize("name", ts.DTYPES)
def test_torch_takes_and_gives(store, name):
    import torch

    if not hasattr(torch, name):
        pytest.skip("this torch has no such type")
    for shape in ((), (5,), (2, 3), (0, 2), (2,) * 8):
        bits = ts.array_of(ts.BITS.get(name, name), shape)
        raw = ts.bytes_of(bits)
        tensor = torch.frombuffer(bytearray(raw), dtype=getattr(torch, name)).reshape(shape) if raw else torch.empty(shape, dtype=getattr(torch, name))
        assert store.upsert_tensor("k", tensor) == 0 and store.get("k") == ts.header(name, shape) + raw
        back = store.get_tensor("k")
        assert isinstance(back, torch.Tensor) and ts.content(back) == (name, shape, raw)
        if raw:
            back.view(-1).view(torch.uint8)[0] = 1  # its own memory
    if len(shape := (4, 6)) == 2:
        tensor = torch.frombuffer(bytearray(ts.bytes_of(ts.array_of(ts.BITS.get(name, name), shape))), dtype=getattr(torch, name)).reshape(shape)
        assert store.upsert_tensor("t", tensor.t()) == 0
        assert ts.content(store.get_tensor("t")) == ts.content(tensor.t().contiguous())


@pytest.mark.skipif(not ts.real_torch(), reason="torch is not installed")
def test_torch_shows_a_stored_tensor(store):
    import torch

    data = np.arange(6, dtype=np.float32)
    store.put_tensor("view:k", data)
    shown = torch.from_dlpack(store.get_dlpack("view:k"))
    assert torch.equal(shown, torch.arange(6, dtype=torch.float32))
    parameter = torch.nn.Parameter(torch.arange(4.0))
    assert store.put_tensor("p", parameter) == 0 and ts.content(store.get_tensor("p")) == ts.content(parameter)
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert conjugate.is_neg() and store.put_tensor("n", conjugate) == 0
    assert store.get_tensor("n").tolist() == [-2.0, 4.0]
    for wrong in (torch.empty(3, device="meta"), torch.ones(3).to_sparse(), torch.ones(2, dtype=torch.complex64), torch.zeros((1,) * 9)):
        assert store.put_tensor("wrong", wrong) == -600
