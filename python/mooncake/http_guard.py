"""Keeps slow and silent peers of the package's HTTP services from holding up the others.

aiohttp bounds the silence after a request, not that before the first one, nor a request that comes byte by byte; and a process has 1024
descriptors by default. So each connection has SILENT seconds for its request to begin and BODY seconds for the rest, fewer of the first when
descriptors run short. A body that is announced longer than the application takes is refused before it comes.

    guard = ConnectionGuard(BODY_MAX, lambda: web.Response(status=413))
    app = web.Application(middlewares=[guard.middleware])
    runner = web.AppRunner(app)
    await runner.setup()
    guard.start(runner)
    ...
    await guard.stop()
"""

import asyncio
import contextlib
import resource
import time

from aiohttp import web

__all__ = ["ConnectionGuard", "raise_descriptor_limit"]

SILENT = 20.0  # seconds until a request's headers are there
SILENT_CROWDED = 2.0  # the same, while three quarters of the descriptors are connections
SILENT_FULL = 0.25
BODY = 300.0  # seconds until its body is
SPARE = 64  # descriptors for everything else


def raise_descriptor_limit():
    """For a main: the soft limit becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptors():
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


class ConnectionGuard:
    """Of one runner; everything runs on its loop."""

    def __init__(self, body_max, too_large, body=BODY):
        self._body = body
        self._most = max(1, _descriptors() - SPARE)
        self._idle = {}  # connection: since when
        self._busy = {}  # connection: since when, its request
        self._task = None

        @web.middleware
        async def middleware(request, handler):
            connection = request.protocol
            self._idle.pop(connection, None)
            self._busy[connection] = time.monotonic(), request
            try:
                return too_large() if (request.content_length or 0) > body_max else await handler(request)
            finally:
                self._busy.pop(connection, None)
                self._idle[connection] = time.monotonic()

        self.middleware = middleware

    def start(self, runner):
        self._task = asyncio.get_running_loop().create_task(self._watch(runner))

    async def stop(self):
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _patience(self, count):
        if count * 16 >= self._most * 15:
            return SILENT_FULL
        return SILENT_CROWDED if count * 4 >= self._most * 3 else SILENT

    def _late(self, connection, now, patience):
        busy = self._busy.get(connection)
        if busy is not None:
            since, request = busy
            return now - since > self._body and not request.content.is_eof()
        return now - self._idle.setdefault(connection, now) > patience

    async def _watch(self, runner):
        while True:
            connections = list(runner.server.connections)
            there = set(connections)
            self._idle = {connection: since for connection, since in self._idle.items() if connection in there}
            patience, now = self._patience(len(connections)), time.monotonic()
            for connection in connections:
                if self._late(connection, now, patience) and connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(min(1.0, patience / 2))
