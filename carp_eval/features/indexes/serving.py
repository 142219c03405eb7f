"""A part of a bank that answers searches of other machines.

Queries come and answers go as plain numbers, little-endian, whose count follows from their length: nothing that could
be anything else is ever parsed. FAISS's own servers exchange pickles, which are not for a network.

A search of a large part may take long, in which a server that works cannot be told from one that is gone. So its answer
begins at once, with a sign every few seconds: the queries done so far. Then comes `ANSWERED` and the neighbours, or
`REFUSED` and why. Each of these is a number of the type `SIGN_TYPE`.
"""

import asyncio
import hmac
import threading
from collections.abc import AsyncGenerator, Callable

import numpy as np
import torch
from jaxtyping import Float32
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from carp_eval.cards.frozen import Frozen
from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Fingerprint
from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.neighbours import Neighbours

QUERY_TYPE, SIMILARITY_TYPE, ROW_TYPE = (np.dtype(name) for name in ("<f4", "<f8", "<i8"))
MOST_QUERY_BYTES = 2**26
MOST_ANSWERS = 2**22
SIGN_TYPE = np.dtype("<i8")
ANSWERED, REFUSED = -1, -2
SECONDS_BETWEEN_SIGNS = 5.0

Find = Callable[[Float32[Tensor, "query dim"], int, Progress | None], Neighbours]


class About(Frozen):
    """What a server says of itself.

    Attributes:
        fingerprint: Of the bank.
        number: Which part of it is served, from 0.
        count: How many parts there are.
        first: The row of the whole bank that the part begins with.
        rows: Rows of the part.
        dim: Their width.
        kind: The index that answers; `exact` where there is none.
    """

    fingerprint: Fingerprint
    number: int
    count: int
    first: int
    rows: int
    dim: int
    kind: str


class _LeftError(Exception):
    """Who asked has gone: nobody waits for the answer."""


class _Search:
    """One search under way.

    Attributes:
        done: Queries that are answered so far.
        left: Whether nobody waits for it any more.
    """

    def __init__(self, find: Find, queries: Float32[Tensor, "query dim"], k: int, *, first: int) -> None:
        self._find, self._queries, self._k, self._first = find, queries, k, first
        self.done = 0
        self.left = False

    def run(self, turn: threading.Lock) -> bytes:
        """Search, once it is its turn, and return what ends the answer."""
        try:
            with turn:
                self._tell(0, len(self._queries))
                found = self._find(self._queries, self._k, self._tell)
        except (BankError, UsageError) as error:
            return sign(REFUSED) + str(error).encode("utf-8", "replace")
        except _LeftError:
            return b""
        similarities = found.similarities.numpy().astype(SIMILARITY_TYPE).tobytes()
        rows = (found.indices + self._first).numpy().astype(ROW_TYPE).tobytes()
        return sign(ANSWERED) + similarities + rows

    async def answer(self, turn: threading.Lock) -> AsyncGenerator[bytes]:
        """Yield a sign now and then while it is searched, and then the end."""
        work = asyncio.create_task(run_in_threadpool(self.run, turn))
        try:
            while not work.done():
                yield sign(self.done)
                await asyncio.wait([work], timeout=SECONDS_BETWEEN_SIGNS)
            yield work.result()
        finally:
            self.left = True

    def _tell(self, done: int, of: int) -> None:  # noqa: ARG002 - as searches call it
        self.done = done
        if self.left:
            raise _LeftError


def sign(number: int) -> bytes:
    """Return the bytes of a sign."""
    return np.array(number, SIGN_TYPE).tobytes()


def application(about: About, find: Find, *, token: str) -> Starlette:
    """Make the server of a part.

    Args:
        about: The part.
        find: Searches it: queries, how many neighbours of each, and what is told how far it is.
        token: Who does not send it is refused.
    """
    # One search takes all cores anyway.
    turn = threading.Lock()

    def refused(request: Request) -> Response | None:
        sent = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(sent, f"Bearer {token}".encode()):
            return None
        return PlainTextResponse("the token is missing or wrong", status_code=401)

    async def tell(request: Request) -> Response:
        return refused(request) or Response(about.model_dump_json(), media_type="application/json")

    async def search(request: Request) -> Response:
        if (no := refused(request)) is not None:
            return no
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MOST_QUERY_BYTES:
                return PlainTextResponse("too many queries at once", status_code=413)
        word = request.query_params.get("k", "")
        k = int(word) if word.isdecimal() and len(word) < 10 else 0
        width = about.dim * QUERY_TYPE.itemsize
        queries = len(body) // width
        if not queries or len(body) % width or not 1 <= k <= about.rows or queries * k > MOST_ANSWERS:
            return PlainTextResponse(f"expected rows of {about.dim} numbers and a fitting k", status_code=400)
        asked = torch.from_numpy(
            np.frombuffer(body, QUERY_TYPE).astype(np.float32).reshape(queries, about.dim)
        )
        if not bool(asked.isfinite().all()):
            return PlainTextResponse("the queries are not all finite", status_code=400)
        under_way = _Search(find, asked, k, first=about.first)
        return StreamingResponse(under_way.answer(turn), media_type="application/octet-stream")

    return Starlette(routes=[Route("/about", tell), Route("/search", search, methods=["POST"])])
