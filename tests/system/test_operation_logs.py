"""One number leads through the logs: what a call asked of the master and of the owner of the bytes has its operation in all three."""

import re
import subprocess

from tests.support.daemons import ClientDaemon
from tests.support.waiting import wait_until

DEBUG = {"MC_LOG_LEVEL": "DEBUG", "MC_STORE_MEMCPY": "0"}
LINE = re.compile(r"\b(\w+) op ([0-9a-f]{11})\.[0-9a-f]+ ")


def operations(log, verb):
    return {op for name, op in LINE.findall(log) if name == verb}


def test_an_operation_is_found_in_the_logs_of_client_master_and_owner(start_master, start_peer):
    master = start_master("--log_level=DEBUG")
    owner = start_peer("owner", env=DEBUG).setup(master)
    client = start_peer("client", env=DEBUG).setup(master, segment=0)
    assert client.call("put", "k", b"x" * 100_000) == 0
    assert client.call("get", "k") == b"x" * 100_000

    def found(theirs, ours="client"):
        return operations(client.log(), theirs) & operations(master.log(), theirs)

    put = found("put_start") & found("put_end")
    assert len(put) == 1, "one call, one operation, both its requests"
    get = found("get_replica_list")
    assert get and not get & put
    wait_until(lambda: put & operations(owner.log(), "store") and get & operations(owner.log(), "fetch"), "the owner has logged them")
    assert put <= operations(client.log(), "store") and get & operations(client.log(), "fetch")
    answer = re.search(rf"put_end op {put.pop()}\.\w+ to \S+: OK", master.log())
    assert answer, "the master's answer is there, too"


def test_the_level_is_changed_while_all_three_run_and_one_search_finds_a_call(start_master, start_peer, scratch):
    """As docs/operations.md has it: the master and the owner are told by HTTP; then one grep over three logs."""
    master = start_master()
    daemon = ClientDaemon(scratch, master.address, env={"MC_STORE_MEMCPY": "0"})
    client = start_peer("client", env=DEBUG).setup(master, segment=0)
    try:
        assert client.call("put", "before", b"x" * 100_000) == 0
        assert not LINE.search(master.log()) and not LINE.search(daemon.log())
        assert master.admin("/api/v1/log_level?level=DEBUG", "PUT")[0] == 200 and daemon.http("/log_level?level=DEBUG", "PUT")[0] == 200
        assert client.call("put", "k", b"x" * 100_000) == 0
        op = max(operations(client.log(), "put_end") & operations(master.log(), "put_end"))
        logs = [str(log) for log in (client.log_path, master.log_path, daemon.log_path)]
        wait_until(lambda: op in daemon.log(), "the owner has logged it")
        lines = subprocess.run(["grep", "-H", op, *logs], capture_output=True, text=True, check=True).stdout.splitlines()
        assert {line.partition(":")[0] for line in lines} == set(logs), lines
        assert any("put_start op" in line for line in lines) and any("put_end op" in line and ": OK" in line for line in lines)
        assert any("store op" in line and line.startswith(str(daemon.log_path)) for line in lines)
        assert master.admin("/api/v1/log_level?level=INFO", "PUT")[0] == 200 and daemon.http("/log_level?level=INFO", "PUT")[0] == 200
        sizes = len(LINE.findall(master.log())), len(LINE.findall(daemon.log()))
        assert client.call("put", "after", b"x" * 100_000) == 0
        assert sizes == (len(LINE.findall(master.log())), len(LINE.findall(daemon.log())))
    finally:
        assert daemon.stop() == 0
