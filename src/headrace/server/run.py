"""The process side of serving: uvicorn around a listening socket, and what signals do.

In: an app and a listener. Out: nothing until the server has ended. The first SIGTERM or Ctrl-C
drains, the second tells what runs and ends, the third kills. Knows no route.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType

import uvicorn

from headrace.server.app import HeadraceApp
from headrace.server.connection import connection_limits, guard_connections

_log = logging.getLogger(__name__)

# Above the 5 s after which Python clients drop idle connections, and the 60 s of common proxies:
# the side that waits less closes first, so that no request meets a closing connection.
_KEEP_ALIVE_S = 75
# What is still open after the drain is cut off.
_CUT_OFF_S = 2


def address_of(listener: socket.socket, has_tls: bool = False) -> str:
    """The base address clients use."""
    scheme = "https" if has_tls else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """Uvicorn that lets running requests finish before it closes."""

    def __init__(
        self,
        app: HeadraceApp,
        listener: socket.socket,
        on_ready: Callable[[], None],
        certificate: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=guard_connections(connection_limits(app.services.config)),
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Who calls is the key's concern; an address in a header is anybody's claim.
                proxy_headers=False,
                ssl_context_factory=_use(certificate),
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_CUT_OFF_S,
            )
        )
        self._app = app
        self._services = app.services
        self._listener = listener
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def serve_requests(self) -> None:
        """Serve until stopped."""
        self._loop = asyncio.get_running_loop()
        await self.serve(sockets=[self._listener])
        _log.info("stopped")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.addFilter(self._is_news)
        try:
            await super().startup(sockets)
        except SystemExit:
            if self._app.start_error is None:
                raise
            raise self._app.start_error from None
        finally:
            uvicorn_log.removeFilter(self._is_news)
        # What is loaded stays: going through all of it again stops every stream for 50 to 100 ms.
        gc.freeze()
        self._on_ready()

    def _is_news(self, _: logging.LogRecord) -> bool:
        """A start that failed is told by whoever started it, not by a traceback."""
        return self._app.start_error is None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python when a signal arrives."""
        lifetime = self._services.lifetime
        if lifetime.is_closing or self._loop is None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        elif lifetime.is_draining:
            # Set here and not in the loop: a loop that hangs must not outlive the next signal.
            lifetime.is_closing = True
            self._loop.call_soon_threadsafe(lifetime.close)
        else:
            lifetime.is_draining = True
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Take no more requests, and end once the running ones have finished or time is up."""
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        lifetime = self._services.lifetime
        if lifetime.num_running:
            still = "request is" if lifetime.num_running == 1 else "requests are"
            _log.info("stopping; %d %s still running", lifetime.num_running, still)
        await lifetime.drain(self._services.config.shutdown_timeout_s)
        self.should_exit = True


def _use(certificate: ssl.SSLContext | None) -> Callable[..., ssl.SSLContext] | None:
    return None if certificate is None else lambda *_: certificate


async def serve_app(
    app: HeadraceApp,
    listener: socket.socket,
    on_ready: Callable[[], None],
    certificate: ssl.SSLContext | None = None,
) -> None:
    """Serve the app on an open socket until a signal ends it. `on_ready` runs once it answers.

    Raises: HeadraceError where the app's lifespan does not begin because of one.
    """
    await DrainingServer(app, listener, on_ready, certificate).serve_requests()
