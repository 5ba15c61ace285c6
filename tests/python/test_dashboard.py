"""The dashboard in a real browser: headless Chromium draws the page of a master with objects, and a page with figures made up to hurt it.

Pictures are kept in <build>/screenshots. Without Chromium (Debian's package chromium) these tests say so and are skipped.
"""

import contextlib
import http.server
import json
import re
import shutil
import struct
import subprocess
import threading
import time
import urllib.request
import zlib

import pytest
from contract_support import MIB, fresh, new_store, pattern
from python_support import BUILD_DIR, ROOT, Master, wait_until

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
PICTURES = BUILD_DIR / "screenshots"
PAGE = ROOT / "master" / "dashboard" / "index.html"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def browse(url, folder, picture=None, size=(1400, 1500)):
    """The page's document as it stands after some seconds of the page's own time."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
               f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=5000", "--dump-dom"]
    if picture:
        PICTURES.mkdir(exist_ok=True)
        command.append(f"--screenshot={PICTURES / picture}")
    done = subprocess.run([*command, url], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
    assert "<html" in done.stdout, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def mark(document, name):
    """What the page has noted about itself: an attribute data-NAME of <html>."""
    tag = re.search(r"<html[^>]*>", document)[0]
    found = re.search(rf'data-{name}="([^"]*)"', tag)
    return found[1] if found else None


def tile(document, key):
    return re.search(rf'data-key="{key}".*?class="value">([^<]*)<', document, re.S)[1]


def corner(picture):
    """The first pixel of a PNG, as (red, green, blue)."""
    data = (PICTURES / picture).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    packed, at = b"", 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        packed += data[at + 8:at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return tuple(zlib.decompressobj().decompress(packed, 4096)[1:4])  # a filter says nothing about the first pixel of the first line


@pytest.fixture(scope="module")
def busy(real, master_binary, tmp_path_factory):
    """A master with two segments, objects, hits and misses, and some seconds of history."""
    folder = tmp_path_factory.mktemp("dashboard")
    master = Master(folder, "--default_kv_lease_ttl=60s", f"--ipc_dir={folder / 'ipc'}")
    stores = [new_store(real, master, segment=16 * MIB) for _ in range(2)]
    pinned = real.ReplicateConfig()
    pinned.with_hard_pin = True
    keys = [fresh("board") for _ in range(12)]
    for i, key in enumerate(keys):
        assert stores[i % 2].put(key, pattern(MIB, i), pinned if i < 2 else real.ReplicateConfig()) == 0
    assert stores[0].get(keys[5]) == pattern(MIB, 5) and stores[1].get(fresh()) == b""
    wait_until(lambda: len(board(master)["samples"]) >= 3 and latest(board(master))["leased"] == 1, "the history has begun")
    yield master, stores
    for store in stores:
        store.close()
    assert master.stop() == 0


def board(master, since=0):
    with urllib.request.urlopen(f"http://127.0.0.1:{master.metrics_port}/api/v1/dashboard?since={since}", timeout=10) as answer:
        return json.load(answer)


def latest(data):
    return dict(zip(data["fields"], data["samples"][-1]))


def test_the_figures_are_those_of_the_cluster(busy):
    master, stores = busy
    data = board(master)
    row = latest(data)
    assert row["objects"] == 12 and row["hard_pinned"] == 2 and row["soft_pinned"] == 0
    assert row["leased"] == 1 and row["clients"] == row["segments"] == 2 and row["capacity_bytes"] == 32 * MIB
    assert row["allocated_bytes"] >= 12 * MIB and row["puts_total"] == 12 and row["put_bytes_total"] == 12 * MIB
    assert row["gets_total"] >= 2 and row["gets_total"] > row["hits_total"] >= 1
    assert {s["name"] for s in data["segments"]} == {s.get_hostname() for s in stores} == {c["name"] for c in data["clients"]}
    assert sum(s["allocated_bytes"] for s in data["segments"]) == row["allocated_bytes"]
    times = [sample[0] for sample in data["samples"]]
    assert times == sorted(times) and board(master, times[-1])["samples"] == [s for s in board(master)["samples"] if s[0] > times[-1]]


@needs_browser
@pytest.mark.parametrize("theme, size, dark", [("light", (1400, 1500), False), ("dark", (1400, 1500), True), ("dark", (390, 3400), True)])
def test_the_page_shows_them(busy, tmp_path, theme, size, dark):
    master, stores = busy
    picture = f"dashboard-{theme}-{size[0]}.png"
    document = browse(f"http://127.0.0.1:{master.metrics_port}/?theme={theme}", tmp_path, picture, size)
    assert mark(document, "error") is None and int(mark(document, "samples")) >= 3 and mark(document, "theme") == theme
    assert tile(document, "objects") == "12" and tile(document, "clients") == "2" and tile(document, "pins") == "2"
    assert ">ready<" in document and document.count('class="chart"') == 9
    assert all(store.get_hostname() in document for store in stores)
    assert re.search(r'aria-label="Capacity: given out [\d.]+ MiB, capacity 32.0 MiB', document)
    red, green, blue = corner(picture)
    assert (max(red, green, blue) < 64) if dark else (min(red, green, blue) > 192)


@needs_browser
def test_a_page_without_the_token_asks_for_it(master_binary, tmp_path):
    master = Master(tmp_path, "--admin_token=secret", f"--ipc_dir={tmp_path / 'ipc'}")
    document = browse(f"http://127.0.0.1:{master.metrics_port}/", tmp_path / "profile", "dashboard-token.png", (800, 500))
    assert mark(document, "error") is None and mark(document, "samples") is None
    assert re.search(r'<section id="login" class="card">', document), "the question is not hidden"
    assert ">a token is needed<" in document
    assert master.stop() == 0


@contextlib.contextmanager
def page_over(data):
    """The page on a server of the test's own, with an answer of the test's own; it notes how wide it is, and what ran that must not."""
    page = PAGE.read_text().replace("</body>", "<script>setInterval(() => { document.documentElement.dataset.wide = "
                                    "document.documentElement.scrollWidth - innerWidth; }, 200);</script></body>").encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_page = self.path == "/"
            body = page if is_page else json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8" if is_page else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_browser
def test_names_from_the_cluster_are_text_and_hours_of_rows_are_drawn(busy, tmp_path):
    data = board(busy[0])
    evil = "<img src=x onerror=\"document.documentElement.dataset.evil=1\"><script>document.documentElement.dataset.evil=1</script>"
    data["segments"] = [{**data["segments"][0], "name": evil + "n" * 200} for _ in range(30)]
    data["clients"] = [{**data["clients"][0], "name": evil, "data_plane": evil}]
    data["cluster_id"] = evil
    row = data["samples"][-1]
    data["samples"] = [[1000 * i, *((i * 10**15 + k) % 2**53 for k in range(len(row) - 1))] for i in range(1, 3600)]
    data["now_ms"] = 3_600_000
    with page_over(data) as url:
        document = browse(url, tmp_path, "dashboard-hostile.png", (390, 3400))
    assert mark(document, "evil") is None and mark(document, "error") is None
    assert "&lt;img src=x" in document and int(mark(document, "samples")) == 3599
    assert int(mark(document, "wide")) <= 0, "nothing but the tables scrolls sideways on a phone"


@needs_browser
def test_an_empty_cluster_is_drawn(busy, tmp_path):
    data = board(busy[0])
    data["samples"] = [[1000 * i, *(0 for _ in data["fields"][1:])] for i in range(1, 4)]
    data |= {"segments": [], "clients": [], "exhausted": ["segments"], "now_ms": 4000}
    with page_over(data) as url:
        document = browse(url, tmp_path, "dashboard-empty.png")
    assert mark(document, "error") is None and ">exhausted: segments<" in document and tile(document, "hits") == "–"


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_an_idle_master_costs_next_to_nothing(busy):
    master, _ = busy
    before, begin = cpu_seconds(master.process.pid), time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 3, "three seconds are over")
    used = (cpu_seconds(master.process.pid) - before) / (time.monotonic() - begin)
    assert used < 0.1, f"{used:.1%} of a CPU"
