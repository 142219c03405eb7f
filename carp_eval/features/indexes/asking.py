"""One search over several machines, each of which serves a part of the bank."""

import re
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import requests
import torch
import urllib3
from jaxtyping import Float32
from pydantic import ValidationError
from torch import Tensor

from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Fingerprint
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes.serving import (
    ANSWERED,
    MOST_ANSWERS,
    MOST_QUERY_BYTES,
    QUERY_TYPE,
    REFUSED,
    ROW_TYPE,
    SIGN_TYPE,
    SIMILARITY_TYPE,
    About,
)
from carp_eval.features.search.neighbours import Neighbours, joined

SECONDS_TO_CONNECT = 10
# Between two parts of an answer. A search may take hours; a server that is at it gives a sign every few seconds.
SECONDS_TO_TELL = 30.0
SECONDS_WITHOUT_A_SIGN = 120.0
# Of what a server says where it refuses.
MOST_WORDS = 1000
MOST_ABOUT = 2**20


class Servers:
    """The servers of all parts of one bank.

    Attributes:
        abouts: What each says of itself, in the order of the parts.
    """

    def __init__(self, addresses: Sequence[str], *, token: str) -> None:
        """Ask each server what it serves.

        Args:
            addresses: `host:port` of each.
            token: What all of them ask for.

        Raises:
            UsageError: If an address is none.
            BankError: If one cannot be reached or refuses, or together they are not the parts of one bank.
        """
        for address in addresses:
            if re.fullmatch(r"[^\s/@?#]+:[0-9]{1,5}", address) is None:
                raise UsageError(f"a server is named as HOST:PORT, as it prints it itself; got {address!r}")
        # Proxies and passwords of the environment are not for these machines.
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {token}"
        told = sorted(
            ((self._about(address), address) for address in addresses), key=lambda each: each[0].first
        )
        self.abouts = [about for about, _ in told]
        self._addresses = [address for _, address in told]
        first = 0
        for number, about in enumerate(self.abouts):
            place = (about.number, about.count, about.first)
            if place != (number, len(told), first) or about.fingerprint != self.abouts[0].fingerprint:
                served = "; ".join(f"{a} has part {b.number}/{b.count} of {b.rows:,} rows" for b, a in told)
                raise BankError(f"the servers are not the parts of one bank, each once: {served}")
            first += about.rows

    def __len__(self) -> int:
        return sum(about.rows for about in self.abouts)

    def check_comparable(self, fingerprint: Fingerprint) -> None:
        """Make sure that queries come from the same model, layer and preprocessing.

        Raises:
            BankError: If they do not; the message names what differs.
        """
        differences = self.abouts[0].fingerprint.differences(fingerprint)
        differences = [name for name in differences if name not in ("manifest_sha256", "dtype")]
        if differences:
            raise BankError(f"the served bank and the queries differ in {', '.join(differences)}")

    def search(
        self, queries: Float32[Tensor, "query dim"], *, k: int, progress: Progress | None = None
    ) -> Neighbours:
        """Find the k nearest rows of all parts: similarity descending, then row ascending.

        Args:
            queries: Features of the bank's model.
            k: Neighbours of each.
            progress: Is told of queries done, and of how many.

        Raises:
            UsageError: If there are fewer than k rows, or the queries are of another width.
            BankError: If a server cannot be reached, refuses, or answers something else than neighbours.
        """
        if not 1 <= k <= len(self):
            raise UsageError(f"k is {k}, but there are {len(self)} rows: choose k from 1 to {len(self)}")
        dim = self.abouts[0].dim
        if queries.shape[1] != dim:
            raise UsageError(f"the bank's features are {dim} wide, the queries' {queries.shape[1]}")
        step = max(1, min(MOST_QUERY_BYTES // (QUERY_TYPE.itemsize * dim), MOST_ANSWERS // k))
        merged: list[Neighbours] = []
        with ThreadPoolExecutor(len(self.abouts)) as pool:
            for start in range(0, len(queries), step):
                part = queries[start : start + step]
                slowest = _Slowest(len(self.abouts), progress, before=start, of=len(queries))
                tasks = [
                    pool.submit(self._ask, number, part, k, slowest) for number in range(len(self.abouts))
                ]
                merged.append(merge([task.result() for task in tasks], k=k))
        return joined(merged, k=k)

    def _ask(
        self, number: int, queries: Float32[Tensor, "query dim"], k: int, slowest: "_Slowest"
    ) -> Neighbours:
        about, address = self.abouts[number], self._addresses[number]
        wanted = min(k, about.rows)
        body = queries.numpy().astype(QUERY_TYPE).tobytes()
        with self._asked("POST", address, f"search?k={wanted}", body, SECONDS_WITHOUT_A_SIGN) as answer:
            while (said := _sign(answer, address)) >= 0:
                slowest.tell(number, min(said, len(queries)))
            # One byte more than there should be is told from none.
            size = len(queries) * wanted
            expected = size * (SIMILARITY_TYPE.itemsize + ROW_TYPE.itemsize)
            content = answer.raw.read((expected if said == ANSWERED else MOST_WORDS) + 1)
        if said == REFUSED:
            raise BankError(f"{address} cannot search: {_words(content)}")
        if said != ANSWERED or len(content) != expected:
            raise BankError(f"{address} answered {len(content)} bytes, which are not {size} neighbours")
        slowest.tell(number, len(queries))
        similarities = np.frombuffer(content, SIMILARITY_TYPE, size).astype(np.float64)
        rows = np.frombuffer(content, ROW_TYPE, size, size * SIMILARITY_TYPE.itemsize).astype(np.int64)
        inside = (rows >= about.first) & (rows < about.first + about.rows)
        if not (np.isfinite(similarities) & inside).all():
            raise BankError(f"{address} answered with rows that it does not serve, or no numbers")
        shape = (len(queries), wanted)
        return Neighbours(
            torch.from_numpy(similarities.reshape(shape)), torch.from_numpy(rows.reshape(shape))
        )

    def _about(self, address: str) -> About:
        with self._asked("GET", address, "about", b"", SECONDS_TO_TELL) as answer:
            content = answer.raw.read(MOST_ABOUT)
        try:
            return About.model_validate_json(content)
        except ValidationError as error:
            raise BankError(f"{address} is no server of a bank of this release") from error

    @contextmanager
    def _asked(
        self, method: str, address: str, path: str, body: bytes, patience: float
    ) -> Generator[requests.Response]:
        """Ask a server, and read its answer within the block."""
        begun = False
        try:
            with self._session.request(
                method,
                f"http://{address}/{path}",
                data=body,
                timeout=(SECONDS_TO_CONNECT, patience),
                allow_redirects=False,
                stream=True,
            ) as answer:
                begun = True
                if answer.status_code == 401:
                    raise BankError(
                        f"{address} refuses the token: set CARP_TOKEN to the one it was started with"
                    )
                if answer.status_code != 200:
                    words = _words(answer.raw.read(MOST_WORDS))
                    raise BankError(f"{address} refuses ({answer.status_code}): {words}")
                yield answer
        except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise BankError(
                f"{address} has not answered within {patience:g} seconds: is it a `carp bank serve`, and does its "
                "machine still run?"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            if begun:
                raise BankError(
                    f"{address} broke off in the middle of its answer: start `carp bank serve` there again, and then "
                    "this search"
                ) from error
            raise BankError(f"{address} cannot be reached: is `carp bank serve` running there?") from error


class _Slowest:
    """Tells how many queries every server has answered."""

    def __init__(self, servers: int, progress: Progress | None, *, before: int, of: int) -> None:
        self._done, self._told, self._before, self._of = [0] * servers, 0, before, of
        self._progress = progress
        self._turn = threading.Lock()

    def tell(self, number: int, done: int) -> None:
        """Take note of how many queries one server has answered."""
        with self._turn:
            self._done[number] = done
            if self._progress is not None and min(self._done) > self._told:
                self._told = min(self._done)
                self._progress(self._before + self._told, self._of)


def _sign(answer: requests.Response, address: str) -> int:
    content = answer.raw.read(SIGN_TYPE.itemsize)
    if len(content) != SIGN_TYPE.itemsize:
        raise BankError(
            f"{address} ended its answer too early, after {len(content)} bytes: is it of this release?"
        )
    return int(np.frombuffer(content, SIGN_TYPE)[0])


def _words(content: bytes) -> str:
    return content[:MOST_WORDS].decode("utf-8", "replace")


def merge(parts: Sequence[Neighbours], *, k: int) -> Neighbours:
    """Merge the neighbours that parts of a bank have found for the same queries.

    Args:
        parts: Of each, in the order of their rows.
        k: How many to keep.
    """
    # Each part has equals in the order of rows, and the parts are in that order: a stable sort leaves both.
    similarities = torch.cat([part.similarities for part in parts], dim=1)
    rows = torch.cat([part.indices for part in parts], dim=1)
    similarities, order = similarities.sort(dim=1, descending=True, stable=True)
    return Neighbours(similarities[:, :k].contiguous(), rows.gather(1, order)[:, :k].contiguous())
