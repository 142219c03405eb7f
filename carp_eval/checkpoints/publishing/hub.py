"""Talking to the Hub: who is asked, what its refusals mean, and when it is worth asking again."""

import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from carp_eval.errors import HubError, UsageError

Answer = TypeVar("Answer")

# What fails below HTTP is an error of the client's own library: httpx in some releases, httpx2 in others.
TransportError = cast(type[Exception], HfHubHTTPError.__bases__[0])
FAILURES = (HfHubHTTPError, TransportError, RuntimeError, OSError, ValueError)

WAITS = (1.0, 2.0, 4.0, 8.0)
# A Hub that asks for more than this is not waited for.
LONGEST_WAIT = 300.0
# A question that took so many seconds was asked more than once.
LONG = 15.0

clock = time.monotonic


@dataclass(frozen=True)
class Address:
    """A repository of the Hub, and which of its revisions.

    Attributes:
        repo: `USER/NAME`.
        revision: A branch, a tag or a commit; None is the main branch.
    """

    repo: str
    revision: str | None = None


def address(spelling: str) -> Address:
    """Read `USER/NAME` or `USER/NAME@REVISION`, with or without `hf:` before it.

    Raises:
        UsageError: If it is spelled otherwise.
    """
    repo, at, revision = spelling.removeprefix("hf:").partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} is no name of a repository on the Hub: {error}") from error
    if repo.count("/") != 1:
        raise UsageError(f"a repository on the Hub is spelled USER/NAME, got {repo!r}")
    if (at and not revision) or not re.fullmatch(r"[\w./-]*", revision) or ".." in revision:
        raise UsageError(f"{spelling!r} names no revision: after the @ comes a branch, a tag or a commit")
    return Address(repo, revision or None)


def client(endpoint: str | None = None) -> HfApi:
    """Return the Hub's client, with the token of the Hub's own login.

    Args:
        endpoint: The Hub's address; None is the usual one, or what `HF_ENDPOINT` says.
    """
    # Looked up here and now: the client reads the variable once, when it is imported.
    chosen = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    return HfApi(endpoint=chosen.rstrip("/"), library_name="carp-eval")


def need_login() -> None:
    """Make sure that there is a token.

    Raises:
        HubError: If there is none.
    """
    if not get_token():
        raise HubError(
            "nobody is logged in to the Hub on this machine: run `hf auth login`, or set HF_TOKEN to a token that may "
            "write"
        )


@contextmanager
def told(doing: str, at: Address) -> Generator[None]:
    """Turn what the client raises into a clear error.

    Args:
        doing: What is being done, as in "cannot push to".
        at: The repository.

    Raises:
        HubError: If the Hub cannot be reached or refuses.
    """
    try:
        yield
    except FAILURES as error:
        raise HubError(f"cannot {doing} {at.repo}: {_words(error, at)}") from error


def patiently(call: Callable[[], Answer]) -> Answer:
    """Ask the Hub, and again where it is busy, asks to wait, or the connection broke.

    Some releases of the client do so themselves for some questions: after one that took long, nothing is asked again.

    Args:
        call: Asks; must do no harm if it is asked twice.
    """
    for wait in WAITS:
        started = clock()
        try:
            return call()
        except FAILURES as error:
            asked = wait_asked(error, otherwise=wait)
            if asked is None or asked > LONGEST_WAIT or clock() - started > LONG:
                raise
            time.sleep(asked)
    return call()


def wait_asked(error: BaseException, *, otherwise: float) -> float | None:
    """Return how long to wait before it is worth asking again; None where it never is.

    Args:
        error: What the client raised.
        otherwise: Seconds, where the Hub does not tell.
    """
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return None
        if isinstance(cause, HfHubHTTPError):
            if cause.response.status_code not in (408, 429, 500, 502, 503, 504):
                return None
            return _retry_after(cause) or otherwise
        if isinstance(cause, TransportError):
            return otherwise
    return None


def out_of_reach(error: BaseException) -> bool:
    """Tell whether nobody answered, or nobody who could: it says nothing about what was asked for."""
    offline = any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error))
    return offline or wait_asked(error, otherwise=1.0) is not None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, where there is one."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code
    return None


def _retry_after(error: HfHubHTTPError) -> float | None:
    headers = error.response.headers
    seconds = headers.get("retry-after", "").strip()
    if not seconds.isdigit():
        found = re.search(r"\bt\s*=\s*(\d+)", headers.get("ratelimit", ""))
        seconds = found[1] if found else ""
    return float(seconds) if seconds else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an error to what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException, at: Address) -> str:
    """Say what a failure means, and what to do."""
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return "the Hub's client is told to stay offline; unset HF_HUB_OFFLINE"
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, at)
        if isinstance(cause, TransportError):
            return (
                f"the connection failed ({str(cause) or type(cause).__name__}). Nothing was changed there by halves; "
                "run the same command again"
            )
    return f"{error}"


def _refusal(error: HfHubHTTPError, at: Address) -> str:
    status = error.response.status_code
    said = error.server_message or error.response.headers.get("x-error-message") or ""
    says = f" ({said.strip()})" if said.strip() else ""
    code = error.response.headers.get("x-error-code", "")
    if code == "RevisionNotFound":
        return f"it has no revision {at.revision!r}{says}"
    if code == "EntryNotFound":
        return f"a file is not there any more{says}; run the same command again"
    if status == 401 and not get_token():
        return (
            "there is no such repository, or it is private and nobody is logged in: check the spelling, or run "
            "`hf auth login`, or set HF_TOKEN"
        )
    if code == "RepoNotFound" or status == 404:
        return f"there is no such repository, or it is private and your token may not see it{says}: check the spelling"
    meanings = {
        401: "the token is not valid: run `hf auth login` again, or set HF_TOKEN to a valid token",
        403: "your token has no right to do this there: take one that may write, and a USER that is you",
        409: "something else is being done to it at this moment, or what should be made is there already; look, and "
        "run the same command again",
        412: "someone committed to it since this push looked. Nothing was overwritten: look at what changed, and run "
        "the same command again",
        413: "the Hub says it is too large; push without --with-bank",
        429: f"the Hub asks you to slow down{_how_long(error)}; run the same command again then",
    }
    if status in meanings:
        return f"{meanings[status]}{says}"
    if status >= 500:
        return f"the Hub is in trouble (HTTP {status}){says}; what was there is as it was. Try again later"
    return f"the Hub refused (HTTP {status}){says}"


def _how_long(error: HfHubHTTPError) -> str:
    seconds = _retry_after(error)
    return f" for {seconds:.0f} seconds" if seconds else ""
