"""A part of a bank that answers searches of other machines.

Queries come and answers go as plain numbers, little-endian, whose count follows from their length: nothing that could
be anything else is ever parsed. FAISS's own servers exchange pickles, which are not for a network.
"""

import hmac
import threading
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from carp_eval.cards.frozen import Frozen
from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Fingerprint
from carp_eval.features.neighbours import Neighbours

QUERY_TYPE, SIMILARITY_TYPE, ROW_TYPE = (np.dtype(name) for name in ("<f4", "<f8", "<i8"))
MOST_QUERY_BYTES = 2**26
MOST_ANSWERS = 2**22

Find = Callable[[Float32[Tensor, "query dim"], int], Neighbours]


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


def application(about: About, find: Find, *, token: str) -> Starlette:
    """Make the server of a part.

    Args:
        about: The part.
        find: Searches it: queries, and how many neighbours of each.
        token: Who does not send it is refused.
    """
    # One search takes all cores anyway.
    turn = threading.Lock()

    def one_by_one(queries: Tensor, k: int) -> Neighbours:
        with turn:
            return find(queries, k)

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
        try:
            found = await run_in_threadpool(one_by_one, asked, k)
        except (BankError, UsageError) as error:
            return PlainTextResponse(str(error), status_code=400)
        similarities = found.similarities.numpy().astype(SIMILARITY_TYPE).tobytes()
        rows = (found.indices + about.first).numpy().astype(ROW_TYPE).tobytes()
        return Response(similarities + rows, media_type="application/octet-stream")

    return Starlette(routes=[Route("/about", tell), Route("/search", search, methods=["POST"])])
