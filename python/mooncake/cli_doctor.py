"""`mooncake doctor`: what of the store is installed on this machine, what it would use, and what to fix.

Each check gives findings: good, note (a fact), warning (works, but not as well as it could) or problem (does not work). Checks look; they
change nothing. Libraries are loaded in a process of their own: one that crashes is a finding, too.
"""

import contextlib
import glob
import importlib.util
import json
import os
import pathlib
import platform
import resource
import socket
import stat
import subprocess
import sys

from .cli_admin import Admin, parse_address
from .cli_text import FAILED, Failure, print_json, print_table, size_text

GOOD, NOTE, WARNING, PROBLEM = "good", "note", "warning", "problem"
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def _read(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return None


def _in_new_process(code, *arguments):
    """The JSON that the code prints; a text when it fails."""
    try:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "no answer within 30 s"
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with {done.returncode}"


# ---- the package ----


@check
def package(arguments):
    yield NOTE, "python", f"{platform.python_version()} at {sys.executable}", ""
    code = "import json, mooncake.store as s; print(json.dumps([s.__file__, s.__version__]))"
    answer = _in_new_process("import sys; sys.path.insert(0, sys.argv[1]); " + code, str(pathlib.Path(__file__).parent.parent))
    if isinstance(answer, list):
        yield GOOD, "module", f"mooncake.store {answer[1]} loads", ""
    else:
        fix = "install the library that is named (Debian: apt-get install libxxhash0 libprotobuf-c1 libnuma1 libuv1 libmicrohttpd12 libjansson4 " \
              "libyaml-0-2 libpcre2-8-0 libcurl4)" if "cannot open shared object" in answer else "install the package again for this Python"
        yield PROBLEM, "module", f"mooncake.store does not load: {answer}", fix
    for name in ("mooncake_master", "mooncake_client"):
        path = pathlib.Path(__file__).parent / name
        try:
            done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
            if done.returncode == 0:
                yield GOOD, name, done.stdout.strip(), ""
            else:
                yield PROBLEM, name, (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1], "install the libraries that it names"
        except (OSError, subprocess.TimeoutExpired) as error:
            yield WARNING, name, f"cannot be run: {getattr(error, 'strerror', None) or error}", "only this machine's own daemons need it"
    for module, why in (("aiohttp", "mc_store_rest_server and mooncake_http_metadata_server"), ("numpy", "engines; the store does without")):
        there = importlib.util.find_spec(module) is not None
        yield (GOOD if there else NOTE), module, "installed" if there else f"not installed; wanted by {why}", "" if there else f"pip install {module}"


# ---- UCX ----

_UCX = """
import ctypes, json, sys
ucp = ctypes.CDLL(sys.argv[1])
ucp.ucp_get_version_string.restype = ctypes.c_char_p
print(json.dumps(ucp.ucp_get_version_string().decode()))
"""


def _ucx_candidates():
    """(where from, path or soname), the way the library looks for them."""
    given = os.environ.get("MC_STORE_UCX_LIB", "")
    if given not in ("", "system") and not given.startswith("hint:"):
        yield "MC_STORE_UCX_LIB", given
        return
    if given != "system":
        spec = importlib.util.find_spec("libucx")
        folders = [given[5:]] if given.startswith("hint:") else list(spec.submodule_search_locations or []) if spec else []
        for folder in folders:
            for path in (f"{folder}/lib/libucp.so.0", f"{folder}/libucp.so.0"):
                if os.path.exists(path):
                    yield "package libucx", path
                    break
    yield "system", "libucp.so.0"


@check
def ucx(arguments):
    found = []
    for origin, path in _ucx_candidates():
        # ["1.22.0"] or why not: a text alone is the error.
        answer = _in_new_process(_UCX.replace("json.dumps(ucp", "json.dumps([ucp").replace(".decode())", ".decode()])"), path)
        if isinstance(answer, list):
            found.append((tuple(int(part) for part in answer[0].split(".")[:3]), answer[0], origin, path))
        elif origin != "system":
            yield WARNING, "UCX", f"{origin}: {path} does not load: {answer}", "install it again, or name another with MC_STORE_UCX_LIB"
    if not found:
        yield PROBLEM, "UCX", "none found: there is no data plane", "pip install 'libucx-cu13>=1.20', or apt-get install libucx0"
        return
    for version, text, origin, path in found:
        yield NOTE, "UCX", f"{text}: {origin}, {path}", ""
    version, text, origin, path = max(found)
    if version < (1, 13):
        yield PROBLEM, "UCX in use", f"{text} is too old", "UCX 1.13 or later is needed: pip install 'libucx-cu13>=1.20'"
    elif version < (1, 20):
        yield WARNING, "UCX in use", f"{text} ends the process when a peer dies while it connects, and does not speak with 1.20 and later", \
            "pip install 'libucx-cu13>=1.20' on every host of the cluster"
    else:
        yield GOOD, "UCX in use", f"{text} ({origin})", ""


# ---- devices ----


@check
def rdma(arguments):
    devices = sorted(glob.glob("/sys/class/infiniband/*"))
    if not devices:
        yield NOTE, "RDMA", "no device: data moves over shared memory and TCP", ""
    for device in devices:
        for port in sorted(glob.glob(f"{device}/ports/*")):
            state = (_read(f"{port}/state") or "?").split(":")[-1].strip()
            name = f"{os.path.basename(device)} port {os.path.basename(port)}"
            text = f"{name}: {_read(f'{port}/link_layer') or '?'}, {state}, {_read(f'{port}/rate') or '?'}, NUMA node {_read(f'{device}/device/numa_node') or '?'}"
            yield (GOOD if state == "ACTIVE" else WARNING), "RDMA", text, "" if state == "ACTIVE" else "bring the link up (ibstat, rdma link)"
    if devices:
        able = [path for origin, path in _ucx_candidates() if _has_rdma(path)]
        if able:
            yield GOOD, "RDMA", f"protocol rdma: {', '.join(able)}", ""
        else:
            yield WARNING, "RDMA", "no UCX that was found has RDMA: the protocol rdma cannot be set up", "apt-get install libucx0, or name one with MC_STORE_UCX_LIB"


def _has_rdma(path):
    """Is UCX's module for RDMA beside the library? A soname is looked for where systems keep libraries."""
    folders = [os.path.dirname(path)] if "/" in path else ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/lib64", "/usr/lib", "/opt/ucx/lib"]
    return any(glob.glob(f"{folder}/ucx/libuct_ib*") for folder in folders)


_CUDA = """
import ctypes, json
cuda = ctypes.CDLL("libcuda.so.1")
version, count = ctypes.c_int(), ctypes.c_int()
rc = cuda.cuInit(0) or cuda.cuDriverGetVersion(ctypes.byref(version)) or cuda.cuDeviceGetCount(ctypes.byref(count))
print(json.dumps([rc, version.value, count.value]))
"""


@check
def gpu(arguments):
    answer = _in_new_process(_CUDA)
    if not isinstance(answer, list):
        yield NOTE, "GPU", "no CUDA driver (libcuda.so.1): host memory only", ""
    elif answer[0] != 0:
        yield WARNING, "GPU", f"the CUDA driver answers with error {answer[0]}", "nvidia-smi says more"
    else:
        yield GOOD, "GPU", f"{answer[2]} device(s), driver for CUDA {answer[1] // 1000}.{answer[1] % 1000 // 10}", ""


# ---- the machine ----


def _memory():
    values = {}
    for line in (_read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts:
            values[name] = int(parts[0]) * (1024 if len(parts) > 1 else 1)
    return values


@check
def memory(arguments):
    values = _memory()
    limit = _read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes") or "max"
    total = values.get("MemTotal", 0)
    yield NOTE, "memory", f"{size_text(values.get('MemAvailable', 0))} available of {size_text(total)}", ""
    if limit.isdigit() and int(limit) < total:
        yield WARNING, "memory", f"this control group may use {size_text(int(limit))}", "a segment counts as it fills: keep it below that, or raise the limit"
    pages = values.get("HugePages_Total", 0)
    if pages:
        yield GOOD, "huge pages", f"{values.get('HugePages_Free', 0)} of {pages} free, {size_text(values.get('Hugepagesize', 0))} each; MC_STORE_USE_HUGEPAGE uses them", ""
    else:
        yield NOTE, "huge pages", "none reserved; segments then use ordinary pages", "sysctl vm.nr_hugepages=N, and MC_STORE_USE_HUGEPAGE=1, for less TLB pressure"
    shmem = _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled") or ""
    if shmem:
        yield NOTE, "transparent huge pages", f"shared memory: {shmem}", ""
    nodes = glob.glob("/sys/devices/system/node/node[0-9]*")
    if len(nodes) > 1:
        yield NOTE, "NUMA", f"{len(nodes)} nodes: MC_STORE_NUMA_SOCKET_ID places a segment", ""


def _limit(value):
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


@check
def limits(arguments):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 65536:
        yield WARNING, "open files", f"{_limit(soft)}, at most {_limit(hard)}", "a master of many clients wants 65536: LimitNOFILE= of the unit, or /etc/security/limits.conf"
    else:
        yield GOOD, "open files", f"{_limit(soft)}, at most {_limit(hard)} (the daemons raise it themselves)", ""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and glob.glob("/sys/class/infiniband/*"):
        yield PROBLEM, "locked memory", f"at most {_limit(hard)} bytes: RDMA cannot register more", "LimitMEMLOCK=infinity of the unit, or ulimit -l unlimited"
    else:
        yield GOOD, "locked memory", f"at most {_limit(hard)}" + ("" if hard == resource.RLIM_INFINITY else " bytes; only RDMA wants more"), ""
    release = platform.release()
    parts = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit()]
    if parts < [5, 14]:
        yield WARNING, "kernel", f"{release}: no MADV_POPULATE_WRITE, so memory cannot be faulted ahead of use", "Linux 5.14 or later"
    else:
        yield GOOD, "kernel", release, ""
    low, _, high = (_read("/proc/sys/net/ipv4/ip_local_port_range") or "").partition("\t")
    if low.isdigit() and int(low) <= 14300:
        yield WARNING, "ports", f"the kernel gives ports {low} to {high} to outgoing connections, those of clients (12300 to 14300) among them", \
            "sysctl net.ipv4.ip_local_port_range='32768 60999'"


@check
def same_host(arguments):
    folder = os.environ.get("MC_STORE_IPC_DIR") or f"/tmp/mooncake-{os.getuid()}"
    if len(folder) > 60:
        yield PROBLEM, "same-host sockets", f"{folder}: too long for a socket's name", "a shorter MC_STORE_IPC_DIR"
        return
    try:
        info = os.lstat(folder)
    except FileNotFoundError:
        yield GOOD, "same-host sockets", f"{folder} will be made", ""
        return
    except OSError as error:
        yield PROBLEM, "same-host sockets", f"{folder}: {error.strerror}", "another MC_STORE_IPC_DIR"
        return
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        yield PROBLEM, "same-host sockets", f"{folder} is no folder that this user alone may write: processes of this host will use TCP", \
            "remove it, or name another with MC_STORE_IPC_DIR"
    else:
        yield GOOD, "same-host sockets", folder, ""
    if os.environ.get("MC_STORE_MEMCPY", "").lower() in ("0", "false", "no", "off"):
        yield WARNING, "same-host path", "off by MC_STORE_MEMCPY: processes of this host use TCP", "unset it"


# ---- configuration and cluster ----


@check
def configuration(arguments):
    from .mooncake_config import MooncakeConfig

    names = sorted(name for name in os.environ if name.startswith(("MC_", "MOONCAKE_")) and "TOKEN" not in name and "PASSWORD" not in name)
    for name in names:
        yield NOTE, "environment", f"{name}={os.environ[name]}", ""
    if os.environ.get("MOONCAKE_CONFIG_PATH") or os.environ.get("MOONCAKE_MASTER"):
        try:
            config = MooncakeConfig.load_from_env()
            yield GOOD, "configuration", f"master {config.master_server_address}, metadata {config.metadata_server}, {config.protocol}, " \
                f"segment {size_text(config.global_segment_size)}, local buffer {size_text(config.local_buffer_size)}", ""
            available = _memory().get("MemAvailable", 0)
            if config.global_segment_size > available:
                yield WARNING, "configuration", f"the segment is larger than the {size_text(available)} that are available", "a smaller global_segment_size"
        except (OSError, ValueError) as error:
            yield PROBLEM, "configuration", str(error), "correct the file of MOONCAKE_CONFIG_PATH or the MOONCAKE_ variables"


def _connects(address, timeout):
    with socket.create_connection(address, timeout):
        return True


@check
def cluster(arguments):
    if not arguments.master.startswith("unix:"):
        try:
            _connects(parse_address(arguments.master, 50051), min(arguments.timeout, 3))
            yield GOOD, "master", f"{arguments.master} takes connections", ""
        except OSError as error:
            yield WARNING, "master", f"{arguments.master}: {error.strerror or error}", "start mooncake_master, or say where it is: --master, MOONCAKE_MASTER"
    admin = Admin(arguments.admin, min(arguments.timeout, 3))
    try:
        health = admin.json("/health")
        ready = {}
        with contextlib.suppress(Failure):
            ready = admin.json("/ready")
        yield GOOD, "admin server", f"{admin.url}: {health.get('status')}, {ready.get('segments', '?')} segments, {ready.get('clients', '?')} clients", ""
        for what in ready.get("exhausted", []):
            fix = {"segments": "start a mooncake_client, or an engine that lends memory", "space": "lend more memory; a full cache evicts"}
            yield WARNING, "cluster", f"short of {what}", fix.get(what, "docs/operations of the store say more")
    except Failure as failure:
        yield WARNING, "admin server", str(failure).splitlines()[0], "--metrics_port of the master; --admin, MOONCAKE_ADMIN"
    metadata = os.environ.get("MOONCAKE_TE_META_DATA_SERVER", "")
    if metadata.startswith("http://"):
        try:
            _connects(parse_address(metadata.removesuffix("/metadata"), 80), min(arguments.timeout, 3))
            yield GOOD, "metadata server", f"{metadata} takes connections", ""
        except (OSError, Failure) as error:
            yield PROBLEM, "metadata server", f"{metadata}: {getattr(error, 'strerror', None) or error}", \
                "start it (mooncake_master --enable_http_metadata_server=true), or use P2PHANDSHAKE"


_SELF_TEST = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
code = store.setup("localhost", "P2PHANDSHAKE", 16 << 20, 4 << 20, "tcp", "", "embedded")
value = os.urandom(1 << 20)
put = store.put("doctor", value) if code == 0 else None
same = store.get("doctor") == value if put == 0 else None
store.close()
print(json.dumps([code, put, same]))
"""


@check
def self_test(arguments):
    if arguments.quick:
        return
    answer = _in_new_process(_SELF_TEST, str(pathlib.Path(__file__).parent.parent))
    if answer == [0, 0, True]:
        yield GOOD, "self test", "a store with an embedded master put and got 1 MiB", ""
    else:
        yield PROBLEM, "self test", f"setup, put, get: {answer}", "MC_LOG_LEVEL=DEBUG mooncake doctor; the findings above come first"


# ---- the command ----

MARKS = {GOOD: "ok", NOTE: "  ", WARNING: "! ", PROBLEM: "X "}


def doctor(arguments):
    """Exit code 1 when there is a problem, 0 also with warnings."""
    findings = []
    for function in CHECKS:
        try:
            findings += [dict(zip(("level", "what", "finding", "fix"), finding)) for finding in function(arguments)]
        except Exception as error:  # one check that fails is a finding, and no reason to keep the others back
            findings.append({"level": WARNING, "what": function.__name__, "finding": f"not checked: {error}", "fix": ""})
    problems = sum(f["level"] == PROBLEM for f in findings)
    warnings = sum(f["level"] == WARNING for f in findings)
    if arguments.json:
        print_json({"problems": problems, "warnings": warnings, "findings": findings})
    else:
        print_table(["", "what", "finding"], [(MARKS[f["level"]], f["what"], f["finding"]) for f in findings])
        fixes = [f for f in findings if f["level"] in (WARNING, PROBLEM) and f["fix"]]
        if fixes:
            print("\nto do:")
            for f in fixes:
                print(f"  {f['what']}: {f['fix']}")
        print(f"\n{problems} problem(s), {warnings} warning(s)")
    return FAILED if problems else 0
