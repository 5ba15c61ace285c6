"""Processes that end in every way: exit code 0 and nothing on stderr but what the script says."""

import subprocess

import pytest
from python_support import FAKE_PATH, run_python

START = """
import os, sys, threading, time, gc
from mooncake.store import MooncakeDistributedStore, ReplicateConfig
def make():
    store = MooncakeDistributedStore()
    assert store.setup("localhost", "P2PHANDSHAKE", 0, 1 << 20, "tcp", "", "fake:1") == 0
    assert store.put("k", b"hello") == 0
    return store
"""

# The same on the real store, with the master inside the process.
REAL_START = START.replace('0, 1 << 20, "tcp", "", "fake:1"', '64 << 20, 16 << 20, "tcp", "", "embedded"')

SCRIPTS = {
    "closed": "store = make(); store.close()",
    "not closed": "store = make()",
    "never set up": "store = MooncakeDistributedStore()",
    "deleted": "store = make(); del store",
    "closed twice": "store = make(); store.close(); store.close()",
    "two stores": "a, b = make(), make(); a.close()",
    "set up again": "store = make(); store.close(); assert store.setup('h', 'P2PHANDSHAKE', 0, 1, 'tcp', '', 'm') == 0",
    "view alive": "store = make(); view = memoryview(store.get_buffer('k'))",
    "view alive after close": "store = make(); view = memoryview(store.get_buffer('k')); store.close(); assert bytes(view) == b'hello'",
    "in a cycle": "store = make(); store.me = store; del store",
    "in a cycle, collected": "store = make(); store.me = store; del store; gc.collect()",
    "in a global of a module": "sys.modules['keep'] = make()",
    "in a default argument": "def f(store=make()): pass",
    "in a class": "class C: store = make()",
    "in a thread local": "local = threading.local(); local.store = make()",
    "subclass with __del__": "class S(MooncakeDistributedStore):\n    def __del__(self):\n        self.close()\nstore = S(); store.setup('h', 'P2PHANDSHAKE', 0, 1, 'tcp', '', 'm')",
    "atexit of the user's": "import atexit; store = make(); atexit.register(lambda: print(store.get('k')))",
    "thread still in a call": "store = make(); t = threading.Thread(target=store.get, args=('!block',), daemon=True); t.start(); time.sleep(0.1)",
    "daemon threads calling": "store = make()\ndef loop():\n    while True:\n        store.get('k'); store.put('x', b'y'); store.get_buffer('k')\nfor _ in range(4): threading.Thread(target=loop, daemon=True).start()\ntime.sleep(0.1)",
    # The exit closes every store, so what a daemon thread then asks of its own is refused: only from then on may it fail.
    "daemon threads making stores": "ending = []\ndef loop():\n    while True:\n        try:\n            make()\n        except AssertionError:\n            if not ending: raise\n            return\nfor _ in range(2): threading.Thread(target=loop, daemon=True).start()\ntime.sleep(0.1)\nending.append(True)",
    "thread joined at exit": "store = make(); threading.Thread(target=lambda: (time.sleep(0.1), store.get('k'))).start()",
    "fork": "store = make(); pid = os.fork()\nif pid == 0:\n    assert store.put('a', b'b') == -600 and store.get('k') == b'' and store.close() == 0\n    os._exit(7)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\nassert store.get('k') == b'hello'",
    "fork, child exits normally": "store = make(); handle = store.get_buffer('k'); pid = os.fork()\nif pid == 0:\n    sys.exit(3)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\nassert store.get('k') == b'hello'",
    "fork, child deletes": "store = make(); pid = os.fork()\nif pid == 0:\n    del store\n    gc.collect()\n    other = MooncakeDistributedStore()\n    assert other.setup('localhost', 'P2PHANDSHAKE', 0, 0, 'tcp', '', 'embedded') == -600\n    sys.exit(3)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3",
    "multiprocessing spawn": "store = make()\nimport multiprocessing as mp\nif __name__ == '__main__':\n    p = mp.get_context('fork').Process(target=os.getpid); p.start(); p.join(); assert p.exitcode == 0",
    "os._exit": "store = make(); os._exit(0)",
    "imported only": "",
}


SETUP_AFTER_FORK = "fork, child deletes"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_ends_cleanly(fake, name):
    done = run_python(START + SCRIPTS[name])
    if name == SETUP_AFTER_FORK:
        assert "set up after the fork" in done.stderr
    else:
        assert done.stderr == ""


def test_a_store_may_be_set_up_in_a_child_of_a_process_without_one(real):
    script = REAL_START.replace("def make", "unused = MooncakeDistributedStore()\ndef make") + (
        "pid = os.fork()\nif pid == 0:\n    store = make()\n    assert store.get('k') == b'hello'\n    sys.exit(3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\nstore = make()"
    )
    run_python(script, package="real")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_with_the_real_store_ends_cleanly(real, name):
    script = SCRIPTS[name].replace("'h', 'P2PHANDSHAKE', 0, 1, 'tcp', '', 'm'", "'localhost', 'P2PHANDSHAKE', 0, 0, 'tcp', '', 'embedded'")
    done = run_python(REAL_START + script, package="real")
    for word in ("Fatal", "Exception", "Error:", "assert", "ensure"):
        assert word not in done.stderr


@pytest.mark.parametrize("how, code", [("raise RuntimeError('mine')", 1), ("sys.exit(5)", 5), ("raise KeyboardInterrupt", -2), ("raise SystemExit", 0)])
def test_exceptions_of_the_user_end_the_process_as_ever(fake, how, code):
    done = run_python(START + f"store = make(); view = memoryview(store.get_buffer('k'))\n{how}", check=False)
    assert done.returncode == code
    assert "Fatal" not in done.stderr and "Segmentation" not in done.stderr


def test_ctrl_c_in_a_call_ends_a_script(fake):
    script = START + (
        "import signal\n"
        "store = make()\n"
        "threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    store.get('!block')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    assert run_python(script).stdout == "interrupted\n"


def test_the_bare_module_works_without_the_package(fake):
    script = (
        "import store\n"
        "s = store.MooncakeDistributedStore()\n"
        "assert s.setup('h', 'P2PHANDSHAKE', 0, 1 << 20, 'tcp', '', 'm') == 0\n"
        "assert s.put('k', b'v') == 0 and s.get('k') == b'v'\n"
        "assert not hasattr(store, 'BufferPool') and not hasattr(store, 'nothing')\n"
    )
    run_python(script, env={"PYTHONPATH": str(FAKE_PATH / "mooncake")})


def test_another_interpreter_is_refused(fake):
    script = (
        "import mooncake.store\n"
        "try:\n"
        "    import _xxsubinterpreters as sub\n"
        "except ImportError:\n"
        "    raise SystemExit(0)\n"
        "other = sub.create()\n"
        "try:\n"
        "    sub.run_string(other, 'import mooncake.store')\n"
        "except sub.RunFailedError as error:\n"
        "    assert 'ImportError' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('it was imported')\n"
        "sub.destroy(other)\n"
    )
    run_python(script)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_one_file_serves_every_python(fake, version):
    import glob
    import os

    found = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python3"))) + glob.glob(f"/usr/bin/python{version}")
    if not found:
        pytest.skip(f"no Python {version} here")
    for interpreter in found:
        script = START + "store = make(); assert bytes(store.get_buffer('k')) == b'hello'; print(ReplicateConfig(), store.counters())"
        done = subprocess.run(
            [interpreter, "-X", "dev", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(FAKE_PATH)}
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
