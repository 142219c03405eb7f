"""A server for one page, from a free port to Ctrl-C."""

import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

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


def address(name: str, port: int, token: str | None) -> str:
    """Return what to open in a browser.

    Args:
        name: The machine's, or its address.
        port: The port.
        token: What is asked for; None where only this machine is served.
    """
    host = f"[{name}]" if ":" in name else name
    return f"http://{host}:{port}/" + ("" if token is None else f"?{guarding.PARAMETER}={token}")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending()
        super().handle_exit(sig, frame)


def server(app: ASGIApp, *, ending: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return what serves, and says nothing while it does.

    Args:
        app: What answers.
        ending: Called once the server is to end.
    """
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        # What stands before this server may say nothing of who asks.
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, ending=ending)


def serve(app: ASGIApp, listening: socket.socket, *, ending: Callable[[], None]) -> None:
    """Serve until Ctrl-C, which the server ends by in order, and then hands on.

    Args:
        app: What answers.
        listening: Takes connections.
        ending: Called at Ctrl-C: ends what takes long.
    """
    with suppress(KeyboardInterrupt), listening:
        server(app, ending=ending).run(sockets=[listening])


def show(address: str, opening: Callable[[str], bool] = webbrowser.open) -> None:
    """Open an address in the browser, without waiting: some do not return before they are closed."""
    threading.Thread(target=opening, args=(address,), daemon=True).start()
