"""A server for one page, from a free port to Ctrl-C."""

import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from carp_eval.errors import UsageError
from carp_eval.report.explorer import guarding

# What is under way when the server is stopped gets so many seconds.
GRACE = 2


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections.

    Args:
        host: The address to listen at.
        port: The port; 0 is any that is free.

    Raises:
        UsageError: If it cannot be listened at.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen at {host}, port {port}: {reason}. Choose another with --port; 0 is any that is free"
        ) from error


def address(host: str, port: int, token: str | None) -> str:
    """Return what to open in a browser."""
    # Every address of the machine: it is called by the one that always is.
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + ("" if token is None else f"?{guarding.PARAMETER}={token}")


def server(app: ASGIApp) -> uvicorn.Server:
    """Return what serves, and says nothing while it does."""
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        # What stands before this server may say nothing of who asks.
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until Ctrl-C, which the server ends by in order, and then hands on."""
    with suppress(KeyboardInterrupt), listening:
        server(app).run(sockets=[listening])


def show(address: str, opening: Callable[[str], bool] = webbrowser.open) -> None:
    """Open an address in the browser, without waiting: some do not return before they are closed."""
    threading.Thread(target=opening, args=(address,), daemon=True).start()
