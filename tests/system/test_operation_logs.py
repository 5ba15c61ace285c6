"""One number leads through the logs: what a call asked of the master and of the owner of the bytes has its operation in all three."""

import re

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
