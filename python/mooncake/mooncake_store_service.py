"""A store behind a REST API: `mc_store_rest_server --config mooncake.json --port 8080`.

    PUT    /api/put {"key": K, "value": TEXT}      POST /api/mount {"size", "protocol", "location"}
    GET    /api/get/K                              POST /api/unmount {"segment_ids", "grace_period_seconds"}
    GET    /api/exist/K                            POST /api/mount_shm {"name", "size", "offset", "protocol", "location"}
    DELETE /api/remove/K                           POST /api/unmount_shm {"segment_ids", "grace_period_seconds"}
    DELETE /api/remove_all                         POST /api/unmount_local_disk {"grace_period_seconds"}
                                                   POST /api/reconfigure {"mode", "path", "size", …}

Answers are JSON, but the bytes of a value; failures are {"error": text}. A body is at most 100 MiB. Calls of the store run in threads, so that
a slow one holds up nobody else. There is no login: whoever reaches the port may empty the cache (docs/security.md).
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time

from aiohttp import web

from .http_guard import ConnectionGuard, raise_descriptor_limit
from .mooncake_config import MooncakeConfig
from .store import MooncakeDistributedStore

__all__ = ["MooncakeStoreService", "main", "sync_main"]

BODY_MAX = 100 * 1024 * 1024
STOP_SECONDS = 4
GRACE_MAX = 3600
ANY_KEY = "{key:(?s:.+)}"  # slashes and line breaks, too

log = logging.getLogger("mooncake.store_service")


class _Refused(Exception):
    """An answer other than success."""

    def __init__(self, status, error, **more):
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}


def _reply(body, status=200):
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def _answers(handler):
    """A handler that gives what becomes JSON, or a response. Whatever it raises becomes an error."""

    async def run(self, request):
        began = time.perf_counter()
        try:
            answer = await handler(self, request)
        except _Refused as refusal:
            answer = _reply(refusal.body, refusal.status)
        except web.HTTPException as error:
            answer = _reply({"error": error.reason}, error.status)
        except ConnectionResetError:
            answer = _reply({"error": "the connection was lost"}, 400)  # nobody reads it
        except Exception as error:
            log.exception("%s", handler.__name__)
            answer = _reply({"error": str(error)}, 500)
        log.debug("%s: %d after %.2f ms", handler.__name__, getattr(answer, "status", 200), (time.perf_counter() - began) * 1000)
        return answer if isinstance(answer, web.StreamResponse) else _reply(answer)

    run.__name__ = handler.__name__
    return run


async def _body(request):
    try:
        data = await request.json()
    except (ValueError, LookupError, RecursionError) as error:  # also too long a number, an unknown charset, too deep a nesting
        raise _Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise _Refused(400, "the body is not a JSON object")
    return data


async def _call(function, *arguments):
    """A call of the store in a thread. Arguments that it does not take at all (a number out of range, half a surrogate pair) are the request's fault."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except (TypeError, ValueError) as error:
        raise _Refused(400, str(error)) from None


def _segment_ids(data):
    ids = data.get("segment_ids", [])
    ids = [ids] if isinstance(ids, str) else ids
    if not ids or not isinstance(ids, list) or not all(isinstance(i, str) and i for i in ids):
        raise _Refused(400, "Missing segment_ids")
    return ids


def _whole(data, name, default, most=None):
    value = data.get(name, default)
    if type(value) is not int or value < 0 or (most is not None and value > most):
        raise _Refused(400, f"Invalid {name}, must be an integer from 0" + (f" to {most}" if most is not None else ""))
    return value


def _shm_name_to_path(name):
    """/dev/shm/NAME; None for what is no name there."""
    if not isinstance(name, str):
        return None
    name = name.removeprefix("/")
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        return None
    return f"/dev/shm/{name}"


def _leave_soon():
    """The process has ended STOP_SECONDS from now, whatever it waits for: a master that does not answer may take longer."""
    timer = threading.Timer(STOP_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


class MooncakeStoreService:
    def __init__(self, config_path=None, cli_config=None):
        self.store = None
        self.config = MooncakeConfig.from_file(config_path) if config_path else MooncakeConfig.load_from_env()
        if cli_config:
            known = {name: value for name, value in cli_config.items() if hasattr(self.config, name)}
            for name in cli_config.keys() - known.keys():
                log.warning("-D %s: no such setting", name)
            self.config = MooncakeConfig.from_dict({**vars(self.config), **known})
        self.current_mode = "prefill"
        self.mounted_segment_ids = []  # by /api/reconfigure
        self.last_mount_info = {}
        self._state_lock = asyncio.Lock()  # of the three above
        self._runner = None
        self._guard = None
        self.port = 0  # that is served

    # ---- life cycle ----

    def _setup_arguments(self):
        config = self.config
        return {
            "local_hostname": config.local_hostname,
            "metadata_server": config.metadata_server,
            "global_segment_size": config.global_segment_size,
            "local_buffer_size": config.local_buffer_size,
            "protocol": config.protocol,
            "rdma_devices": config.device_name,
            "master_server_addr": config.master_server_address,
            "enable_ssd_offload": config.enable_ssd_offload,
            "ssd_offload_path": config.ssd_offload_path,
            "tenant_id": config.tenant_id,
            "enable_client_http_server": config.enable_client_http_server,
            "client_http_port": config.client_http_port,
        }

    async def _setup_once(self, shutdown_event):
        """The code of one set-up; None when a shutdown was asked for meanwhile."""
        self.store = MooncakeDistributedStore()
        # A thread that nobody joins: the set-up may wait longer than a shutdown does.
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish(code):
            if not done.done():
                done.set_result(code)

        def run(store, arguments):
            code = store.setup(arguments)
            try:
                loop.call_soon_threadsafe(finish, code)
            except RuntimeError:  # the loop has ended
                pass

        threading.Thread(target=run, args=(self.store, self._setup_arguments()), daemon=True).start()
        stop = asyncio.ensure_future(shutdown_event.wait())
        await asyncio.wait({done, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return done.result() if done.done() and not shutdown_event.is_set() else None

    async def start_store_service(self, max_wait_time=60, shutdown_event=None):
        """Sets the store up, again each second for max_wait_time seconds. False: it did not work, or a shutdown was asked for."""
        shutdown_event = shutdown_event or asyncio.Event()
        end = time.monotonic() + max_wait_time
        attempt = 0
        while True:
            attempt += 1
            code = await self._setup_once(shutdown_event)
            if code == 0:
                log.info("store set up: %s, master %s", self.store.get_hostname(), self.config.master_server_address)
                return True
            if code is None:
                return False
            left = end - time.monotonic()
            if left <= 0:
                log.error("store not set up after %d attempts in %g s: code %d, see the log above", attempt, max_wait_time, code)
                return False
            log.warning("store not set up (attempt %d, code %d); trying on for %.0f s", attempt, code, left)
            try:
                await asyncio.wait_for(shutdown_event.wait(), min(1.0, left))
                return False
            except asyncio.TimeoutError:
                pass

    def routes(self):
        return [
            web.put("/api/put", self.handle_put),
            web.get("/api/get/" + ANY_KEY, self.handle_get),
            web.get("/api/exist/" + ANY_KEY, self.handle_exist),
            web.delete("/api/remove/" + ANY_KEY, self.handle_remove),
            web.delete("/api/remove_all", self.handle_remove_all),
            web.post("/api/mount", self.handle_mount),
            web.post("/api/unmount", self.handle_unmount),
            web.post("/api/mount_shm", self.handle_mount_shm),
            web.post("/api/unmount_shm", self.handle_unmount_shm),
            web.post("/api/unmount_local_disk", self.handle_unmount_local_disk),
            web.post("/api/reconfigure", self.handle_reconfigure),
        ]

    async def start_http_service(self, port=8080, host="0.0.0.0"):
        self._guard = ConnectionGuard(BODY_MAX, lambda: _reply({"error": "Request Entity Too Large"}, 413))
        app = web.Application(client_max_size=BODY_MAX, middlewares=[self._guard.middleware])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self._guard.start(self._runner)
        self.port = self._runner.addresses[0][1]
        log.info("REST API started on port %d", self.port)
        return True

    async def stop(self):
        if self._guard is not None:
            await self._guard.stop()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        if self.store is not None:
            store, self.store = self.store, None
            await asyncio.to_thread(store.close)
            log.info("store closed")

    # ---- values ----

    @_answers
    async def handle_put(self, request):
        data = await _body(request)
        key, value = data.get("key"), data.get("value")
        if not key or value is None:
            raise _Refused(400, "Missing key or value")
        if not isinstance(key, str) or not isinstance(value, str):
            raise _Refused(400, "key and value must be strings")
        code = await _call(lambda: self.store.put(key, value.encode()))
        if code != 0:
            raise _Refused(500, "PUT operation failed", code=code)
        return {"status": "success"}

    async def _exists(self, key):
        found = await _call(self.store.is_exist, key)
        if found < 0:
            raise _Refused(500, "Exist check failed", code=found)
        return found > 0

    @_answers
    async def handle_get(self, request):
        key = request.match_info["key"]
        # get() gives b"" for whatever went wrong; whether the key is there tells a miss from a failure. Asked twice: it
        # may have been put after the first time.
        for _ in range(2):
            value = await _call(self.store.get, key)
            if value:
                return web.Response(status=200, body=value, content_type="application/octet-stream")
            if not await self._exists(key):
                raise _Refused(404, "Key not found")
        raise _Refused(500, "GET operation failed")

    @_answers
    async def handle_exist(self, request):
        return {"exists": await self._exists(request.match_info["key"])}

    @_answers
    async def handle_remove(self, request):
        code = await _call(self.store.remove, request.match_info["key"])
        if code != 0:
            raise _Refused(500, "Remove operation failed", code=code)
        return {"status": "success"}

    @_answers
    async def handle_remove_all(self, request):
        count = await _call(self.store.remove_all)
        if count < 0:
            raise _Refused(500, "RemoveAll operation failed", code=count)
        return {"status": f"success removed {count} keys"}

    # ---- segments ----

    @_answers
    async def handle_mount(self, request):
        data = await _body(request)
        size = data.get("size")
        if type(size) is not int or size <= 0:
            raise _Refused(400, "Invalid size, must be a positive integer")
        protocol, location = data.get("protocol", self.config.protocol), data.get("location", "")
        result = await _call(self.store.allocate_and_mount_segment, size, protocol, location)
        if result["ret"] != 0:
            raise _Refused(500, f"Allocate and mount failed, ret={result['ret']}")
        return {"status": "success", "segment_ids": list(result["segment_ids"]), "allocated_size": result["allocated_size"]}

    @_answers
    async def handle_unmount(self, request):
        data = await _body(request)
        ids, grace = _segment_ids(data), _whole(data, "grace_period_seconds", 0)
        arguments = (ids, grace) if grace else (ids,)
        code = await _call(self.store.unmount_and_free_segment, *arguments)
        if code != 0:
            raise _Refused(500, f"Unmount and free failed, ret={code}")
        return {"status": "success"}

    async def _mount_file(self, path, data):
        protocol, location = data.get("protocol", self.config.protocol), data.get("location", "")
        size, offset = _whole(data, "size", -1), _whole(data, "offset", 0)
        info = {"path": path, "offset": offset, "size": size, "protocol": protocol, "location": location}
        return await _call(self.store.mount_segment, path, size, offset, protocol, location), info

    async def _unmount_file(self, segment_id, grace=0):
        arguments = ([segment_id], grace) if grace else ([segment_id],)
        return await _call(self.store.unmount_segment, *arguments) == 0

    @_answers
    async def handle_mount_shm(self, request):
        data = await _body(request)
        path = _shm_name_to_path(data.get("name"))
        if path is None or data.get("size") is None:
            raise _Refused(400, "Missing or invalid name or size")
        result, _ = await self._mount_file(path, data)
        if result["ret"] != 0:
            raise _Refused(500, f"Mount failed, ret={result['ret']}")
        return {"status": "success", "segment_ids": list(result["segment_ids"])}

    @_answers
    async def handle_unmount_shm(self, request):
        data = await _body(request)
        ids, grace = _segment_ids(data), _whole(data, "grace_period_seconds", 0)
        failed = []
        async with self._state_lock:
            for segment_id in ids:
                if not await self._unmount_file(segment_id, grace):
                    failed.append(segment_id)
                elif segment_id in self.mounted_segment_ids:
                    self.mounted_segment_ids.remove(segment_id)
            if not self.mounted_segment_ids:
                self.current_mode = "prefill"
        if failed:
            raise _Refused(500, "Unmount failed for one or more segments", failed_segment_ids=failed)
        return {"status": "success"}

    @_answers
    async def handle_unmount_local_disk(self, request):
        grace = _whole(await _body(request), "grace_period_seconds", 0, GRACE_MAX)
        code = await _call(self.store.unmount_local_disk_segment, grace)
        if code != 0:
            raise _Refused(500, f"Unmount of the local disk failed, ret={code}")
        return {"status": "success"}

    @_answers
    async def handle_reconfigure(self, request):
        data = await _body(request)
        mode = str(data.get("mode", "")).lower()
        if mode == "decode":
            return await self._to_decode(data)
        if mode == "prefill":
            return await self._to_prefill()
        raise _Refused(400, "Invalid mode. Use 'decode' or 'prefill'")

    async def _to_decode(self, data):
        path = data.get("path")
        if not path or not isinstance(path, str) or data.get("size") is None:
            raise _Refused(400, "Missing path or size for decode mode")
        async with self._state_lock:
            # The new segment first: one that cannot be mounted does not cost what is served now.
            result, info = await self._mount_file(path, data)
            if result["ret"] != 0 and self.mounted_segment_ids:
                raise _Refused(500, f"Mount failed, ret={result['ret']}; keeping previous decode segments", mode=self.current_mode)
            if result["ret"] != 0:
                self.current_mode = "prefill"
                self.last_mount_info = {}
                raise _Refused(500, f"Mount failed, ret={result['ret']}; rolled back to prefill", mode=self.current_mode)
            kept = [i for i in self.mounted_segment_ids if not await self._unmount_file(i)]
            if kept:
                log.warning("reconfigure: segments %s were not unmounted and are tried again next time", kept)
            self.mounted_segment_ids = list(result["segment_ids"]) + kept
            self.current_mode = "decode"
            self.last_mount_info = info
            return {"status": "success", "mode": self.current_mode, "segment_ids": self.mounted_segment_ids}

    async def _to_prefill(self):
        async with self._state_lock:
            if self.mounted_segment_ids:
                code = await _call(self.store.unmount_segment, self.mounted_segment_ids)
                if code != 0:
                    raise _Refused(500, f"Unmount failed, ret={code}")
            self.mounted_segment_ids = []
            self.current_mode = "prefill"
            self.last_mount_info = {}
            return {"status": "success", "mode": self.current_mode}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(prog="mc_store_rest_server", description="A Mooncake store behind a REST API.")
    parser.add_argument("--config", help="JSON file (default: MOONCAKE_CONFIG_PATH, or MOONCAKE_MASTER and its relatives)")
    parser.add_argument("-D", "--define", action="append", default=[], metavar="KEY=VALUE", help="overrides a field of the configuration")
    parser.add_argument("--port", type=int, default=8080, help="port of the API (default: 8080; 0: any free one)")
    parser.add_argument("--host", default="0.0.0.0", help="address that it binds (default: 0.0.0.0)")
    parser.add_argument("--max-wait-time", type=float, default=60, help="seconds for which the store's set-up is tried (default: 60)")
    return parser.parse_args(arguments)


def _definitions(items):
    definitions = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals:
            definitions[name] = value
        else:
            log.warning("-D %s: not KEY=VALUE", item)
    return definitions


async def _serve(service, arguments):
    """The exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_stop(number):
        log.info("signal %d: stopping", number)
        _leave_soon()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask_stop, number)
    try:
        if not await service.start_store_service(arguments.max_wait_time, stop):
            return 0 if stop.is_set() else 1
        await service.start_http_service(arguments.port, arguments.host)
        log.info("Mooncake Store Service is running")
        await stop.wait()
        return 0
    except OSError as error:
        log.error("port %d of %s is not served: %s", arguments.port, arguments.host, error.strerror or error)
        return 1
    finally:
        await service.stop()


async def main(arguments=None):
    arguments = parse_arguments(arguments)
    try:
        service = MooncakeStoreService(arguments.config, _definitions(arguments.define))
    except (OSError, ValueError) as error:
        log.error("configuration: %s", error)
        return 1
    return await _serve(service, arguments)


def sync_main():
    """The console script mc_store_rest_server."""
    raise_descriptor_limit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    return asyncio.run(main())


if __name__ == "__main__":
    sys.exit(sync_main())
