"""Contract: the documented environment of the store client: what counts, and that the rest says so when it is set."""

import re

import pytest
from python_support import ROOT, run_python

PAGE = (ROOT / "docs" / "configuration.md").read_text().partition("## Client\n")[2]
ROWS = re.findall(r"^\| \w* \| (\w+) \| (\w+) \| `([^`]*)` \| (.*) \|$", PAGE, re.M)
STATE = {name: "none" if "accepted, no effect" in text else "works" for name, _, _, text in ROWS}

# Variable: its documented default, as the page writes it.
WORKS = {
    "MC_STORE_MEMCPY": "true", "MC_STORE_CLIENT_SETUP_RETRIES": "20", "MC_STORE_CLIENT_MIN_PORT": "12300", "MC_STORE_CLIENT_MAX_PORT": "14300",
    "MC_STORE_CLIENT_METRIC": "true", "MC_STORE_CLIENT_METRIC_INTERVAL": "0", "MC_STORE_CLIENT_METRIC_BANDWIDTH": "true", "MC_STORE_CLUSTER_ID": '""',
    "MC_STORE_USE_HUGEPAGE": "0", "MC_STORE_HUGEPAGE_SIZE": "2MB", "MC_STORE_NUMA_SOCKET_ID": "-1", "MC_RPC_TIMEOUT_MS": "30000",
    "MC_RPC_CONNECT_TIMEOUT_MS": "30000", "MC_METADATA_CLUSTER_ID": '""', "MC_TCP_BIND_ADDRESS": '""', "MC_USE_IPV6": "0", "MC_LOG_LEVEL": '""',
}
OTHERS = """MC_MMAP_ARENA_POOL_SIZE MC_DISABLE_MMAP_ARENA MC_STORE_LOCAL_HOT_CACHE_SIZE MC_STORE_LOCAL_HOT_BLOCK_SIZE MC_STORE_LOCAL_HOT_CACHE_USE_SHM
    MC_STORE_LOCAL_HOT_ADMISSION_THRESHOLD MC_STORE_REPLICA_SCORING MC_STORE_PIN_MEMORY_MAX_BYTES MC_STORE_PINNED_RESTORE_ARENA_SIZE_BYTES
    MOONCAKE_STORE_CHECKSUM MC_RPC_PROTOCOL MC_RPC_CLIENT_IO_THREADS MC_MS_AUTO_DISC MC_MS_FILTERS MC_CXL_DEV_SIZE MC_CXL_DEV_PATH MC_YLT_LOG_LEVEL
    MC_FILEREAD_WORKERS MC_USE_TENT MC_USE_TEV1 MC_FORCE_TCP MC_FORCE_HCA MC_FORCE_MNNVL MC_RDMA_BIND_ADDRESS MC_LEGACY_RPC_PORT_BINDING MC_MIN_RPC_PORT
    MC_MAX_RPC_PORT MC_MIN_PRC_PORT MC_MAX_PRC_PORT MC_HANDSHAKE_PORT MC_HANDSHAKE_LISTEN_BACKLOG MC_HANDSHAKE_MAX_LENGTH MC_HANDSHAKE_CONNECT_TIMEOUT
    MC_DISABLE_METACACHE MC_TE_METADATA_REFRESH_INTERVAL_SECONDS MC_TE_METRIC MC_TE_METRIC_INTERVAL_SECONDS MC_TE_FILTERS MC_CUSTOM_TOPO_JSON MC_LOG_DIR
    MC_REDIS_USERNAME MC_REDIS_DB_INDEX MC_SLICE_SIZE MC_SLICE_TIMEOUT MC_RETRY_CNT MC_FRAGMENT_RATIO MC_WORKERS_PER_CTX MC_NUM_CQ_PER_CTX
    MC_NUM_COMP_CHANNELS_PER_CTX MC_IB_PORT MC_IB_TC MC_IB_SL MC_IB_PCI_RELAXED_ORDERING MC_GID_INDEX MC_PKEY_INDEX MC_MAX_CQE_PER_CTX MC_MAX_EP_PER_CTX
    MC_NUM_QP_PER_EP MC_MAX_SGE MC_MAX_WR MC_MAX_INLINE MC_MTU MC_MAX_MR_SIZE MC_MIN_REG_SIZE MC_ENDPOINT_STORE_TYPE MC_ENABLE_PARALLEL_REG_MR
    MC_MAX_CONCURRENT_REG_MR MC_ENABLE_DEST_DEVICE_AFFINITY MC_ENABLE_HCA_PEER_AFFINITY MC_NIC_PEER_AFFINITY MC_RDMA_RAIL_PAUSE_SECONDS
    MC_CONN_PAUSE_TTL_MS MC_PATH_ROUNDROBIN MC_TCP_SLICE_SIZE MC_TCP_PROTO MC_TCP_ENABLE_CONNECTION_POOL MC_TCP_LANES_PER_PEER
    MC_TCP_MAX_CONNECTIONS_PER_PEER MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER MC_TCP_ADMISSION_TIMEOUT_MS
    MC_TCP_STATUS_TIMEOUT_SEC WITH_NVIDIA_PEERMEM MC_REDIS_PASSWORD""".split()
# Whole families of them, and one of each.
FAMILIES = {"MC_NOF_": "MC_NOF_QUEUE_DEPTH", "MC_NVME_": "MC_NVME_NQN", "MOONCAKE_NVME_KV_": "MOONCAKE_NVME_KV_PATH",
            "MOONCAKE_OFFLOAD_": "MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS", "MOONCAKE_AWS_": "MOONCAKE_AWS_SECRET_ACCESS_KEY"}
SECRET = {"MC_REDIS_PASSWORD"}


@pytest.mark.parametrize("name", WORKS)
def test_a_variable_has_its_documented_default(name):
    assert STATE[name] == "works" and next(default for row, _, default, _ in ROWS if row == name) == WORKS[name]


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_documented_variable_is_on_the_page(name):
    assert name in STATE


@pytest.mark.parametrize("family", FAMILIES)
def test_every_documented_family_of_variables_is_on_the_page(family):
    assert f"| {family}* |" in PAGE


def test_no_variable_is_there_twice():
    names = [name for name, _, _, _ in ROWS]
    assert [name for name in names if names.count(name) > 1] == []


def test_what_has_no_effect_says_so_and_the_store_works(master):
    without = [name for name, state in STATE.items() if state == "none"]
    assert len(without) > 60
    done = run_python(f"""
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 24, 1 << 24, "tcp", "", "{master.address}") == 0
assert store.put("contract-environment", b"x") == 0 and store.get("contract-environment") == b"x"
store.close()
""", package="real", env={name: "7" for name in [*without, *FAMILIES.values()]})
    shown = {name: f"{name}=7" for name in without if name not in SECRET} | {name: name for name in [*SECRET, *FAMILIES.values()]}
    assert [name for name, text in shown.items() if done.stderr.count(f"environment {text} has no effect: ") != 1] == []
