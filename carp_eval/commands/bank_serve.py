"""`carp bank serve`: answer searches of a part of a bank."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options

# What is being searched when the server is stopped gets so many seconds.
SECONDS_TO_END = 2


def serve(
    path: Annotated[
        Path,
        typer.Argument(metavar="BANK", help="A bank's folder; of its shards only the part's need be there."),
    ],
    part: options.Part = "0/1",
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at. Default: only this machine can ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    exact: options.ExactSearch = False,
) -> None:
    """Answer searches of a bank, or of a part of it, for `carp bank search --servers`, until stopped.

    Who asks must know the token: that in CARP_TOKEN or, where there is none, a new one that is printed. It answers by
    the part's index where there is one. Nothing is encrypted: between machines, let it pass through a network of your
    own or a tunnel.
    """
    import os
    import secrets
    import socket

    import uvicorn

    from carp_eval.commands import tables
    from carp_eval.commands.listening import names
    from carp_eval.errors import UsageError
    from carp_eval.features.bank import Bank
    from carp_eval.features.indexes import parts, serving
    from carp_eval.features.indexes.part_search import searcher

    own = parts.part_of(Bank.open(path), *parts.read(part))
    # Set to nothing is not set.
    told = os.environ.get("CARP_TOKEN", "")
    token = told or secrets.token_urlsafe(24)
    about, find = searcher(own, exact=exact)
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen at {host}:{port} ({error}): choose another --host or --port"
        ) from error
    own_port = listening.getsockname()[1]
    name = names(host)[0]
    shown = f"[{name}]" if ":" in name else name
    if not told:
        tables.say(f"CARP_TOKEN={token}")
    tables.say(
        f"part {own.number}/{own.count} of {path}, {about.rows:,} rows, {about.kind} search: {shown}:{own_port}"
    )
    application = serving.application(about, find, token=token)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
