"""The management API of a running proxy, as this command asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import click
import requests

TIMEOUT_S = 30
PAGE = 1000  # the most that the API gives at once


class Api:
    """
    The management API below `url`, for whoever holds `token`.

    Args:
        ca_file: Certificates to trust in place of the public ones.
    """

    def __init__(self, url: str, token: str | None, ca_file: str | None) -> None:
        self._base = f"{url.rstrip('/')}/manage"
        self._session = requests.Session()
        # A .netrc would send its own password in the token's place, and a proxy for the world would get to see it.
        self._session.trust_env = False
        if token:
            if not (token.isascii() and token.isprintable()):
                raise click.UsageError("The management token has characters that no header takes: it must be ASCII.")
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._session.verify = ca_file or True

    def ask(
        self, method: str, path: str, *needs: str, query: dict[str, Any] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """
        The JSON object of the answer; an empty one where it has none. Raises ClickException with what went wrong.

        Args:
            needs: Names without which it is no answer of the proxy.
        """
        answer = self._response(method, path, query or {}, body)
        try:
            told: dict[str, Any] = answer.json() if answer.content or not answer.ok else {}
            if answer.ok and set(needs) <= set(told):
                return told
            words = told["error"]["message"]
        except (ValueError, KeyError, TypeError) as exc:
            raise click.ClickException(
                f"{self._base} answers {answer.status_code}, not as the proxy does: is it its listener for operators?"
            ) from exc
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            words = f"{self._base} does not take this management token: see MANAGEMENT_TOKEN or --token-file."
        raise click.ClickException(f"{words} ({answer.status_code})")

    def _response(self, method: str, path: str, query: dict[str, Any], body: Any) -> requests.Response:
        if "Authorization" not in self._session.headers:  # who asks for help needs none
            raise click.UsageError("Set MANAGEMENT_TOKEN, or name a file that holds it by --token-file.")
        given = {name: value for name, value in query.items() if value is not None}
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
            return self._session.request(
                method,
                self._base + path,
                params=given,
                data=data,
                headers=headers,
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except UnicodeError as exc:
            raise click.UsageError("An argument is no text in UTF-8.") from exc
        except requests.ReadTimeout as exc:
            words = "Ask again." if method == "GET" else "It may have been done: look before you ask again."
            raise click.ClickException(f"No answer from {self._base} within {TIMEOUT_S} s. {words}") from exc
        except (requests.RequestException, OSError) as exc:
            if isinstance(exc, requests.exceptions.SSLError):
                words = "Either it speaks no TLS there, or the certificate is not trusted: see --ca-file."
                raise click.ClickException(f"No answer from {self._base}: {words}") from exc
            where = "Name the proxy by --url or LLM_PROXY_URL, as in http://127.0.0.1:8080."
            raise click.ClickException(f"No answer from {self._base}: {type(exc).__name__}. {where}") from exc

    def rows(self, path: str, *, limit: int, **query: Any) -> Iterator[dict[str, Any]]:
        """Rows of a list, page by page, `limit` at most."""
        after = None
        while limit > 0:
            page = self.ask(
                "GET", path, "data", "has_more", query={**query, "limit": min(limit, PAGE), "after": after}
            )
            yield from page["data"]
            limit -= len(page["data"])
            if not page["has_more"]:
                return
            after = page["next"]

    def usage(self, *, limit: int, **query: Any) -> dict[str, Any]:
        """The report of usage; its rows page by page, `limit` at most where they are not hours or days."""
        needs = ("data", "total", "from", "to")
        report = self.ask("GET", "/usage", *needs, query={**query, "limit": min(limit, PAGE)})
        span = {name: report[name] for name in ("from", "to")}
        while report.get("has_more") and (left := limit - len(report["data"])):
            asked = {**query, **span, "limit": min(left, PAGE), "after": report["next"]}
            page = self.ask("GET", "/usage", *needs, query=asked)
            report |= {**page, "data": report["data"] + page["data"], "total": report["total"]}
        return report

    def project_id(self, named: str) -> str:
        """
        The id of the project that has this id, or else this name. Raises ClickException where there is none.

        A project may be named as another's id is.
        """
        called = None
        for project in self.rows("/projects", limit=1_000_000):
            if project["id"] == named:
                return named
            if project["name"] == named:
                called = project["id"]
        if called is None:
            raise click.ClickException(f"There is no project with the name or id {named!r}.")
        return str(called)
