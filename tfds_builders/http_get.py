"""One GET: the whole body, or the reason why it cannot be had.

`requests` retries nothing once a body has begun, so the attempts are made here, around all of it:
connecting, status, body, and a check of the content. What a server says for good (404) is told
apart from what may pass (503, a broken connection, a login page in place of the file).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
import tenacity
import urllib3

import mmjax

Check = Callable[[bytes], Any]  # raises ValueError for content that is not what was asked for

_GONE = (403, 404, 410)  # S3 answers 403 for what is not there, where listing is not allowed
_PASSING = (408, 425, 429)
_BLOCK = 2**16


class GoneError(Exception):
    """The server says that it does not have it; asking again is of no use."""


class FailedError(Exception):
    """It could not be had now. `unreachable`: not even a connection could be made."""

    def __init__(self, reason: str, unreachable: bool = False):
        super().__init__(reason)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Limits:
    """Patience with a server.

    Attributes:
      tries: attempts for one address.
      connect_seconds, read_seconds: longest silence while connecting, and between two packets.
      total_seconds: for one attempt, however steadily its bytes drip.
      max_bytes: of a body.
      first_wait, longest_wait: seconds; the wait before try n + 1 is drawn from 0 to
        first_wait * 2^(n - 1), at most longest_wait.
      longest_retry_after: the server's own wish (Retry-After) is followed up to this.
    """

    tries: int = 6
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    total_seconds: float = 300.0
    max_bytes: int = 32 * 2**20
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 120.0


class _TryAgainError(FailedError):
    def __init__(self, reason: str, unreachable: bool = False, retry_after: float | None = None):
        super().__init__(reason, unreachable)
        self.retry_after = retry_after


def new_session() -> requests.Session:
    """For one thread: keeps its connections open and says who asks."""
    session = requests.Session()
    session.headers["User-Agent"] = f"mmjax/{mmjax.__version__}"
    # A body that is compressed on the way has no length to compare with.
    session.headers["Accept-Encoding"] = "identity"
    session.max_redirects = 5
    return session


def get(
    session: requests.Session,
    address: str,
    *,
    check: Check,
    limits: Limits,
    sleep: Callable[[float], None],
) -> bytes:
    """The body at an address, after as many attempts as the limits allow.

    Args:
      check: raises ValueError for a body that is not what was asked for.
      sleep: waits that many seconds; may raise to end the attempts.

    Raises:
      GoneError: the server says that there is no such thing.
      FailedError: it could not be had now.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception()
        if error.retry_after is not None:
            # Not everyone at the same moment.
            return min(error.retry_after, limits.longest_retry_after) + random.random()
        longest = limits.first_wait * 2 ** (state.attempt_number - 1)
        return random.uniform(0.0, min(longest, limits.longest_wait))

    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(limits.tries),
        wait=wait,
        retry=tenacity.retry_if_exception_type(_TryAgainError),
        sleep=sleep,
        reraise=True,
    )
    return attempts(_try, session, address, check, limits)


def _try(session: requests.Session, address: str, check: Check, limits: Limits) -> bytes:
    deadline = time.monotonic() + limits.total_seconds
    timeout = (limits.connect_seconds, limits.read_seconds)
    try:
        with session.get(address, stream=True, timeout=timeout) as response:
            _judge(response)
            body = _body(response, deadline, limits)
    except requests.TooManyRedirects as error:
        raise FailedError("it is redirected without end") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _TryAgainError(_reason(error), _is_unreachable(error)) from error
    try:
        check(body)
    except ValueError as error:
        kind = response.headers.get("Content-Type", "unknown")
        raise _TryAgainError(f"what came is not usable: {error} (type {kind[:60]})") from error
    return body


def _judge(response: requests.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    reason = f"HTTP {status} {response.reason or ''}".strip()
    if status in _GONE:
        raise GoneError(reason)
    if status in _PASSING or status >= 500:
        raise _TryAgainError(reason, retry_after=_retry_after(response))
    raise FailedError(reason)


def _retry_after(response: requests.Response) -> float | None:
    wish = response.headers.get("Retry-After")
    if wish is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(wish)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _body(response: requests.Response, deadline: float, limits: Limits) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise FailedError(f"it has {int(length):,} bytes, the limit is {limits.max_bytes:,}")
    blocks, size = [], 0
    # read1 returns what has come: read would wait for a whole block, however slowly it drips.
    while block := response.raw.read1(_BLOCK, decode_content=True):
        blocks.append(block)
        size += len(block)
        if size > limits.max_bytes:
            raise FailedError(f"it has more bytes than the limit of {limits.max_bytes:,}")
        if time.monotonic() > deadline:
            raise _TryAgainError(f"it was not whole after {limits.total_seconds:.0f} s")
    plain = "Content-Encoding" not in response.headers
    if plain and length.isdecimal() and size != int(length):
        raise _TryAgainError(f"{size:,} of {int(length):,} bytes came")
    return b"".join(blocks)


def _is_unreachable(error: Exception) -> bool:
    """No name, no route, no answer, no handshake; not: a connection that broke later."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(error, requests.ConnectionError) and isinstance(
        cause, urllib3.exceptions.MaxRetryError
    )


def _reason(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    if isinstance(cause, urllib3.exceptions.MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    text = str(cause).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
