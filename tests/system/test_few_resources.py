"""Processes that may have little: descriptors, address space, file sizes. A code says so; nobody else notices."""

import ast
import inspect
import os
import socket
import subprocess

import pytest

from tests.support.processes import MIB, find_build_dir, free_ports, run_python
from tests.support.waiting import wait_until


def limited(how: str) -> list[str]:
    """Before a command line: runs it under `ulimit HOW`."""
    return ["bash", "-c", f'ulimit {how}; exec "$@"', "limited"]


def use(store, count, size):
    """Codes of puts, and whether each read was right or nothing; MemoryError is Python's own word for the same."""
    codes, reads = [], []
    for n in range(count):
        try:
            codes.append(store.put(f"limited-{n}", bytes([n + 1]) * size))
        except MemoryError:
            codes.append(-200)
    for n in range(count):
        try:
            value = store.get(f"limited-{n}")
        except MemoryError:
            value = b""
        reads.append(value in (b"", bytes([n + 1]) * size))
    return codes, reads


@pytest.mark.parametrize("how", ["-n 16", "-n 24", "-n 28", "-n 32", "-n 40", "-v 400000", "-v 700000", "-f 1024", "-l 0"])
def test_a_client_with_little_works_or_says_why_not(how, master, start_peer):
    other = start_peer("other").setup(master)
    peer = start_peer("limited", prefix=limited(how))
    code = peer.call("setup", "127.0.0.1", "P2PHANDSHAKE", 64 * MIB, 8 * MIB, "tcp", "", master.address)
    assert code in (0, -600, -1, -200, -900), code
    if code == 0:
        codes, reads = peer.run(use, 12, 2 * MIB)
        assert all(c <= 0 for c in codes) and all(reads), (codes, reads)
        assert peer.call("close") == 0
    else:
        assert peer.call("put", "k", b"x") == -600 and peer.call("get", "k") == b""
    assert other.call("put", "other", b"fine") == 0 and other.call("get", "other") == b"fine"


def idlers(ports, count):
    found = []
    for _ in range(count):
        for port in ports:
            try:
                found.append(socket.create_connection(("127.0.0.1", port), timeout=2))
            except OSError:
                pass
    return found


def test_idle_http_connections_keep_no_client_out(start_master, start_peer):
    master = start_master(prefix=limited("-n 128"))
    old = start_peer("old").setup(master)
    connections = idlers([master.metrics_port, master.metadata_port], 150)
    try:
        new = start_peer("new").setup(master)
        assert new.call("put", "k", b"x" * 1000) == 0 and old.call("get", "k") == b"x" * 1000
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: master.admin("/health")[0] == 200, "HTTP is served again", 20)


def test_a_master_out_of_descriptors_serves_those_it_has(start_master, start_peer):
    master = start_master(prefix=limited("-n 96"))
    old = start_peer("old").setup(master)
    connections = idlers([master.rpc_port], 200)
    try:
        for n in range(20):
            assert old.call("put", f"k{n}", bytes([n]) * 1000) == 0 and old.call("get", f"k{n}") == bytes([n]) * 1000
    finally:
        for connection in connections:
            connection.close()
    new = start_peer("new")
    wait_until(lambda: new.call("setup", "127.0.0.1", "P2PHANDSHAKE", 0, MIB, "tcp", "", master.address) == 0, "others are let in again", 30)


@pytest.mark.parametrize("count", [6, 9, 12, 16])
def test_a_master_without_descriptors_says_why_it_does_not_start(count, scratch):
    done = subprocess.run([*limited(f"-n {count}"), str(find_build_dir() / "master" / "mooncake_master"), "--rpc_address=127.0.0.1", "--rpc_port=1",
                           "--metrics_host=127.0.0.1", "--metrics_port=0", f"--ipc_dir={scratch.folder('ipc')}"], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert f"this process may open {count} files only (ulimit -n)" in done.stderr, done.stderr


def standard_descriptors(pid):
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]


def use_without_descriptors(master_address):
    import os

    from mooncake.store import MooncakeDistributedStore

    store = MooncakeDistributedStore()
    codes = [store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 24, 1 << 24, "tcp", "", master_address)]
    values = {f"k{n}": os.urandom(100_000 + n) for n in range(50)}
    codes += [store.put(key, value) for key, value in values.items()]
    right = all(store.get(key) == value for key, value in values.items())
    return set(codes), right, [os.readlink(f"/proc/self/fd/{number}") for number in range(3)], store.close()


def test_programs_without_standard_descriptors_log_into_nothing_of_theirs(master, scratch, start_peer):
    """Without 0, 1 and 2 the first sockets and files would get these numbers, and the lines of the log with them."""
    bare = ["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bare"]
    ports = free_ports(2)
    command = [str(find_build_dir() / "master" / "mooncake_master"), "--rpc_address=127.0.0.1", f"--rpc_port={ports[0]}", "--metrics_host=127.0.0.1",
               f"--metrics_port={ports[1]}", f"--ipc_dir={scratch.folder('ipc')}", f"--journal_dir={scratch.folder('journal')}", "--log_level=TRACE"]
    other = subprocess.Popen([*bare, *command])
    try:
        peer = start_peer()
        wait_until(lambda: peer.call("setup", "127.0.0.1", "P2PHANDSHAKE", 16 * MIB, 16 * MIB, "tcp", "", f"127.0.0.1:{ports[0]}") == 0, "it serves", 30)
        assert standard_descriptors(other.pid) == ["/dev/null"] * 3
        assert peer.call("put", "k", b"x" * 1000) == 0 and peer.call("get", "k") == b"x" * 1000
    finally:
        other.terminate()
        assert other.wait(20) == 0
    assert (scratch.folder("journal") / "lock").read_bytes() == b""
    program = inspect.getsource(use_without_descriptors) + "\nimport sys\nfound = use_without_descriptors(sys.argv[1])\nopen(sys.argv[2], 'w').write(repr(found))"
    result = scratch.path / "result"
    assert run_python(program, scratch, env={"MC_LOG_LEVEL": "TRACE"}, prefix=bare, args=[master.address, str(result)]).returncode == 0
    assert ast.literal_eval(result.read_text()) == ({0}, True, ["/dev/null"] * 3, 0)


def set_up_with(what, left, master_address):
    """setup in a process that may open so many files more, or whose user may start so many threads more."""
    import os
    import resource

    from mooncake.store import MooncakeDistributedStore  # while it may still read the folder, which can be root's alone

    if what == "descriptors":
        limit = len(os.listdir("/proc/self/fd")) - 1 + left
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    else:
        os.setgid(54321)
        os.setuid(54321)
        resource.setrlimit(resource.RLIMIT_NPROC, (1 + left, 1 + left))
    store = MooncakeDistributedStore()
    return store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 22, 1 << 22, "tcp", "", master_address), store.close()


def expect_a_code(what, most, master, scratch, env=None):
    """Wherever they end: UCX has assertions of its own there."""
    program = inspect.getsource(set_up_with) + "\nimport sys\nprint(set_up_with(sys.argv[1], int(sys.argv[2]), sys.argv[3]))"
    for left in range(most):
        done = run_python(program, scratch, args=[what, str(left), master.address], env=env)
        assert done.returncode == 0, f"{left} {what}: {done.stderr[-2000:]}"
        code, closed = ast.literal_eval(done.stdout)
        assert code in (0, -1, -600) and closed == 0, left


def test_a_setup_that_runs_out_of_descriptors_does_not_end_the_process(master, scratch):
    expect_a_code("descriptors", 30, master, scratch)


@pytest.mark.skipif(os.geteuid() != 0, reason="limits of threads hold for users other than root")
def test_a_setup_that_runs_out_of_threads_does_not_end_the_process(master, scratch):
    expect_a_code("threads", 8, master, scratch, {"MC_STORE_IPC_DIR": "none"})
