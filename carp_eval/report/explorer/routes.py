"""What the explorer answers: a page, its style and scripts, and plain values under `/api`."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TypeVar, cast, get_args

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from carp_eval import results
from carp_eval.errors import BadImageError, CarpError, UsageError
from carp_eval.report import plane as planes
from carp_eval.report import rendering
from carp_eval.report.explorer import gallery, guarding, receiving
from carp_eval.report.explorer.apart import Unfolding
from carp_eval.report.explorer.gallery import Filter, Only
from carp_eval.report.explorer.side import Side
from carp_eval.report.plane import Plane
from carp_eval.report.svg import plain
from carp_eval.report.writing import SHAPES

MOST_NEIGHBOURS, MOST_OF_GALLERY = 200, 240
STYLES, SCRIPTS = ("report.css", "explore.css"), ("map.js", "explore.js")
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
# What a browser must not remember from another explorer on the same port.
_FRESH = {"Cache-Control": "no-store"}
T = TypeVar("T")


class Explorer:
    """Answers requests on one model, or two beside each other."""

    def __init__(self, sides: Sequence[Side]) -> None:
        """Take what is looked at.

        Args:
            sides: One or two models.
        """
        self._sides = list(sides)
        # Searches and forward passes take all cores each: one at a time. Pictures do not wait for them.
        self._working, self._drawing, self._mapping = (CapacityLimiter(1) for _ in range(3))
        self._asked = 0
        self._apart: list[Unfolding] = []

    def app(self, *, token: str | None, host: str = "127.0.0.1") -> Starlette:
        """Return what a server runs.

        Args:
            token: What is asked of who comes; None where only this machine is served.
            host: Where it is listened.
        """
        return Starlette(
            routes=[
                Route("/", self._page),
                *(Route(f"/{name}", _file(name)) for name in (*STYLES, *SCRIPTS)),
                # Browsers ask for it; an error on their console would hide others.
                Route("/favicon.ico", lambda _: Response(status_code=204)),
                Route("/api/state", self._state),
                Route("/api/images", self._images),
                Route("/api/pictures/{image:int}", self._picture),
                Route("/api/sides/{side:int}/map", self._map),
                Route("/api/sides/{side:int}/votes", self._votes),
                Route("/api/sides/{side:int}/places/{ticket:int}", self._place),
                Route("/api/sides/{side:int}/images/{image:int}", self._near_image),
                Route("/api/sides/{side:int}/picture", self._near_picture, methods=["POST"]),
            ],
            middleware=guarding.guards(token, host=host),
            exception_handlers={HTTPException: _refused, CarpError: _refused},
            lifespan=self._voting,
        )

    def stop(self) -> None:
        """End what takes long: who asked for it is told so, and the server can end."""
        for apart in self._apart:
            apart.stop()

    @asynccontextmanager
    async def _voting(self, app: Starlette) -> AsyncGenerator[None]:  # noqa: ARG002 - as Starlette calls it
        """Count the votes while the server runs, between what it is asked."""

        async def count() -> None:
            for side in self._sides:
                try:
                    for step in side.votes.steps(lambda: self._asked > 0):
                        await anyio.to_thread.run_sync(step, limiter=self._working, abandon_on_cancel=True)
                except CarpError as error:
                    # A damaged bank has pictures still, and the other model its votes.
                    side.votes.stopped = _first_line(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            yield
            group.cancel_scope.cancel()

    async def _page(self, request: Request) -> Response:  # noqa: ARG002
        page = rendering.render(
            "explore.html.j2",
            scripts=(),
            sides=[side.describe() for side in self._sides],
            record=self._sides[0].exhibit.bank.record,
            classes=_options(self._sides[0].exhibit.class_names),
            votes=bool(self._sides[0].votes.rows),
            shapes=SHAPES,
            styles=STYLES,
            files=SCRIPTS,
            most_bytes=receiving.MOST_BYTES,
            version=results.versions().get("carp-eval", ""),
        )
        return HTMLResponse(page, headers=_FRESH)

    async def _state(self, request: Request) -> Response:  # noqa: ARG002
        exhibit = self._sides[0].exhibit
        told = {
            "sides": [side.describe() for side in self._sides],
            "classes": _options(exhibit.class_names),
            "shapes": SHAPES,
            # A part of their addresses: another explorer on this port, an hour later, has other pictures.
            "pictures": "" if exhibit.images is None else exhibit.images.manifest_sha256[:16],
        }
        return JSONResponse(told, headers=_FRESH)

    async def _images(self, request: Request) -> Response:
        asked = request.query_params
        only = asked.get("only", "all")
        if only not in get_args(Only):
            raise HTTPException(400, f"only is one of {', '.join(get_args(Only))}, not {only}")
        label = asked.get("label", "")
        wanted = Filter(
            label=_number(label, "label", 0, len(self._sides[0].exhibit.class_names) - 1) if label else None,
            only=cast(Only, only),
            side=_number(asked.get("side", "0"), "side", 0, len(self._sides) - 1),
            words=asked.get("words", ""),
        )
        start = _number(asked.get("start", "0"), "start", 0, None)
        count = _number(asked.get("count", "60"), "count", 1, MOST_OF_GALLERY)
        page = await self._drawn(lambda: gallery.page(self._sides, wanted, start=start, count=count))
        return JSONResponse(page, headers=_FRESH)

    async def _picture(self, request: Request) -> Response:
        number = request.path_params["image"]
        # Whichever bank has it: the other may have skipped it.
        exhibit = next(
            (side.exhibit for side in self._sides if side.exhibit.has(number)), self._sides[0].exhibit
        )
        content = await self._drawn(lambda: exhibit.picture(number))
        kind = "image/webp" if content[8:12] == b"WEBP" else "image/jpeg"
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=600"})

    async def _map(self, request: Request) -> Response:
        side = self._side(request)
        chart = side.chart
        # Beside what is asked, which does not wait for it.
        async with self._mapping:
            if not chart.is_drawn:
                features = await anyio.to_thread.run_sync(chart.features)
                chart.keep(await self._unfolded(features) if chart.umap else await _drawn(features))
        return JSONResponse(await self._drawn(side.map), headers=_FRESH)

    async def _unfolded(self, features: Tensor) -> Plane:
        apart = Unfolding()
        apart.start()
        self._apart.append(apart)
        try:
            return await anyio.to_thread.run_sync(apart.draw, features, abandon_on_cancel=True)
        finally:
            self._apart.remove(apart)
            apart.stop()

    async def _place(self, request: Request) -> Response:
        side, ticket = self._side(request), request.path_params["ticket"]
        if not side.chart.is_drawn:
            raise HTTPException(409, "the map is not drawn yet")
        return JSONResponse(await self._drawn(lambda: side.place(ticket)), headers=_FRESH)

    async def _votes(self, request: Request) -> Response:
        return JSONResponse(self._side(request).judged(), headers=_FRESH)

    async def _near_image(self, request: Request) -> Response:
        side, number, k = self._side(request), request.path_params["image"], _neighbours(request)
        return JSONResponse(await self._worked(lambda: side.of_image(number, k=k)), headers=_FRESH)

    async def _near_picture(self, request: Request) -> Response:
        side, k = self._side(request), _neighbours(request)
        content = await _body(request)
        told = await self._worked(lambda: side.of_picture(receiving.received(content), k=k))
        return JSONResponse(told, headers=_FRESH)

    def _side(self, request: Request) -> Side:
        number = request.path_params["side"]
        if number >= len(self._sides):
            raise HTTPException(404, f"there is no model {number}: there are {len(self._sides)}")
        return self._sides[number]

    async def _worked(self, work: Callable[[], T]) -> T:
        self._asked += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._working)
        finally:
            self._asked -= 1

    async def _drawn(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._drawing)


async def _drawn(features: Tensor) -> Plane:
    return await anyio.to_thread.run_sync(lambda: planes.draw(features, umap=False))


async def _body(request: Request) -> bytes:
    """Read what is sent, and no more of it than is taken."""
    most = receiving.MOST_BYTES
    too_large = HTTPException(413, f"an image has at most {most // 2**20} MiB: make it smaller")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    if not content:
        raise HTTPException(400, "no image was sent")
    return bytes(content)


def _neighbours(request: Request) -> int:
    return _number(request.query_params.get("k", "12"), "k", 1, MOST_NEIGHBOURS)


def _number(told: str, name: str, least: int, most: int | None) -> int:
    # Beyond some digits, Python itself refuses to read a number.
    if told.isascii() and told.isdecimal() and len(told) < 12:
        number = int(told)
        if number >= least and (most is None or number <= most):
            return number
    up_to = "on" if most is None else f"to {most}"
    raise HTTPException(400, f"{name} is a number from {least} {up_to}, not {told[:40]!r}")


def _options(names: Sequence[str]) -> list[str]:
    """Return what classes are called where one is chosen by its name: two of one name are told apart."""
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return [name if counted[name] == 1 else f"{name} (class {label})" for label, name in enumerate(names)]


def _file(name: str) -> Callable[[Request], Response]:
    content = (files("carp_eval.report") / "templates" / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    def answer(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=kind, headers=_FRESH)

    return answer


def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - as Starlette calls it
    """Tell what went wrong, in words."""
    if isinstance(error, HTTPException):
        status, words = error.status_code, error.detail
    elif isinstance(error, BadImageError):
        status, words = 422, str(error)
    else:
        status, words = (404 if isinstance(error, UsageError) else 409), str(error)
    return JSONResponse({"error": _first_line(words)}, status_code=status, headers=_FRESH)


def _first_line(words: str) -> str:
    return plain(words.partition("\n")[0])
