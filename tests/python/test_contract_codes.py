"""Contract: the result codes, each by its name, and what makes the calls answer them."""

import ctypes

import pytest
from contract_support import MIB, Memory, found, fresh, inside_a_lease, new_store
from python_support import BUILD_DIR, Master, free_ports, wait_until

CODES = {
    "OK": 0, "INTERNAL_ERROR": -1, "BUFFER_OVERFLOW": -10, "SHARD_INDEX_OUT_OF_RANGE": -100, "SEGMENT_NOT_FOUND": -101, "SEGMENT_ALREADY_EXISTS": -102, "CLIENT_NOT_FOUND": -103,
    "NO_AVAILABLE_HANDLE": -200, "INVALID_VERSION": -300, "INVALID_KEY": -400, "WRITE_FAIL": -500, "INVALID_PARAMS": -600, "ILLEGAL_CLIENT": -601, "INVALID_WRITE": -700,
    "INVALID_READ": -701, "INVALID_REPLICA": -702, "REPLICA_IS_NOT_READY": -703, "OBJECT_NOT_FOUND": -704, "OBJECT_ALREADY_EXISTS": -705, "OBJECT_HAS_LEASE": -706,
    "LEASE_EXPIRED": -707, "OBJECT_HAS_REPLICATION_TASK": -708, "OBJECT_NO_REPLICATION_TASK": -709, "REPLICA_NOT_FOUND": -710, "REPLICA_ALREADY_EXISTS": -711,
    "REPLICA_IS_GONE": -712, "REPLICA_NOT_IN_LOCAL_MEMORY": -713, "OBJECT_REPLICA_BUSY": -714, "TRANSFER_FAIL": -800, "CHECKSUM_MISMATCH": -801, "RPC_FAIL": -900,
    "RPC_TIMEOUT": -901, "ETCD_OPERATION_ERROR": -1000, "ETCD_KEY_NOT_EXIST": -1001, "ETCD_TRANSACTION_FAIL": -1002, "ETCD_CTX_CANCELLED": -1003, "OPLOG_ENTRY_NOT_FOUND": -1004,
    "K8S_LEASE_OPERATION_ERROR": -1005, "K8S_LEASE_NOT_FOUND": -1006, "INCOMPLETE_OPLOG_CATCH_UP": -1007, "UNAVAILABLE_IN_CURRENT_STATUS": -1010,
    "UNAVAILABLE_IN_CURRENT_MODE": -1011, "NOT_SUPPORTED": -1012, "FILE_NOT_FOUND": -1100, "FILE_OPEN_FAIL": -1101, "FILE_READ_FAIL": -1102, "FILE_WRITE_FAIL": -1103,
    "FILE_INVALID_BUFFER": -1104, "FILE_LOCK_FAIL": -1105, "FILE_INVALID_HANDLE": -1106, "BUCKET_NOT_FOUND": -1200, "BUCKET_ALREADY_EXISTS": -1201,
    "KEYS_EXCEED_BUCKET_LIMIT": -1202, "KEYS_ULTRA_LIMIT": -1203, "UNABLE_OFFLOAD": -1300, "UNABLE_OFFLOADING": -1301, "TASK_NOT_FOUND": -1400, "TASK_PENDING_LIMIT_EXCEEDED": -1401,
    "JOB_NOT_FOUND": -1402, "SERIALIZE_UNSUPPORTED": -1500, "SERIALIZE_FAIL": -1501, "DESERIALIZE_FAIL": -1502, "PERSISTENT_FAIL": -1503, "DFS_NETWORK_TIMEOUT": -1600,
    "DFS_SERVICE_UNAVAILABLE": -1601, "DFS_QUOTA_EXCEEDED": -1602, "DFS_PERMISSION_DENIED": -1603, "DFS_STALE_HANDLE": -1604, "DFS_PARTIAL_WRITE": -1605,
    "TENANT_QUOTA_EXCEEDED": -1700, "TENANT_NOT_REGISTERED": -1701, "TENANT_NOT_EMPTY": -1702,
}


@pytest.fixture(scope="module")
def code_name():
    path = BUILD_DIR / "libmcstore.so"
    if not path.exists():
        pytest.skip("libmcstore is not built")
    function = ctypes.CDLL(str(path)).mcs_code_name
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_int]
    return lambda code: function(code).decode()


@pytest.mark.parametrize("name", CODES)
def test_a_code_has_its_name(code_name, name):
    assert code_name(CODES[name]) == name


@pytest.mark.parametrize("code", [1, -2, -99, -9999, 2**31 - 1, -(2**31)])
def test_other_numbers_have_none(code_name, code):
    assert code_name(code) == "UNKNOWN_ERROR"


# ---- what answers them ----


@pytest.fixture(scope="module")
def pair(real, master):
    stores = new_store(real, master), new_store(real, master)
    stores[1].master = master.address
    yield stores
    for store in stores:
        store.close()


def present(real, store, where):
    config = real.ReplicateConfig()
    config.preferred_segment = where.get_hostname()
    key = fresh()
    assert store.put(key, b"x", config) == 0
    return key


def moved_from_where_it_is_not(real, one, two):
    third = real.MooncakeDistributedStore()
    assert third.setup(f"127.0.0.1:{free_ports(1)[0]}", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", two.master) == 0
    _, code = one.create_move_task(present(real, one, one), two.get_hostname(), third.get_hostname())
    assert third.close() == 0
    return code


# name -> the code by a call of (module, a store, another one)
ANSWERED = {
    "OK": lambda real, one, two: one.put(fresh(), b"x"),
    "INTERNAL_ERROR": lambda real, one, two: real.MooncakeDistributedStore().setup("127.0.0.1", "P2PHANDSHAKE", 0, MIB, "tcp", "", f"127.0.0.1:{free_ports(1)[0]}"),
    "SEGMENT_NOT_FOUND": lambda real, one, two: one.unmount_segment(["1-2"]),
    "NO_AVAILABLE_HANDLE": lambda real, one, two: one.put_from(fresh(), *huge()),
    "INVALID_PARAMS": lambda real, one, two: one.put("", b"x"),
    "INVALID_WRITE": lambda real, one, two: unwritten(one),
    "OBJECT_NOT_FOUND": lambda real, one, two: one.get_size(fresh()),
    "OBJECT_HAS_LEASE": lambda real, one, two: inside_a_lease(lambda: found(two), one.remove)[1],
    "REPLICA_NOT_FOUND": lambda real, one, two: moved_from_where_it_is_not(real, one, two),
    "RPC_FAIL": lambda real, one, two: real.MooncakeDistributedStore().setup_dummy(MIB, MIB, f"127.0.0.1:{free_ports(1)[0]}"),
    "FILE_NOT_FOUND": lambda real, one, two: one.mount_segment("/no/such/file", 16 * MIB)["ret"],
    "TASK_NOT_FOUND": lambda real, one, two: one.query_task((1, 2))[1],
}
_kept = []


def huge():
    _kept.append(Memory(140 * MIB))
    return _kept[-1].ptr, _kept[-1].size


def unwritten(store):
    key = fresh()
    assert store.batch_put_session_start([key], [10]) == [0]
    (code,) = store.batch_put_session_end([key])
    assert store.batch_put_session_revoke([key]) == [0]
    return code


@pytest.mark.parametrize("name", ANSWERED)
def test_a_call_answers(real, pair, name):
    assert ANSWERED[name](real, *pair) == CODES[name]
    _kept.clear()


def test_a_master_that_does_not_answer_is_an_rpc_failure(real, master_binary, tmp_path):
    master = Master(tmp_path)
    store = new_store(real, master)
    assert store.put("k", b"x") == 0
    assert master.stop() == 0
    wait_until(lambda: store.health_check() == 2, "the store knows")
    assert store.is_exist(fresh()) in (-900, -901) and store.put(fresh(), b"x") in (-900, -901)
    assert store.batch_is_exist([fresh()] * 2) in ([-900] * 2, [-901] * 2)
    assert store.close() == 0
