"""Fixtures of the system tests: real processes on ports and in folders of their own (tests/support).

MCS_BUILD_DIR names the build folder (default: build/release, else build/dev). Tests in network namespaces are skipped, with the reason, without root
or the ip command. Markers: `soak` for what takes longer than ten seconds, `netns` for what makes namespaces.
"""

import contextlib
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support.networks import Network, why_not
from tests.support.processes import Master, Peer, Scratch


# Whoever starts the tests in the background has Ctrl-C ignored, and all their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes longer than ten seconds")
    config.addinivalue_line("markers", "netns: makes network namespaces (root)")


@pytest.fixture
def scratch():
    folder = Scratch()
    yield folder
    folder.close()


@pytest.fixture
def start_master(scratch):
    """start_master(*flags, host=…, prefix=…, ports=…): a Master that is stopped with the test. A short lease, so that remove does not wait."""
    with contextlib.ExitStack() as stack:
        def start(*flags, **kwargs) -> Master:
            master = Master(scratch, "--default_kv_lease_ttl=500", *flags, **kwargs)
            stack.callback(_end_master, master)
            return master
        yield start


def _end_master(master: Master) -> None:
    if master.alive():
        master.thaw()
        code = master.stop()
        assert code == 0, f"exit {code} of the master\n{master.log()[-2000:]}"


@pytest.fixture
def master(start_master) -> Master:
    return start_master()


@pytest.fixture
def start_peer(scratch):
    """start_peer(name, env={}, prefix=[]): a Peer that ends with the test, and must end cleanly unless it was killed."""
    with contextlib.ExitStack() as stack:
        def start(name: str = "peer", **kwargs) -> Peer:
            peer = Peer(scratch, name, **kwargs)
            stack.callback(_end_peer, peer)
            return peer
        yield start


def _end_peer(peer: Peer) -> None:
    peer.close()
    code = peer.process.returncode
    assert code in (0, -9), f"{peer.name} ended with {code}\n{peer.log()[-3000:]}"


@pytest.fixture
def networks():
    """networks(n): n namespaces, each joined with each by a cable of its own."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        def make(count: int) -> list[Network]:
            made = []
            for _ in range(count):
                network = Network()
                stack.callback(network.close)
                made.append(network)
            for i, network in enumerate(made):
                for other in made[i + 1:]:
                    network.join(other)
            return made
        yield make
