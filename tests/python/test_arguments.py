"""Every method with every kind of argument it must refuse: TypeError (or its ValueError relatives), never a crash, never a silent conversion."""

import pytest
from python_support import SETUP

BIG = 1 << 64


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class BadIndex:
    def __index__(self):
        raise ZeroDivisionError("from __index__")


NOT_NUMBERS = [None, "1", b"1", 1.0, -1, -(1 << 63), BIG, 1 << 200, [], object(), Index(-1), Index(BIG)]
NOT_KEYS = [None, 1, 1.5, [], {}, object(), ("a",), memoryview(b"k")]
NOT_LISTS = [None, 1, "keys", b"keys", bytearray(b"keys"), {"a": 1}, {"a"}, object(), iter(["a"]), (x for x in "ab")]
NOT_VALUES = [None, 1, 1.5, "text", ["a"], {}, object()]
NOT_CONFIGS = [None, 1, "config", {}, object()]
NOT_BOOLS = ["yes", b"1", 1.5j and "", [], {}, object(), "", ()]

# method -> (a call that is right, {position or keyword: what must be refused there})
NUM, KEY, LIST, VALUE, CONFIG, BOOL = "num", "key", "list", "value", "config", "bool"
WRONG = {NUM: NOT_NUMBERS, KEY: NOT_KEYS, LIST: NOT_LISTS, VALUE: NOT_VALUES, CONFIG: NOT_CONFIGS, BOOL: NOT_BOOLS}
METHODS = {
    "put": [("key", KEY, "k"), ("value", VALUE, b"v"), ("config", CONFIG, None)],
    "upsert": [("key", KEY, "k"), ("value", VALUE, b"v"), ("config", CONFIG, None)],
    "put_batch": [("keys", LIST, ["k"]), ("values", LIST, [b"v"]), ("config", CONFIG, None)],
    "upsert_batch": [("keys", LIST, ["k"]), ("values", LIST, [b"v"]), ("config", CONFIG, None)],
    "get": [("key", KEY, "k")],
    "get_batch": [("keys", LIST, ["k"])],
    "get_buffer": [("key", KEY, "k")],
    "batch_get_buffer": [("keys", LIST, ["k"])],
    "get_size": [("key", KEY, "k")],
    "is_exist": [("key", KEY, "k")],
    "batch_is_exist": [("keys", LIST, ["k"])],
    "remove": [("key", KEY, "k"), ("force", BOOL, False)],
    "batch_remove": [("keys", LIST, ["k"]), ("force", BOOL, False)],
    "remove_by_regex": [("regex_pattern", KEY, "k"), ("force", BOOL, False)],
    "remove_all": [("force", BOOL, False)],
    "get_replica_desc": [("key", KEY, "k")],
    "batch_get_replica_desc": [("keys", LIST, ["k"])],
    "register_buffer": [("buffer_ptr", NUM, 0), ("size", NUM, 0)],
    "unregister_buffer": [("buffer_ptr", NUM, 0), ("size", NUM, 0)],
    "put_from": [("key", KEY, "k"), ("buffer_ptr", NUM, 0), ("size", NUM, 0), ("config", CONFIG, None)],
    "upsert_from": [("key", KEY, "k"), ("buffer_ptr", NUM, 0), ("size", NUM, 0), ("config", CONFIG, None)],
    "put_from_with_metadata": [
        ("key", KEY, "k"),
        ("buffer_ptr", NUM, 0),
        ("metadata_buffer_ptr", NUM, 0),
        ("size", NUM, 0),
        ("metadata_size", NUM, 0),
        ("config", CONFIG, None),
    ],
    "get_into": [("key", KEY, "k"), ("buffer_ptr", NUM, 0), ("size", NUM, 0)],
    "batch_put_from": [("keys", LIST, ["k"]), ("buffer_ptrs", LIST, [0]), ("sizes", LIST, [0]), ("config", CONFIG, None)],
    "batch_upsert_from": [("keys", LIST, ["k"]), ("buffer_ptrs", LIST, [0]), ("sizes", LIST, [0]), ("config", CONFIG, None)],
    "batch_get_into": [("keys", LIST, ["k"]), ("buffer_ptrs", LIST, [0]), ("sizes", LIST, [0])],
    "batch_put_from_multi_buffers": [
        ("keys", LIST, ["k"]),
        ("all_buffer_ptrs", LIST, [[0]]),
        ("all_sizes", LIST, [[0]]),
        ("config", CONFIG, None),
    ],
    "batch_get_into_multi_buffers": [
        ("keys", LIST, ["k"]),
        ("all_buffer_ptrs", LIST, [[0]]),
        ("all_sizes", LIST, [[0]]),
        ("prefer_alloc_in_same_node", BOOL, False),
    ],
    "get_into_ranges": [
        ("buffer_ptrs", LIST, [0]),
        ("all_keys", LIST, [["k"]]),
        ("all_dst_offsets", LIST, [[[0]]]),
        ("all_src_offsets", LIST, [[[0]]]),
        ("all_sizes", LIST, [[[0]]]),
    ],
    "batch_get_session_start": [("keys", LIST, ["k"])],
    "batch_get_into_multi_buffer_ranges": [
        ("keys", LIST, ["k"]),
        ("all_buffer_ptrs", LIST, [[0]]),
        ("all_sizes", LIST, [[0]]),
        ("all_src_offsets", LIST, [[0]]),
    ],
    "batch_get_session_end": [("keys", LIST, ["k"])],
    "batch_put_session_start": [("keys", LIST, ["k"]), ("sizes", LIST, [0]), ("config", CONFIG, None)],
    "batch_put_from_multi_buffer_ranges": [
        ("keys", LIST, ["k"]),
        ("all_buffer_ptrs", LIST, [[0]]),
        ("all_sizes", LIST, [[0]]),
        ("all_dst_offsets", LIST, [[0]]),
    ],
    "batch_put_session_end": [("keys", LIST, ["k"])],
    "batch_put_session_revoke": [("keys", LIST, ["k"])],
    "batch_replica_clear": [("keys", LIST, ["k"]), ("segment_name", KEY, "")],
    "allocate_and_mount_segment": [("size", NUM, 1), ("protocol", KEY, "tcp"), ("location", KEY, "")],
    "unmount_and_free_segment": [("segment_ids", LIST, ["1-2"]), ("grace_period_seconds", NUM, 0)],
    "unmount_segment": [("segment_ids", LIST, ["1-2"]), ("grace_period_seconds", NUM, 0)],
    "mount_segment": [
        ("path", KEY, "/x"),
        ("size", NUM, 1),
        ("offset", NUM, 0),
        ("protocol", KEY, "tcp"),
        ("location", KEY, ""),
    ],
    "unmount_local_disk_segment": [("grace_period_seconds", NUM, 0)],
    "create_copy_task": [("key", KEY, "k"), ("targets", LIST, ["s"])],
    "create_move_task": [("key", KEY, "k"), ("source", KEY, "s"), ("target", KEY, "t")],
    "query_task": [("task_id", LIST, (1, 2))],
    "setup_dummy": [("mem_pool_size", NUM, 1), ("local_buffer_size", NUM, 1), ("server_address", KEY, "x:1")],
    "alloc_from_mem_pool": [("size", NUM, 1)],
    "init_all": [("protocol", KEY, "none"), ("device_name", KEY, ""), ("mount_segment_size", NUM, 0)],
}


def right_values(fake, parameters):
    return [fake.ReplicateConfig() if kind is CONFIG else value for _, kind, value in parameters]


def cases():
    for method, parameters in METHODS.items():
        for index, (name, kind, _) in enumerate(parameters):
            for wrong in WRONG[kind]:
                yield pytest.param(method, index, wrong, id=f"{method}-{name}-{type(wrong).__name__}-{str(wrong)[:12]}")


@pytest.mark.parametrize("method, index, wrong", list(cases()))
@pytest.mark.parametrize("by_keyword", [False, True], ids=["positional", "keyword"])
def test_a_wrong_type_is_a_type_error_that_names_the_argument(fake, store, method, index, wrong, by_keyword):
    parameters = METHODS[method]
    values = right_values(fake, parameters)
    values[index] = wrong
    kwargs = {}
    if by_keyword:
        kwargs = {name: value for (name, _, _), value in zip(parameters, values)}
        values = []
    with pytest.raises(TypeError) as caught:
        getattr(store, method)(*values, **kwargs)
    assert method in str(caught.value) and parameters[index][0] in str(caught.value)


@pytest.mark.parametrize("name", [lambda cls: 5, lambda cls: 1 // 0], ids=["no text", "raises"])
def test_a_type_without_a_name_is_refused_like_others(store, name):
    nameless = type("Meta", (type,), {"__name__": property(name)})("Nameless", (), {})()
    with pytest.raises(TypeError, match=r"put\(\): argument 'key' must be str or bytes"):
        store.put(nameless, b"v")
    assert store.put_tensor("k", nameless) == -600


@pytest.mark.parametrize("method", METHODS)
def test_right_arguments_are_taken_by_position_and_by_keyword(fake, store, method):
    parameters = METHODS[method]
    values = right_values(fake, parameters)
    first = getattr(store, method)(*values)
    second = getattr(store, method)(**{name: value for (name, _, _), value in zip(parameters, values)})
    assert type(first) is type(second)


@pytest.mark.parametrize("method", [*METHODS, "put_parts", "upsert_parts", "setup"])
def test_an_unknown_keyword_is_a_type_error_with_its_name(fake, store, method):
    values = ["k"] if method.endswith("parts") else SETUP if method == "setup" else right_values(fake, METHODS[method])
    with pytest.raises(TypeError, match="no_such_name"):
        getattr(store, method)(*values, no_such_name=1)


@pytest.mark.parametrize("method", METHODS)
def test_missing_and_surplus_arguments_are_type_errors(fake, store, method):
    parameters = METHODS[method]
    values = right_values(fake, parameters)
    with pytest.raises(TypeError):
        getattr(store, method)(*values, *values, 1)
    with pytest.raises(TypeError, match=parameters[0][0]):
        getattr(store, method)(*values, **{parameters[0][0]: values[0]})
    if method not in ("remove_all", "unmount_local_disk_segment"):
        with pytest.raises(TypeError, match="missing"):
            getattr(store, method)()


@pytest.mark.parametrize("method", [m for m, p in METHODS.items() if p[0][0] == "keys"])
@pytest.mark.parametrize("wrong", NOT_KEYS, ids=lambda w: type(w).__name__)
def test_a_wrong_key_in_a_list_is_a_type_error(fake, store, method, wrong):
    values = right_values(fake, METHODS[method])
    values[0] = ["fine", wrong]
    with pytest.raises(TypeError, match="keys"):
        getattr(store, method)(*values)


@pytest.mark.parametrize("method", ["batch_put_from", "batch_upsert_from", "batch_get_into"])
@pytest.mark.parametrize("wrong", NOT_NUMBERS, ids=lambda w: f"{type(w).__name__}-{str(w)[:8]}")
def test_a_wrong_number_in_a_list_is_a_type_error(store, method, wrong):
    for arguments in ((["k"], [wrong], [1]), (["k"], [1], [wrong])):
        with pytest.raises(TypeError):
            getattr(store, method)(*arguments)


@pytest.mark.parametrize("method", ["batch_put_from_multi_buffers", "batch_get_into_multi_buffers"])
@pytest.mark.parametrize("wrong", [*NOT_NUMBERS, [[0]]], ids=lambda w: f"{type(w).__name__}-{str(w)[:8]}")
def test_a_wrong_number_in_a_table_is_a_type_error(store, method, wrong):
    for arguments in ((["k"], [[wrong]], [[1]]), (["k"], [[1]], [[wrong]]), (["k"], [1], [[1]]), (["k"], [[1]], [1])):
        with pytest.raises(TypeError):
            getattr(store, method)(*arguments)


@pytest.mark.parametrize("wrong", [1, "x", [1], ["x"], [[1.5]], [[-1]], [["1"]]], ids=str)
@pytest.mark.parametrize("index", [2, 3, 4])
def test_a_wrong_offset_in_a_table_of_tables_is_a_type_error(store, index, wrong):
    for good in ([[[0]]], []):
        arguments = [[0], [["k"]], good, good, good]
        arguments[index] = [wrong]
        with pytest.raises(TypeError):
            store.get_into_ranges(*arguments)


@pytest.mark.parametrize("key", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("method", ["get", "is_exist", "remove", "get_size", "get_buffer"])
def test_a_key_that_is_no_utf8_is_a_value_error(store, method, key):
    with pytest.raises(ValueError):
        getattr(store, method)(key)
    with pytest.raises(ValueError):
        store.batch_is_exist(["fine", key])


@pytest.mark.parametrize("key", ["k", "ключ", "键", "🔑", "a\0b", b"k", b"\xff\x00\xfe", bytearray(b"ba"), " ", "\n", "k" * 8192])
def test_keys_are_text_or_bytes_of_any_kind(store, key):
    assert store.put(key, b"value") == 0
    assert store.get(key) == b"value"
    as_bytes = key.encode() if isinstance(key, str) else bytes(key)
    assert store.get(as_bytes) == b"value"
    assert store.get_batch([key, as_bytes]) == [b"value", b"value"]
    assert store.remove(key) == 0


@pytest.mark.parametrize("keys", [["a", "b"], ("a", "b")], ids=["list", "tuple"])
def test_key_sequences_of_other_types(store, keys):
    assert store.batch_is_exist(keys) == [0, 0]


def test_key_sequences_of_numpy(store):
    numpy = pytest.importorskip("numpy")
    assert store.batch_is_exist(numpy.array(["a", "b"])) == [0, 0]


def test_numbers_are_anything_with_index(store):
    numpy = pytest.importorskip("numpy")
    data = bytearray(b"0123456789")
    view = numpy.frombuffer(data, dtype=numpy.uint8)
    for number in (numpy.uint64, numpy.int64, Index, int):
        assert store.put_from(f"k-{number.__name__}", number(view.ctypes.data), number(10)) == 0
        assert store.get(f"k-{number.__name__}") == bytes(data)
    pointers = numpy.array([view.ctypes.data], dtype=numpy.uint64)
    assert store.batch_put_from(["array"], pointers, numpy.array([3])) == [0]
    assert store.get("array") == b"012"
    assert store.register_buffer(True, 0) == -600


def test_an_exception_of_the_users_code_passes(store):
    with pytest.raises(ZeroDivisionError):
        store.put_from("k", BadIndex(), 1)

    class BadSequence(list):
        def __iter__(self):
            raise KeyError("from __iter__")

    class BadTruth:
        def __bool__(self):
            raise OSError("from __bool__")

    with pytest.raises(KeyError):
        store.batch_is_exist(BadSequence(["a"]))
    with pytest.raises(OSError):
        store.remove("k", force=BadTruth())


def test_force_is_any_truth_value(store):
    numpy = pytest.importorskip("numpy")
    for yes in (True, 1, numpy.bool_(True)):
        assert store.remove("!code:-706", force=yes) == 0
    for no in (False, 0, None, numpy.bool_(False)):
        assert store.remove("!code:-706", force=no) == -706


def test_the_constructor_takes_no_arguments(fake):
    for args, kwargs in (((1,), {}), ((), {"x": 1})):
        with pytest.raises(TypeError):
            fake.MooncakeDistributedStore(*args, **kwargs)
    with pytest.raises(TypeError):
        fake.BufferHandle()
    with pytest.raises(TypeError):
        fake.ReplicaDescriptor()


# ---- setup ----

NAMES = ["local_hostname", "metadata_server", "global_segment_size", "local_buffer_size", "protocol", "rdma_devices", "master_server_addr"]
KWARGS = dict(zip(NAMES, SETUP))


def test_setup_by_position_by_keyword_mixed_and_by_dict(fake):
    store = fake.MooncakeDistributedStore()
    extras = dict(
        engine=None,
        enable_ssd_offload=False,
        ssd_offload_path="",
        tenant_id="t",
        enable_client_http_server=False,
        client_http_port=9300,
    )
    assert store.setup(*SETUP) == 0
    assert store.setup(*SETUP, None) == 0
    assert store.setup(*SETUP, object(), False, "", "t", False, 1) == 0
    assert store.setup(*SETUP, **extras) == 0
    assert store.setup(**KWARGS) == 0
    assert store.setup(**KWARGS, **extras) == 0
    assert store.setup(*SETUP[:3], **{name: KWARGS[name] for name in NAMES[3:]}) == 0
    assert store.setup(KWARGS) == 0
    assert store.setup(config=KWARGS) == 0
    assert store.get_hostname() == "localhost:12300"


def test_setup_takes_the_other_spellings(fake):
    store = fake.MooncakeDistributedStore()
    others = {**KWARGS, "device_name": "", "master_server_address": "m:1"}
    del others["rdma_devices"], others["master_server_addr"]
    assert store.setup(**others) == 0
    assert store.setup(others) == 0
    for name, other in (("rdma_devices", "device_name"), ("master_server_addr", "master_server_address")):
        with pytest.raises(TypeError, match=other):
            store.setup(**KWARGS, **{other: "x"})
        assert store.setup({**KWARGS, other: "x"}) == 0
    assert store.setup({**others, "master_server_address": "unreachable:1"}) == -600


@pytest.mark.parametrize("count", range(7))
def test_the_first_seven_of_setup_are_required(fake, count):
    with pytest.raises(TypeError):
        fake.MooncakeDistributedStore().setup(*SETUP[:count])
    with pytest.raises(TypeError, match=NAMES[count]):
        fake.MooncakeDistributedStore().setup(**{name: KWARGS[name] for name in NAMES if name != NAMES[count]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [None, 1.5, [], object(), {}], ids=lambda w: type(w).__name__)
def test_setup_refuses_wrong_types(fake, name, wrong):
    with pytest.raises(TypeError, match=name):
        fake.MooncakeDistributedStore().setup(**{**KWARGS, name: wrong})


@pytest.mark.parametrize("name", ["global_segment_size", "local_buffer_size", "client_http_port"])
@pytest.mark.parametrize("wrong", ["16MB", -1, BIG, b"1"])
def test_setup_sizes_are_numbers(fake, name, wrong):
    with pytest.raises(TypeError, match=name):
        fake.MooncakeDistributedStore().setup(**{**KWARGS, name: wrong})


def test_setup_texts_have_no_null_character_and_are_utf8(fake):
    for bad in ("a\0b", "\ud800"):
        with pytest.raises(ValueError):
            fake.MooncakeDistributedStore().setup(**{**KWARGS, "local_hostname": bad})


@pytest.mark.parametrize("name", ["global_segment_size", "local_buffer_size"])
@pytest.mark.parametrize(
    "text, bytes_", [("16MB", 16 << 20), ("16 MB", 16 << 20), ("1.5 GB", 3 << 29), ("4g", 4 << 30), (" 2048 ", 2048), (1024, 1024), (1e6, 10**6), ("1.5e6", 1_500_000), ("0", 0)]
)
def test_dict_sizes_are_texts(fake, name, text, bytes_):
    store = fake.MooncakeDistributedStore()
    assert store.setup({**KWARGS, name: text}) == 0
    if name == "local_buffer_size":
        assert store._local_buffer_size() == bytes_


@pytest.mark.parametrize("bad", ["", "x", "5 XB", "-1", "-1MB", "1e2", "1e", "50%", "50 %", "%", "0x10", "nan", "inf", "1 2", 1.5j, [1]])
def test_dict_sizes_that_are_none_are_refused(fake, bad):
    assert fake.MooncakeDistributedStore().setup({**KWARGS, "global_segment_size": bad}) == -600


def test_dict_bounds(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup({**KWARGS, "global_segment_size": 1023}) == -600
    assert store.setup({**KWARGS, "global_segment_size": 1024}) == 0
    assert store.setup({**KWARGS, "local_buffer_size": (1 << 40) + 1}) == -600
    assert store.setup({**KWARGS, "local_buffer_size": 1 << 40}) == 0


def test_dict_defaults_and_strangers(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup({"local_hostname": "h", "metadata_server": "P2PHANDSHAKE"}) == 0
    assert store._local_buffer_size() == 16 << 20
    assert store.setup({**KWARGS, "transfer_timeout": 1, 5: 6, "ipc_socket_path": "x", "rdma_devices": None}) == 0
    assert store.setup({}) == -600
    assert store.setup({"local_hostname": "h"}) == -600
    assert store.setup({"metadata_server": "P2PHANDSHAKE"}) == -600
    assert store.setup({**KWARGS, "enable_ssd_offload": "maybe"}) == -600
    assert store.setup({**KWARGS, "enable_ssd_offload": "False", "enable_client_http_server": False}) == 0
    with pytest.raises(TypeError):
        store.setup({**KWARGS}, {})
    with pytest.raises(TypeError):
        store.setup(config=[1])

    class BadText:
        def __str__(self):
            raise LookupError("from __str__")

    with pytest.raises(LookupError):
        store.setup({**KWARGS, "protocol": BadText()})


def test_ssd_offload_is_refused_and_documented(fake, capfd):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP, enable_ssd_offload=True) == -600
    assert "enable_ssd_offload" in capfd.readouterr().err
    assert store.setup({**KWARGS, "enable_ssd_offload": "true"}) == -600
    assert store.setup(*SETUP, enable_ssd_offload=False, ssd_offload_path="/x") == 0
    assert "enable_ssd_offload" in fake.MooncakeDistributedStore.setup.__doc__
    assert "enable_ssd_offload" in fake.MooncakeDistributedStore.setup.__text_signature__


def test_setup_codes_pass_through(fake):
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP[:6], "unreachable:1") == -600
    assert store.setup(*SETUP[:6], "noport") == -1
    assert store.setup("", *SETUP[1:]) == -600
    assert store.setup(*SETUP[:4], "carrier-pigeon", *SETUP[5:]) == -600
    assert store.init_all("tcp", "", 1 << 20) == 0
