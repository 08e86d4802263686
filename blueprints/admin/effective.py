"""The settings that hold, as text for a page. Of what `config` declares to be secret, only whether it is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from blueprints.admin.display import ABSENT
from config import NO_PRICES, SECRETS, SETTINGS, Settings
from llmproxy.egress import authority
from llmproxy.limits.prices import Overlay


class Effective(NamedTuple):
    """A setting's name and value, and whether that is what it is by default."""

    name: str
    value: str
    is_default: bool


def effective(settings: Settings) -> Iterator[Effective]:
    """Every setting, in the order of the README."""
    for name, one in SETTINGS.items():
        value = getattr(settings, one.name)
        shown = _whether_set if name in SECRETS else _OWN_WORDS.get(name, _text)
        yield Effective(name, shown(value), value == _default(one))


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _whether_set(secret: Any) -> str:
    return "set" if secret else ABSENT


def _text(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case ZoneInfo():
            return value.key
        case Path():
            return str(value.absolute())
        case None | () | "":
            return ABSENT
        case (str(host), int(port)):
            return authority(host, port)
        case tuple():
            return ", ".join(map(str, value))
        case str():
            return _without_user(value)
    return str(value)


def _without_user(text: str) -> str:
    url = urlsplit(text) if "://" in text else None
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if url and "@" in url.netloc else text


def _prices(prices: Overlay | None) -> str:
    if prices is None:
        return NO_PRICES
    count = len(prices.models) + sum(map(len, prices.projects.values()))
    return f"prices of your own for {count} model{'' if count == 1 else 's'}" if prices != Overlay() else ABSENT


_OWN_WORDS: Mapping[str, Callable[[Any], str]] = {"PRICES_FILE": _prices, "LOG_FILE_MODE": "{:04o}".format}
