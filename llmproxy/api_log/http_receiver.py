"""
A receiver that is posted to: what is shipped of the call log, and alerts.

What an answer means, and why:

    2xx                          taken
    400, 413, 422                about the content: never, as it is
    408, 425, 429, 5xx           later, after Retry-After where there is one
    3xx and every other 4xx      about our settings (address, secret, method): later, too. An operator can put that
                                 right without anything having been set aside; the warning tells the status

Redirects are not followed: what is posted, and our secrets, would go to a host that nobody named.
"""

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3

from llmproxy.api_log.logging_url import HttpTarget
from llmproxy.api_log.sink import BatchRefused, SinkUnavailable
from llmproxy.egress import Egress

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# Read so that the connection can be used again; a receiver that says more is cut off.
MAX_ANSWER_BYTES = 64 << 10
_EXCERPT_CHARS = 200

_ABOUT_CONTENT = frozenset({400, 413, 422})
_TEMPORARY = frozenset({408, 425, 429})


class Answer(NamedTuple):
    """What the receiver said; `excerpt` is the start of it in one line, without our secrets."""

    status: int
    retry_after: str | None
    excerpt: str


class HttpReceiver:
    """
    One receiver on one kept-alive connection. Not shared between threads.

    Args:
        settings: Names of those that say where it is and what it trusts us by, for messages.
    """

    def __init__(
        self,
        target: HttpTarget,
        *,
        settings: tuple[str, str],
        token: str | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        egress: Egress | None = None,
    ) -> None:
        self._target = target
        self._settings = settings
        self._timeout = (CONNECT_TIMEOUT_S, read_timeout_s)
        self._secrets = _secrets(target, token)
        self._session = _bare_session(_authorization(token, target.credentials))
        self._session.proxies = (egress or Egress()).for_requests(target.url)

    @property
    def origin(self) -> str:
        """Where it is, as may be shown."""
        return self._target.origin

    def close(self) -> None:
        """Close the connection; the next post opens one again."""
        self._session.close()

    def check(self, answer: Answer) -> None:
        """Raises BatchRefused or SinkUnavailable for whatever does not say that it was taken."""
        if 200 <= answer.status < 300:
            return
        if answer.status in _ABOUT_CONTENT:
            raise BatchRefused(f"{answer.status} {answer.excerpt}".strip())
        asked_s = retry_after_s(answer.retry_after, datetime.now(UTC))
        raise SinkUnavailable(_explain(answer.status, *self._settings), retry_after_s=asked_s)

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send JSON; what came back, whatever it says. Raises SinkUnavailable when nothing did."""
        try:
            with self._session.post(
                self._target.url,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return Answer(response.status_code, response.headers.get("Retry-After"), self._read(response))
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            # Their texts hold the URL with its query; neither they nor their causes may be shown.
            raise SinkUnavailable(_explain_failure(exc)) from None

    def _read(self, response: requests.Response) -> str:
        answer, deadline = b"", time.monotonic() + self._timeout[1]
        while len(answer) < MAX_ANSWER_BYTES and time.monotonic() < deadline:
            part = response.raw.read1(8192)
            if not part:
                break
            answer += part
        text = answer.decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text[:_EXCERPT_CHARS].split())


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for; None when it is missing or unreadable. RFC 9110, 10.2.3."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _bare_session(authorization: str | None) -> requests.Session:
    """A session that reads neither .netrc nor proxy variables, and keeps no cookies."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update({"User-Agent": "llm-proxy", "Content-Type": "application/json"})
    if authorization:
        session.headers["Authorization"] = authorization
    return session


def _secrets(target: HttpTarget, token: str | None) -> list[str]:
    """What an answer might repeat and nobody may see, longest first."""
    query = parse_qs(urlsplit(target.url).query)
    values = [token, *(target.credentials or ()), *(value for values in query.values() for value in values)]
    return sorted({value for value in values if value}, key=len, reverse=True)


def _authorization(token: str | None, credentials: tuple[str, str] | None) -> str | None:
    if token:
        return f"Bearer {token}"
    if credentials:
        return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
    return None


def _explain(status: int, url_setting: str, secret_setting: str) -> str:
    if status in _TEMPORARY or status >= 500:
        return f"it answered {status}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"it answered {status}: check the credentials in HTTP_PROXY"
    return f"it answered {status}: check {secret_setting if status in (401, 403) else url_setting}"


def _explain_failure(exc: Exception) -> str:
    if isinstance(exc, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(exc, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(exc, requests.exceptions.ProxyError):
        return "the egress proxy refused, or cannot be reached: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if isinstance(exc, requests.exceptions.SSLError):
        return "TLS failed: check its certificate"
    return f"it cannot be reached or hung up ({type(exc).__name__})"
