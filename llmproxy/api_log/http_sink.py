"""
Ships records as JSON arrays by POST.

What an answer means, and why:

    2xx                          delivered
    400, 413, 422                about the content: the batch is halved until the record at fault stands alone
    415 to a gzip body           once more without gzip; if that passes, without gzip from then on
    408, 425, 429, 5xx           later, after Retry-After where there is one
    3xx and every other 4xx      about our settings (address, token, method): later, too. An operator can put that
                                 right without a record having been set aside; the warning tells the status

Redirects are not followed: the token would go to a host that nobody named. Retries of a batch carry the same
Idempotency-Key, and each record its `request_id`, so that a receiver can drop doubles.
"""

import base64
import gzip
import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3

from llmproxy.api_log.logging_url import HttpTarget
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.sink import BatchRefused, Rejection, SinkUnavailable
from llmproxy.egress import Egress

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# Read so that the connection can be used again; a receiver that says more is cut off.
MAX_ANSWER_BYTES = 64 << 10
_EXCERPT_CHARS = 200

_ABOUT_CONTENT = frozenset({400, 413, 422})
_TEMPORARY = frozenset({408, 425, 429})
_UNSUPPORTED_MEDIA_TYPE = 415


class HttpSink:
    """One receiver on one kept-alive connection. Not shared between threads."""

    def __init__(
        self,
        target: HttpTarget,
        *,
        token: str | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        egress: Egress | None = None,
    ) -> None:
        self._target = target
        self._timeout = (CONNECT_TIMEOUT_S, read_timeout_s)
        self._compresses = True
        self._secrets = _secrets(target, token)
        self._session = _bare_session(_authorization(token, target.credentials))
        self._session.proxies = (egress or Egress()).for_requests(target.url)

    @property
    def name(self) -> str:
        return self._target.origin

    def deliver(self, records: Sequence[ReadRecord]) -> list[Rejection]:
        body = b"[" + b",".join(record.line for record in records) + b"]"
        status, retry_after, excerpt = self._post(body)
        if status == _UNSUPPORTED_MEDIA_TYPE and self._compresses:
            self._compresses = False
            status, retry_after, excerpt = self._post(body)
            self._compresses = status == _UNSUPPORTED_MEDIA_TYPE
        if 200 <= status < 300:
            return []
        if status in _ABOUT_CONTENT:
            raise BatchRefused(f"{status} {excerpt}".strip())
        raise SinkUnavailable(_explain(status), retry_after_s=retry_after_s(retry_after, datetime.now(UTC)))

    def close(self) -> None:
        self._session.close()

    def _post(self, body: bytes) -> tuple[int, str | None, str]:
        """Status, Retry-After and the start of the answer."""
        headers = {"Idempotency-Key": hashlib.sha256(body).hexdigest()[:32]}
        if self._compresses:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        try:
            with self._session.post(
                self._target.url,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, response.headers.get("Retry-After"), self._read(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as exc:
            # Their texts hold the URL with its query; neither they nor their causes may be shown.
            raise SinkUnavailable(_explain_failure(exc)) from None

    def _read(self, response: requests.Response) -> str:
        """The start of the answer for the dead letters, in one line and without our secrets."""
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


def _explain(status: int) -> str:
    if status in _TEMPORARY or status >= 500:
        return f"it answered {status}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return f"it answered {status}: check the credentials in HTTP_PROXY"
    if status in (401, 403):
        return f"it answered {status}: check LOGGING_TOKEN"
    return f"it answered {status}: check LOGGING_URL"


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
