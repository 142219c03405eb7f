"""Who may ask, and what the page may do.

On this machine alone, no token is asked for; a page of another site that has its name point here (DNS rebinding) is
told by its name in `Host` and refused, and so is what it sends without that trick, by its `Origin`. Elsewhere a random
token is asked for, which no such page can know; by which of its names the machine is reached does not matter then.
"""

import ipaddress
import secrets

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PARAMETER = "token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """Draw a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def guards(token: str | None, *, host: str) -> list[Middleware]:
    """Return what stands before every answer, the outermost first.

    Args:
        token: What is asked for; None where only this machine is served.
        host: Where it is listened: one of this machine's names, where no token is asked for.
    """
    guarded = [Middleware(SafeHeaders)]
    if token is None:
        hosts = ["127.0.0.1", "localhost", "::1", "[::1]", host]
        return [
            *guarded,
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(SameOrigin),
        ]
    return [*guarded, Middleware(SameOrigin), Middleware(TokenAsked, token=token)]


class SafeHeaders:
    """Puts onto every answer what the page may do: nothing but its own script, no network but this server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does, with more headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


class SameOrigin:
    """Refuses what another site's page sends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                refusal = JSONResponse({"error": "this was sent by another site's page"}, status_code=403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class TokenAsked:
    """Answers only who has the token: in the address first, which is changed into a cookie, then in that."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self.app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = self._cookie(scope)
        told = QueryParams(scope["query_string"]).get(PARAMETER)
        if told is not None and self._fits(told):
            # Out of the address: it is shown, kept in the history and copied.
            answer: Response = RedirectResponse("/", status_code=303)
            answer.set_cookie(name, self._token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, send)
            return
        cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
        if self._fits(cookies.get(name, "")):
            await self.app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"error": "open the address that carp explore has printed, with its token"}, status_code=401
        )
        await refusal(scope, receive, send)

    def _fits(self, told: str) -> bool:
        return secrets.compare_digest(told.encode("utf-8", "surrogatepass"), self._token.encode())

    @staticmethod
    def _cookie(scope: Scope) -> str:
        # A browser sends a cookie to every port of a machine: two explorers must not take each other's.
        server = scope.get("server")
        return f"carp-explore-{server[1] if server else 0}"
