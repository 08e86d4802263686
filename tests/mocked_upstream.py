"""requests-mock in the upstream's place: its responses, with the raw side that relaying needs."""

from typing import Any

import requests
import requests_mock
from urllib3 import HTTPResponse


class RawMock:
    """urllib3's response as a RawResponse."""

    trailers: list[tuple[str, str]] = []
    is_drained = False

    def __init__(self, raw: HTTPResponse) -> None:
        self._raw = raw
        self.headers = list(raw.headers.items())

    def let_go_of_head(self) -> None:
        self.headers = []

    def has_body_bytes(self) -> bool:
        return True

    def read1(self) -> bytes:
        data = self._raw.read1(decode_content=False)
        self.is_drained = not data
        return data

    def close(self) -> None:
        self._raw.close()


class MockedUpstream(requests_mock.Adapter):
    """An adapter whose responses a test decides."""

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        response: requests.Response = super().send(request, **more)
        response.raw = RawMock(response.raw)
        return response
