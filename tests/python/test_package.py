"""What is around the module: exports, libraries, stubs, the asyncio wrapper, the configuration, the command."""

import ast
import asyncio
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from python_support import BUILD_DIR, FAKE_PATH, REAL_PATH, ROOT, SETUP, run_python

MODULES = [path / "mooncake" / "store.abi3.so" for path in (REAL_PATH, FAKE_PATH)]
PACKAGE = ROOT / "python" / "mooncake"


def built(path):
    if not path.exists():
        pytest.skip(f"{path.parent.parent.name} is not built")
    return path


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.parent.parent.name)
def test_the_module_exports_its_init_function_alone(path):
    lines = tool("nm", "-D", "--defined-only", str(built(path))).splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit_store"]


NEEDED = (
    "libc. libm. ld-linux libpthread libcrypto libssl libcurl libuv libmicrohttpd libjansson libyaml libpcre2-8 libnuma "
    "libxxhash libprotobuf-c libz libgcc_s libasan libubsan"
).split()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.parent.parent.name)
def test_the_module_needs_no_cuda_no_libpython_and_no_ucx(path):
    needed = [line.split("[")[1].rstrip("]") for line in tool("readelf", "-d", str(built(path))).splitlines() if "NEEDED" in line]
    assert [name for name in needed if not name.startswith(tuple(NEEDED))] == []
    assert not any(word in name for name in needed for word in ("cuda", "python", "ucp", "ucs", "ibverbs"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.parent.parent.name)
def test_the_module_uses_of_the_stable_abi_what_3_10_has(path):
    """The buffer protocol is in that ABI since 3.11, but 3.10 has it, and the same."""
    allowed = {line.strip() for line in (pathlib.Path(__file__).parent / "stable_abi_310.txt").read_text().splitlines()}
    undefined = [line.split()[-1] for line in tool("nm", "-D", "--undefined-only", str(built(path))).splitlines()]
    assert [name for name in undefined if name.startswith(("Py", "_Py")) and name not in allowed] == []


# ---- stubs ----


def stub_classes():
    tree = ast.parse((PACKAGE / "store.pyi").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return classes, names


def public(names):
    return {name for name in names if not name.startswith("_")}


def test_the_stub_has_every_name_of_the_module(fake):
    classes, names = stub_classes()
    assert public(dir(fake)) == public(classes) | public(names)


@pytest.mark.parametrize("name", [c for c in stub_classes()[0] if not c.startswith("_")])
def test_the_stub_has_every_member_of_the_class(fake, name):
    classes, _ = stub_classes()
    members = set()
    for node in [classes[name], *(classes[base.id] for base in classes[name].bases)]:
        for item in node.body:
            if isinstance(item, ast.AnnAssign):
                members.add(item.target.id)
            elif isinstance(item, ast.FunctionDef):
                members.add(item.name)
    assert public(dir(getattr(fake, name))) == public(members)


def test_the_stub_has_the_parameters_of_every_method(fake):
    import inspect

    store = stub_classes()[0]["MooncakeDistributedStore"]
    for item in store.body:
        if item.name.startswith("__") or item.name == "setup":
            continue
        arguments = item.args
        described = [a.arg for a in arguments.posonlyargs + arguments.args if a.arg != "self"]
        described += [arguments.vararg.arg] if arguments.vararg else []
        described += [a.arg for a in arguments.kwonlyargs]
        if item.name.startswith("_"):
            continue
        signature = inspect.signature(getattr(fake.MooncakeDistributedStore, item.name))
        assert [p for p in signature.parameters if p != "self"] == described, item.name


def test_every_method_is_documented(fake):
    for kind in (fake.MooncakeDistributedStore, fake.BufferHandle, fake.BufferLease, fake.ReplicaDescriptor):
        assert kind.__doc__
        for name in public(dir(kind)):
            assert getattr(kind, name).__doc__, name
    for name in public(dir(fake.ReplicateConfig)):
        assert getattr(fake.ReplicateConfig, name).__doc__, name


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "store.pyi").exists()


# ---- the package ----


def test_other_folders_may_add_to_the_package(fake, tmp_path):
    other = tmp_path / "mooncake"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "engine.py").write_text("answer = 42\n")
    script = (
        "import mooncake.store, mooncake.engine, mooncake\n"
        "assert mooncake.engine.answer == 42\n"
        "assert mooncake.BufferPool is mooncake.RegisteredBufferPool is mooncake.store.BufferPool\n"
        "import mooncake.buffer_pool\n"
        "assert mooncake.buffer_pool.BufferPool is mooncake.BufferPool\n"
        "assert not hasattr(mooncake, 'nothing')\n"
    )
    run_python(script, env={"PYTHONPATH": f"{FAKE_PATH}{os.pathsep}{tmp_path}"})


def test_the_engine_is_absent_as_if_no_mooncake_were_installed(fake):
    script = (
        "import importlib, importlib.util, mooncake, mooncake.store\n"
        "def missing(do, name):\n"
        "    try:\n"
        "        do(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert name in str(error), error\n"
        "        return error.name\n"
        "for module in ('engine', 'allocator', 'structured_object_store', 'dataproto_catalog', 'mooncake_connector_v1', 'ep', 'pg', 'mooncake_ep_buffer', 'mooncake_elastic_buffer', 'reshard', 'shared_segment'):\n"
        "    assert missing(importlib.import_module, f'mooncake.{module}') == 'mooncake', module\n"
        "    assert missing(importlib.util.find_spec, f'mooncake.{module}') == 'mooncake', module\n"
        "assert missing(importlib.import_module, 'mooncake.nothing') == 'mooncake.nothing'\n"
        "assert importlib.util.find_spec('mooncake.nothing') is None\n"
        "try:\n"
        "    from mooncake import engine\n"
        "except ImportError as error:\n"
        "    assert error.name == 'mooncake'\n"
        "else:\n"
        "    raise AssertionError(engine)\n"
    )
    run_python(script)


def test_async_methods_run_in_the_executor(fake):
    wrapper = importlib.import_module("mooncake_fake.async_store").MooncakeDistributedStoreAsync

    async def work():
        store = wrapper()
        assert isinstance(store, fake.MooncakeDistributedStore)
        assert await store.async_setup(*SETUP) == 0
        assert await store.async_put(key="async", value=b"v") == 0
        waiting = asyncio.ensure_future(store.async_get("!block"))
        values = await asyncio.gather(*(store.async_get("async") for _ in range(20)))
        assert values == [b"v"] * 20 and not waiting.done()
        assert await store.async_batch_is_exist(["async", "async missing"]) == [1, 0]
        with pytest.raises(TypeError):
            await store.async_put("k")
        for name in ("async_nothing", "nothing", "async__close_all", "async_"):
            with pytest.raises(AttributeError):
                getattr(store, name)
        setattr(store, "async_x", 5)
        assert store.async_x == 5
        assert await store.async_close() == 0
        assert await waiting == b""

    asyncio.run(work())


@pytest.fixture
def config_module(fake, monkeypatch):
    for name in list(os.environ):
        if name.startswith("MOONCAKE_"):
            monkeypatch.delenv(name)
    return importlib.import_module("mooncake_fake.mooncake_config")


def test_configuration_of_a_file(config_module, tmp_path):
    path = tmp_path / "mooncake.json"
    values = {"local_hostname": "h", "metadata_server": "P2PHANDSHAKE", "master_server_address": "m:1"}
    path.write_text(json.dumps(values))
    config = config_module.MooncakeConfig.from_file(str(path))
    assert config == config_module.MooncakeConfig("h", "P2PHANDSHAKE", 3355443200, 1073741824, "tcp", "", "m:1")
    path.write_text(json.dumps({**values, "global_segment_size": "4gb", "local_buffer_size": 5, "protocol": "RDMA", "enable_ssd_offload": "on"}))
    config = config_module.MooncakeConfig.from_file(str(path))
    assert (config.global_segment_size, config.local_buffer_size, config.protocol) == (4 << 30, 5, "rdma")
    assert config.enable_ssd_offload is True
    for name in values:
        path.write_text(json.dumps({k: v for k, v in values.items() if k != name}))
        with pytest.raises(ValueError, match=f"Missing required config field: {name}"):
            config_module.MooncakeConfig.from_file(str(path))
        path.write_text(json.dumps({**values, name: None}))
        with pytest.raises(ValueError, match=f"Missing required config field: {name}"):
            config_module.MooncakeConfig.from_file(str(path))
    for text in ("[1]", "{", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match="mooncake.json"):
            config_module.MooncakeConfig.from_file(str(path))
    with pytest.raises(OSError):
        config_module.MooncakeConfig.from_file(str(tmp_path / "nothing"))


FIELDS = [  # field, its variable, default, given, parsed
    ("local_hostname", "MOONCAKE_LOCAL_HOSTNAME", "localhost", "h:1", "h:1"),
    ("metadata_server", "MOONCAKE_TE_META_DATA_SERVER", "P2PHANDSHAKE", "http://m/metadata", "http://m/metadata"),
    ("global_segment_size", "MOONCAKE_GLOBAL_SEGMENT_SIZE", 3355443200, "4 GB", 4 << 30),
    ("local_buffer_size", "MOONCAKE_LOCAL_BUFFER_SIZE", 1073741824, "16mb", 16 << 20),
    ("protocol", "MOONCAKE_PROTOCOL", "tcp", "RDMA", "rdma"),
    ("device_name", "MOONCAKE_DEVICE", "", "mlx5_0", "mlx5_0"),
    ("enable_ssd_offload", "MOONCAKE_OFFLOAD_ENABLED", False, "yes", True),
    ("ssd_offload_path", "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH", "", "/ssd", "/ssd"),
    ("tenant_id", "MOONCAKE_TENANT_ID", "default", "t", "t"),
    ("enable_client_http_server", "MOONCAKE_ENABLE_CLIENT_HTTP_SERVER", False, "1", True),
    ("client_http_port", "MOONCAKE_CLIENT_HTTP_PORT", 9300, "9301", 9301),
]


@pytest.mark.parametrize("field, variable, default, given, parsed", FIELDS, ids=[row[0] for row in FIELDS])
def test_each_field_of_the_configuration(config_module, monkeypatch, tmp_path, field, variable, default, given, parsed):
    path = tmp_path / "mooncake.json"
    required = {"local_hostname": "localhost", "metadata_server": "P2PHANDSHAKE", "master_server_address": "m:1"}
    for value, want in [(given, parsed), (None, default)]:
        if value is None and field in required:
            continue
        values = {**required, field: value} if value is not None else required
        path.write_text(json.dumps(values))
        assert getattr(config_module.MooncakeConfig.from_file(str(path)), field) == want
    monkeypatch.setenv("MOONCAKE_MASTER", "m:1")
    assert getattr(config_module.MooncakeConfig.load_from_env(), field) == default
    monkeypatch.setenv(variable, given)
    assert getattr(config_module.MooncakeConfig.load_from_env(), field) == parsed


def test_null_is_as_good_as_none(config_module, tmp_path):
    path = tmp_path / "mooncake.json"
    values = {"local_hostname": "h", "metadata_server": "x", "master_server_address": "m:1", "tenant_id": None, "ssd_offload_path": None, "device_name": None,
              "protocol": None, "enable_ssd_offload": None}
    path.write_text(json.dumps(values))
    config = config_module.MooncakeConfig.from_file(str(path))
    assert (config.tenant_id, config.ssd_offload_path, config.device_name, config.protocol, config.enable_ssd_offload) == ("default", "", "", "tcp", False)


@pytest.mark.parametrize("field, value", [("enable_ssd_offload", "notabool"), ("client_http_port", "http"), ("client_http_port", 65536), ("client_http_port", True),
                                          ("global_segment_size", "50%"), ("local_buffer_size", -1)])
def test_values_that_cannot_be(config_module, tmp_path, field, value):
    path = tmp_path / "mooncake.json"
    path.write_text(json.dumps({"local_hostname": "h", "metadata_server": "x", "master_server_address": "m:1", field: value}))
    with pytest.raises(ValueError):
        config_module.MooncakeConfig.from_file(str(path))


def test_configuration_of_the_environment(config_module, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="^Neither the environment variable 'MOONCAKE_CONFIG_PATH' nor 'MOONCAKE_MASTER' is set.$"):
        config_module.MooncakeConfig.load_from_env()
    monkeypatch.setenv("MOONCAKE_MASTER", "m:1")
    config = config_module.MooncakeConfig.load_from_env()
    assert (config.local_hostname, config.metadata_server, config.master_server_address) == ("localhost", "P2PHANDSHAKE", "m:1")
    assert (config.global_segment_size, config.tenant_id, config.client_http_port) == (3355443200, "default", 9300)
    for name, value in {
        "MOONCAKE_LOCAL_HOSTNAME": "h:2",
        "MOONCAKE_GLOBAL_SEGMENT_SIZE": "1.5 GB",
        "MOONCAKE_LOCAL_BUFFER_SIZE": "64MB",
        "MOONCAKE_PROTOCOL": "TCP",
        "MOONCAKE_OFFLOAD_ENABLED": "enabled",
        "MOONCAKE_CLIENT_HTTP_PORT": "1234",
    }.items():
        monkeypatch.setenv(name, value)
    config = config_module.MooncakeConfig.load_from_env()
    assert (config.local_hostname, config.global_segment_size, config.local_buffer_size) == ("h:2", 3 << 29, 64 << 20)
    assert (config.protocol, config.enable_ssd_offload, config.client_http_port) == ("tcp", True, 1234)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"local_hostname": "file", "metadata_server": "x", "master_server_address": "y"}))
    monkeypatch.setenv("MOONCAKE_CONFIG_PATH", str(path))
    assert config_module.MooncakeConfig.load_from_env().local_hostname == "file"


@pytest.mark.parametrize("text, size", [("0", 0), ("1k", 1024), ("2KB", 2048), (" 3 mb ", 3 << 20), ("1.5g", 3 << 29), (".5t", 1 << 39), (7, 7), (1e3, 1000), ("1e9", 10**9), ("1.5", 1), ("1.5E3 kb", 1536000)])
def test_sizes(config_module, text, size):
    assert config_module.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 x", "1e", "1e400", "99999999999 tb", "0x10", "nan", -1, float("nan"), float("inf"), True, None, [1], "50%"])
def test_sizes_that_are_none(config_module, text):
    with pytest.raises(ValueError):
        config_module.parse_size(text)


@pytest.mark.parametrize("text, value", [("true", True), ("On", True), (1, True), (False, False), ("no", False), (None, False), ("disable", False)])
def test_booleans(config_module, text, value):
    assert config_module.parse_bool(text) is value


@pytest.mark.parametrize("text", ["maybe", 2, [1]])
def test_booleans_that_are_none(config_module, text):
    with pytest.raises(ValueError):
        config_module.parse_bool(text)


@pytest.mark.parametrize("daemon", ["master", "client"])
def test_the_command_becomes_the_packaged_binary(fake, tmp_path, daemon):
    package = tmp_path / "mooncake"
    package.mkdir()
    for name in ("__init__.py", "cli.py"):
        (package / name).write_text((PACKAGE / name).read_text())
    binary = package / f"mooncake_{daemon}"
    command = [sys.executable, "-c", f"import sys; from mooncake.cli import {daemon}; sys.exit({daemon}())", "--a=b", "c d"]
    missing = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 127 and str(binary) in missing.stderr
    binary.write_text('#!/bin/sh\necho "$0" "$@"\nexit 5\n')
    binary.chmod(0o755)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, f"{binary} --a=b c d\n")


def test_the_package_names_its_commands():
    tomllib = pytest.importorskip("tomllib")  # not in 3.10
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    scripts = {"mooncake", "mooncake_master", "mooncake_client", "mooncake_http_metadata_server", "mc_store_rest_server"}
    assert set(project["scripts"]) == scripts
    assert project["scripts"]["mc_store_rest_server"] == "mooncake.mooncake_store_service:sync_main"
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        tree = ast.parse((PACKAGE / (module.removeprefix("mooncake.") + ".py")).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, target
    assert any(name.startswith("aiohttp") for name in project["dependencies"])


# ---- BufferPool ----


@pytest.fixture
def pool_module(fake):
    return importlib.import_module("mooncake_fake.buffer_pool")


@pytest.fixture
def pool(pool_module, store):
    pool = pool_module.BufferPool(store, alignment=4096)
    yield pool
    import gc

    gc.collect()
    pool.close()


def test_a_lease_is_registered_aligned_writable_memory(pool, store):
    with pool.acquire(1000) as lease:
        assert lease.size == 1000 and lease.ptr % 4096 == 0 and len(lease.buffer) == 1000
        lease.buffer[:] = bytes(range(250)) * 4
        assert store.counters()["registered"] == 1
        assert store.put_from("k", lease.ptr, lease.size) == 0
        with pool.buffer(1000) as other:
            assert store.get_into("k", other.ptr, other.size) == 1000
            assert bytes(other.buffer) == bytes(lease.buffer)
    for use in (lambda: lease.ptr, lambda: lease.size, lambda: lease.buffer, lease.__enter__):
        with pytest.raises(RuntimeError, match="buffer lease is closed"):
            use()
    lease.release()
    pool.close()
    pool.close()
    assert store.counters()["registered"] == 0
    with pytest.raises(RuntimeError, match="buffer pool is closed"):
        pool.acquire(1)


def test_memory_is_used_again_and_the_surplus_given_back(pool, store):
    leases = [pool.acquire(300_000) for _ in range(6)]
    addresses = {lease.ptr for lease in leases}
    assert store.counters()["registered"] == 6
    for lease in leases:
        lease.release()
    assert store.counters()["registered"] == 3, "what fits the size of the local buffer is kept"
    assert pool.acquire(300_000).ptr in addresses
    assert store.counters()["registered"] == 3


def test_views_keep_the_lease(pool, store):
    lease = pool.acquire(10)
    view = lease.buffer
    with pytest.raises(RuntimeError, match="cannot release buffer while exported views exist"):
        lease.release()
    with pytest.raises(RuntimeError, match="cannot close buffer pool with active leases"):
        pool.close()
    del lease
    view[0] = 7
    assert view[0] == 7
    del view
    pool.close()


def test_a_size_of_nothing_is_a_lease(pool):
    lease = pool.acquire(0)
    assert lease.size == 0 and lease.ptr > 0 and len(lease.buffer) == 0


@pytest.mark.parametrize(
    "arguments, text",
    [
        (dict(min_size_class=0), "min_size_class and alignment must be positive"),
        (dict(alignment=0), "min_size_class and alignment must be positive"),
        (dict(alignment=3), "alignment must be a power of two and at least sizeof"),
        (dict(alignment=4), "alignment must be a power of two and at least sizeof"),
        (dict(default_timeout=-1), "timeout must be non-negative"),
    ],
)
def test_wrong_pools(pool_module, store, arguments, text):
    with pytest.raises(RuntimeError, match=text):
        pool_module.BufferPool(store, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [dict(max_bytes=-1), dict(max_bytes=1.5), dict(min_size_class=-1), dict(alignment="8"), dict(alignment=1 << 64), dict(max_regions=-1), dict(max_regions=1.5)],
    ids=str,
)
def test_pools_of_wrong_numbers_are_type_errors(pool_module, store, arguments):
    with pytest.raises(TypeError):
        pool_module.BufferPool(store, **arguments)


def test_wrong_types_and_memory_that_cannot_be_had(pool_module, store):
    for wrong in (None, 5, "store", object()):
        with pytest.raises(TypeError, match="store"):
            pool_module.BufferPool(wrong)
    pool = pool_module.BufferPool(store, alignment=1 << 62)
    for wrong in (None, "5", 1.5, b"5"):
        with pytest.raises(TypeError):
            pool.acquire(wrong)
    with pytest.raises(RuntimeError, match="overflow buffer allocation failed"):
        pool.acquire(5)
    pool.close()


def test_a_pool_needs_a_store_with_a_local_buffer(fake, pool_module):
    store = fake.MooncakeDistributedStore()
    with pytest.raises(RuntimeError, match="MooncakeDistributedStore is not initialized"):
        pool_module.BufferPool(store)
    store.setup(*SETUP[:3], 0, *SETUP[4:])
    with pytest.raises(RuntimeError, match="BufferPool requires a store configured with a local buffer"):
        pool_module.BufferPool(store)


def test_capacity_counts_what_is_leased(pool_module, store):
    pool = pool_module.BufferPool(store, alignment=4096, max_regions=2)
    with pytest.raises(RuntimeError, match="requested buffer size exceeds pool capacity"):
        pool.acquire((2 << 20) + 1)
    one = pool.acquire(2 << 20)
    with pytest.raises(RuntimeError, match="buffer pool is exhausted"):
        pool.acquire(1, block=False)
    with pytest.raises(RuntimeError, match="timed out waiting for buffer"):
        pool.acquire(1, timeout=0.05)
    with pytest.raises(RuntimeError, match="timeout must be non-negative"):
        pool.acquire(1, timeout=-1)
    one.release()
    held = [pool.acquire(1), pool.acquire(1)]
    with pytest.raises(RuntimeError, match="exhausted"):
        pool.acquire(1, block=False)
    held.clear()
    pool.close()
    small = pool_module.BufferPool(store, max_bytes=1, alignment=4096)
    assert small.acquire(1 << 20).size == 1 << 20, "never less than the local buffer"
    small.close()


def test_a_waiting_acquire_gets_what_another_thread_releases(pool_module, store):
    import threading

    pool = pool_module.BufferPool(store, alignment=4096, max_regions=1)
    lease = pool.acquire(10)
    got = []
    thread = threading.Thread(target=lambda: got.append(pool.acquire(20).size))
    thread.start()
    lease.release()
    thread.join(10)
    assert got == [20]
    lease = pool.acquire(10)
    thread = threading.Thread(target=lambda: got.append(pool.acquire(30).size))
    thread.start()
    del lease
    thread.join(10)
    assert got == [20, 30]
    pool.close()


def test_registration_that_fails(pool_module, store):
    pool = pool_module.BufferPool(store, alignment=4096)
    store.close()
    with pytest.raises(RuntimeError, match="overflow buffer registration failed"):
        pool.acquire(10)
    assert store.setup(*SETUP) == 0
    assert pool.acquire(10).size == 10
    pool.close()
