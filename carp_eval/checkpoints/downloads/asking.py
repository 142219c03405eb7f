"""One request for a file, and what the answer to it means."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape

import requests
import urllib3

from carp_eval.errors import CheckpointError

CONNECT_SECONDS = 20.0
SILENT_SECONDS = 60.0
# Of a web page, which is read only to tell what it says.
_PAGE_BYTES = 500_000
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_MEANING = {
    401: "it asks for a login: for the Hub, `hf auth login` with an account that may read it",
    403: "it refuses: the file is not public, or too many fetched it lately",
    404: "there is no such file",
    410: "the file was taken away",
}
_HUB_MEANING = {
    "RepoNotFound": "there is no such repository, or it is private and this login may not see it (`hf auth login`)",
    "RevisionNotFound": "the repository has no such revision",
    "EntryNotFound": "the repository has no such file at that revision",
    "GatedRepo": "access must be asked for on the repository's page, and then `hf auth login`",
}

# What breaks while an answer is read: urllib3 raises its own, requests wraps those it sees.
BROKEN = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Request:
    """What to ask for.

    Attributes:
        url: The address.
        headers: Sent along.
        follow: Where a page stands before the file: takes the page, returns the file's address.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    follow: Callable[[str], str] | None = None


class PassingError(Exception):
    """A refusal that may pass: a busy server, a broken connection.

    Attributes:
        wait: Seconds after which the server wants to be asked again; None where it does not say.
        answered: Whether there was anyone at all.
    """

    def __init__(self, reason: str, *, wait: float | None = None, answered: bool = True) -> None:
        """Say what happened.

        Args:
            reason: In words.
            wait: Seconds after which the server wants to be asked again.
            answered: Whether there was anyone at all.
        """
        super().__init__(reason)
        self.wait = wait
        self.answered = answered


def ask(session: requests.Session, request: Request, headers: Mapping[str, str]) -> requests.Response:
    """Send a request, follow where it leads, and return an answer whose body is a file.

    An answer of 416 (there is nothing after the bytes we have) is returned too.

    Args:
        session: Honours proxies and certificates of the environment.
        request: What to ask for.
        headers: The part of the file that is wanted.

    Raises:
        PassingError: If the server is busy, or the connection broke.
        CheckpointError: If it refuses, or gives a web page.
    """
    url = request.url
    for _ in range(4):
        answer = _get(session, url, {**request.headers, **headers, "Accept-Encoding": "identity"})
        if answer.status_code == 416:
            return answer
        _judge(answer)
        if not _is_page(answer):
            return answer
        page = _page(answer)
        if request.follow is None:
            raise CheckpointError(is_page(page))
        url = request.follow(page)
    raise CheckpointError("its pages lead to more pages, and to no file")


def is_page(page: str) -> str:
    """Say that a web page came for a file, and how it calls itself."""
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    named = f" that calls itself {unescape(title[1]).strip()[:80]!r}" if title else ""
    return f"a web page{named} came instead of the file: it asks for a login, or its quota is used up"


def reason(error: BaseException) -> str:
    """Say in a few words why a connection broke: as whatever is underneath says it."""
    underneath = error
    while cause := underneath.__cause__ or underneath.__context__:
        underneath = cause
    words = underneath.strerror if isinstance(underneath, OSError) else None
    return (words or str(underneath) or type(underneath).__name__).splitlines()[0][:200]


def _get(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    try:
        return session.get(url, headers=dict(headers), stream=True, timeout=(CONNECT_SECONDS, SILENT_SECONDS))
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        what = "its certificate" if isinstance(error, requests.exceptions.SSLError) else "the proxy"
        raise CheckpointError(f"{what} cannot be used: {reason(error)}") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise PassingError(f"no connection: {reason(error)}", answered=False) from error
    except requests.exceptions.RequestException as error:
        raise CheckpointError(f"it cannot be asked: {reason(error)}") from error


def _judge(answer: requests.Response) -> None:
    code = answer.status_code
    if code in (200, 206):
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            answer.close()
            raise CheckpointError(f"it sends the file {encoding}-encoded, though asked not to")
        return
    hub_code = answer.headers.get("X-Error-Code", "")
    answer.close()
    words = _HUB_MEANING.get(hub_code) or _MEANING.get(code) or answer.reason or "nothing more is told"
    told = f"it answered {code}: {words}"
    if code in _PASSING:
        raise PassingError(told, wait=_retry_after(answer.headers.get("Retry-After", "")))
    raise CheckpointError(told)


def _retry_after(value: str) -> float | None:
    """Read seconds, or a date."""
    if value.strip().isdigit():
        return float(value)
    with suppress(ValueError):
        date = parsedate_to_datetime(value)
        # A date without a zone is in GMT.
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())
    return None


def _is_page(answer: requests.Response) -> bool:
    if "Content-Disposition" in answer.headers:
        return False
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() in (
        "text/html",
        "application/xhtml+xml",
    )


def _page(answer: requests.Response) -> str:
    try:
        return answer.raw.read(_PAGE_BYTES).decode("utf-8", errors="replace")
    except BROKEN as error:
        raise PassingError(f"the connection broke: {reason(error)}") from error
    finally:
        answer.close()
