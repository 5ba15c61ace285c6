"""Fixtures of the Python tests.

MCS_BUILD_DIR names the build folder (default: build/release, else build/dev). Two modules come from it and live side by side in a test process:
  <build>/python/mooncake       the real package, imported as `mooncake`
  <build>/python_fake/mooncake  the same sources over an in-memory library (tests/support/fake_mcstore.c), imported as `mooncake_fake`
Tests of arguments, results, leaks and signals use `fake`; the documentation's flows and everything with processes use `real`.
"""

import gc
import importlib
import os
import signal
import sys

import pytest
from python_support import BUILD_DIR, FAKE_PATH, REAL_PATH, SETUP, Master, import_fake, run_python
from python_worker import Worker


# Whoever starts the tests in the background has Ctrl-C ignored, and all their children with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fake():
    """The module over the in-memory library."""
    if not (FAKE_PATH / "mooncake" / "store.abi3.so").exists():
        pytest.skip("store_fake is not built")
    return import_fake()


@pytest.fixture(scope="session")
def real():
    """The module over the real library."""
    if not (REAL_PATH / "mooncake" / "store.abi3.so").exists():
        pytest.skip("store is not built")
    if str(REAL_PATH) not in sys.path:
        sys.path.insert(0, str(REAL_PATH))
    return importlib.import_module("mooncake.store")


@pytest.fixture
def store(fake):
    """A store on the fake, set up, empty, with a local buffer of 1 MiB."""
    store = fake.MooncakeDistributedStore()
    assert store.setup(*SETUP) == 0
    store.remove_all(force=True)
    gc.collect()
    yield store
    store.close()


@pytest.fixture(scope="session")
def master_binary(real):
    path = BUILD_DIR / "master" / "mooncake_master"
    if not path.exists():
        pytest.skip("mooncake_master is not built")
    return path


@pytest.fixture(scope="session")
def master(master_binary, tmp_path_factory):
    """One master for all tests: a short lease, so that remove does not wait."""
    master = Master(tmp_path_factory.mktemp("master"), "--default_kv_lease_ttl=500")
    yield master
    assert master.stop() == 0


@pytest.fixture
def new_worker(real, tmp_path):
    """Makes processes with the real library, and ends them."""
    made = []

    def make(env=None):
        made.append(Worker(REAL_PATH, tmp_path / f"worker-{len(made)}.log", env))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            os.kill(one.pid, signal.SIGCONT)
            one.kill()


@pytest.fixture
def worker(new_worker):
    return new_worker


@pytest.fixture(scope="session")
def python(fake):
    return run_python
