"""
Settings: declared once each, read once from the environment, checked together, frozen.

The only module that reads the environment. Every secret may also come from a file named by ``NAME_FILE``.
A start with wrong settings stops with one message that names every wrong one.

The embedded start (``python wsgi.py``) makes the secrets that are missing and keeps them in the data
directory; a deployed start (gunicorn) refuses to run without them. With ``MAKE_ENCRYPTION_KEY``, which the image
sets, a deployed start on SQLite makes that one secret: its key then lives and dies with the database beside it.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmproxy.api_log.logging_url import CloudWatchTarget, parse_logging_url
from llmproxy.client.address import Network, networks_of
from llmproxy.destinations import hosts_of
from llmproxy.egress import Bypass, Egress, EgressProxy, bypass_of, proxy_of
from llmproxy.keyring import KEY_BYTES, keys_of
from llmproxy.limits.price_file import BadPrices, read_overlay
from llmproxy.limits.prices import Overlay
from llmproxy.urls import checked_origins, checked_root_path, checked_upstream_url, is_loopback, web_url
from llmproxy.webhook import KINDS, kinds_of, signing_key, webhook_target

T = TypeVar("T")
N = TypeVar("N", int, float)

MIB = 1024 * 1024
MOST = 2**53
YEAR_S = 366 * 24 * 3600
MIN_SECRET_LENGTH = 12
MAX_USER_LENGTH = 200  # what the audit trail has room for
MAX_CONTACT_LENGTH = 200
EMBEDDED_USER = "admin"
NO_PRICES = "none"
# Set beside the proxies' variables, and read by others.
NEIGHBOURS = frozenset({"FTP_PROXY", "ftp_proxy"})


class ConfigError(Exception):
    """One or more settings are wrong; the message has a line for each, and is one line for one."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        lines = [f"\n  - {problem}" for problem in problems] if len(problems) > 1 else [f" {problems[0]}"]
        super().__init__("wrong settings:" + "".join(lines))


# What reads a setting: its text in, its value out. ValueError says what is wrong with it, and quotes nothing of it.


def between(low: N, high: N) -> Callable[[str], N]:
    """Reads numbers from `low` to `high`; whole ones, where `low` is one."""
    kind = type(low)

    def read(raw: str) -> N:
        with suppress(ValueError):
            if low <= (value := kind(raw)) <= high:  # which "nan" is not
                return value
        raise ValueError(f"must be a {'whole ' if kind is int else ''}number from {low} to {high}")

    return read


def switch(raw: str) -> bool:
    """True for `true`, `on`, `yes` and `1`; False for `false`, `off`, `no` and `0`."""
    is_on = raw.lower() in ("true", "t", "on", "yes", "y", "1")
    if not is_on and raw.lower() not in ("false", "f", "off", "no", "n", "0"):
        raise ValueError("must be true or false")
    return is_on


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of these words."""

    def read(raw: str) -> str:
        if raw not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return raw

    return read


def address_of(raw: str) -> tuple[str, int]:
    """A host and a port to listen on."""
    host, _, port = raw.rpartition(":")
    bare = host.strip("[]")
    if not bare or not port.isascii() or not port.isdigit() or int(port) >= 2**16 or (":" in bare) != (host != bare):
        raise ValueError("must be an address and a port, such as 127.0.0.1:9090 or [::1]:9090")
    return header_text(bare), int(port)


def zone_of(raw: str) -> ZoneInfo:
    """A zone by its name."""
    try:
        return ZoneInfo(raw)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError("must be the name of a zone, such as Europe/Berlin") from exc


def file_mode(raw: str) -> int:
    """The mode of a file that its owner reads and writes, as chmod takes it."""
    with suppress(ValueError):
        if (mode := int(raw, 8)) & ~0o066 == 0o600:
            return mode
    raise ValueError("must be a mode such as 0600 or 0640")


def header_text(raw: str) -> str:
    """Text that can stand in a header."""
    if not raw.isascii() or not raw.isprintable() or raw != raw.strip():
        raise ValueError("must be printable ASCII without spaces around it")
    return raw


def short_text(raw: str) -> str:
    """A line that people read."""
    if not raw.isprintable() or raw != raw.strip() or len(raw) > MAX_CONTACT_LENGTH:
        raise ValueError(f"must be one line of at most {MAX_CONTACT_LENGTH} characters, without spaces around it")
    return raw


def user_name(raw: str) -> str:
    """A user of Basic authentication."""
    if ":" in raw or len(raw) > MAX_USER_LENGTH:
        raise ValueError(f"must have at most {MAX_USER_LENGTH} characters, and no colon")
    return header_text(raw)


def checked_logging_url(raw: str) -> str:
    """Where records are shipped to."""
    if isinstance(parse_logging_url(raw), CloudWatchTarget):
        _require("boto3", "boto3: pip install -r requirements-cloudwatch.txt")
    return raw


def checked_alert_url(raw: str) -> str:
    """Where alerts are posted to."""
    webhook_target(raw)
    return raw


def checked_alert_secret(raw: str) -> str:
    """What alerts are signed with."""
    signing_key(raw)
    return raw


def collector_url(raw: str) -> str:
    """Where traces are sent to."""
    web_url(raw)
    _require("opentelemetry.exporter.otlp.proto.http", "OpenTelemetry: pip install -r requirements-otel.txt")
    return raw


def own_prices(raw: str) -> Overlay | None:
    """The prices in a file; None for the word `none`."""
    if raw == NO_PRICES:
        return None
    try:
        return read_overlay(_text_of(Path(raw)))
    except BadPrices as exc:
        raise ValueError(f"cannot be used: {'; '.join(exc.problems)}") from exc


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot be read from {path} ({_reason(exc)})") from exc


def _require(module: str, what: str) -> None:
    try:
        is_installed = find_spec(module) is not None
    except ModuleNotFoundError:  # a package around it
        is_installed = False
    if not is_installed:
        raise ValueError(f"needs {what}")


def checked_database_url(raw: str) -> str:
    """A database's URL, with a relative SQLite path made absolute."""
    if raw.startswith("sqlite:///"):
        path = _sqlite_path(raw)
        # In memory, each connection and each process would have a database of its own.
        if path in ("", ":memory:"):
            raise ValueError("must name a file")
        # Flask-SQLAlchemy would look for it in its instance folder, the claim where the process runs.
        return raw if path.startswith("/") else raw.replace("///", f"///{quote(str(Path.cwd()))}/", 1)
    if not raw.startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
        raise ValueError("must start with sqlite:/// or postgresql://")
    # Whoever stays on SQLite need not load it.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        read = conninfo_to_dict(f"postgresql://{raw.partition('://')[2]}")
        ports = [int(port or 5432) for port in str(read.get("port", "")).split(",")]
    except (ProgrammingError, ValueError) as exc:
        # The message would quote the URL, which may hold a password.
        raise ValueError("is not a URL that PostgreSQL's clients understand") from exc
    if not all(0 < port < 2**16 for port in ports):
        raise ValueError("must name ports up to 65535")
    return raw


def _sqlite_path(database_url: str) -> str:
    return database_url.removeprefix("sqlite:///").partition("?")[0]


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """
    The cores that this process may use: those it is bound to, or the share that its container gets, rounded up.

    Args:
        cgroup: Where the kernel tells the container's share, in cgroup v2's or v1's files.
    """
    bound_to = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = float(bound_to)
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        # No limit is "max" in the one, -1 in the other.
        if quota.isdigit() and int(period):
            share = min(share, int(quota) / int(period))
    return max(1, math.ceil(share))


def setting(
    name: str, default: T | Callable[[], T], read: Callable[[str], T], doc: str, *,
    shown: str = "", secret: bool = False, guards: bool = False, required: bool = False, any_case: bool = False,
) -> T:  # fmt: skip
    """
    Declare an attribute of `Settings`. Whatever lists settings follows from it, the README's table by a test.

    Args:
        name: Its environment variable.
        default: A value, or a function that finds it.
        read: From the variable's text to the value. ValueError says what is wrong.
        doc: What the README says of it.
        shown: What the README says of a default that is no single value.
        secret: It may lie in a file, and is left out of ``repr``.
        guards: Whoever knows this secret is let in, so it must not be guessed.
        required: Whether a deployed start refuses to run without it.
        any_case: Its name may be in lower case, too, as other programs read it.
    """
    about = {"name": name, "read": read, "doc": doc, "shown": shown, "guards": guards, "required": required}
    about["any_case"] = any_case
    if callable(default):
        return field(default_factory=default, repr=not secret, metadata=about)
    return field(default=default, repr=not secret, metadata=about)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Everything the environment decides; secrets are left out of ``repr``.

    Sizes are bytes, times are seconds, rates are bytes per second, ``encryption_keys`` are 32 bytes each with the
    current one first. ``made_secrets`` names the files that this very start made, ``misspelt`` what is set
    and no setting, but nearly one: both names.
    """

    # Two lines each: how it is read, and what the README says of it.
    # fmt: off
    host: str = setting("HOST", "127.0.0.1", header_text,
        "Address to listen on. `python wsgi.py` serves loopback alone.")
    port: int = setting("PORT", 8080, between(0, 65535),
        "Port to listen on; 0 picks a free one.")
    ops_bind: tuple[str, int] | None = setting("OPS_BIND", None, address_of,
        "Address and port, as `127.0.0.1:9090`, of a listener for `/admin`, `/manage` and `/metrics`, which the other"
        " then does not serve.")
    data_dir: Path = setting("DATA_DIR", Path("data"), Path,
        "Holds the database, the call log, positions of its readers, made secrets.")
    trusted_proxies: tuple[Network, ...] = setting("TRUSTED_PROXIES", (), networks_of,
        "Addresses or networks of your own proxies, with commas: their `X-Forwarded-For` and `-Proto` count.")
    root_path: str = setting("ROOT_PATH", "", checked_root_path,
        "The path below which a reverse proxy shows all of this, such as `/llm`.")
    cors_origins: tuple[str, ...] = setting("CORS_ORIGINS", (), checked_origins,
        "Origins of pages that may call `/v1/` from a browser, with commas, or `*`.")
    database_url: str = setting("DATABASE_URL", "", checked_database_url,
        "`sqlite:///…` or `postgresql://…`.", shown="SQLite in `DATA_DIR`", secret=True)
    database_pool_size: int = setting("DATABASE_POOL_SIZE", 10, between(4, 1000),
        "Connections to PostgreSQL of one worker at most; half of them are for admission.")
    database_prepare: bool = setting("DATABASE_PREPARE", True, switch,
        "`false` behind a PgBouncer in transaction mode that does not follow prepared statements.")
    upstream_url: str = setting("UPSTREAM_URL", "https://api.openai.com", checked_upstream_url,
        "Where calls go, as an SDK's base URL: its path stands in the place of `/v1`, which is meant where there is"
        " none. A project's `base_url` goes first.")
    https_proxy: EgressProxy | None = setting("HTTPS_PROXY", None, proxy_of,
        "The egress proxy, as `http://user:password@host:port`, through which whatever is `https://` is reached.",
        secret=True, any_case=True)
    http_proxy: EgressProxy | None = setting("HTTP_PROXY", None, proxy_of,
        "The same for whatever is `http://`.", secret=True, any_case=True)
    no_proxy: tuple[Bypass, ...] = setting("NO_PROXY", (), bypass_of,
        "Hosts, domains, addresses and networks that are reached directly, with commas; loopback always is.",
        any_case=True)
    upstream_allowed_hosts: tuple[str, ...] = setting("UPSTREAM_ALLOWED_HOSTS", (), hosts_of,
        "Hosts that a project's `base_url` may name, with commas; `*.example.com` stands for all below. Calls of"
        " others are refused. The host of `UPSTREAM_URL` need not be listed.", shown="all")
    allow_organization_routes: bool = setting("ALLOW_ORGANIZATION_ROUTES", False, switch,
        "With `on`, `/v1/organization/*` and `/v1/projects/*` are forwarded: administration, which is no caller's"
        " business.")
    hide_openai_account: bool = setting("HIDE_OPENAI_ACCOUNT", False, switch,
        "With `on`, responses come down without `openai-organization` and `openai-project`, which name your account.")
    management_token: str = setting("MANAGEMENT_TOKEN", "", header_text,
        "Opens `/manage/*`. Required under gunicorn.",
        shown="made by `make run`", secret=True, guards=True, required=True)
    admin_user: str = setting("ADMIN_USER", "", user_name,
        "Opens `/admin/`. Required under gunicorn.", shown="`admin` by `make run`", required=True)
    admin_password: str = setting("ADMIN_PASSWORD", "", str,
        "Opens `/admin/`. Required under gunicorn.",
        shown="made by `make run`", secret=True, guards=True, required=True)
    admin_time_zone: ZoneInfo = setting("ADMIN_TIME_ZONE", ZoneInfo("UTC"), zone_of,
        "The zone of the admin pages' times for readers whose browser tells none, and of the days of budgets that are"
        " set there, such as `Europe/Berlin`.",
        shown="`UTC`")
    encryption_keys: tuple[bytes, ...] = setting("ENCRYPTION_KEY", (), keys_of,
        "32 random bytes in base64; older ones may follow after commas. Required under gunicorn.",
        shown="made by `make run`", secret=True, required=True)
    make_encryption_key: bool = setting("MAKE_ENCRYPTION_KEY", False, switch,
        "With `true`, as in the image, gunicorn on SQLite makes a missing key and keeps it in `DATA_DIR`.")
    rate_limit_per_hour: int = setting("RATE_LIMIT_PER_HOUR", 1000, between(1, 2**31 - 1),
        "Requests per hour of a token without a limit of its own.")
    max_websockets_per_token: int = setting("MAX_WEBSOCKETS_PER_TOKEN", 100, between(1, MOST),
        "WebSockets that a token may have open on one worker; one more is refused with 429.")
    prices: Overlay | None = setting("PRICES_FILE", Overlay, own_prices,
        "Prices of your own, a TOML file (see docs/prices.md); `none` puts no price on calls.",
        shown="the sheet's alone")
    max_body_bytes: int = setting("MAX_BODY_BYTES", 512 * MIB, between(1, MOST),
        "Largest request body.")
    ruled_body_bytes: int = setting("RULED_BODY_BYTES", 64 * MIB, between(1, MOST),
        "Largest request body that is read before it goes up, for tokens with a budget.")
    min_body_rate: float = setting("MIN_BODY_RATE", 500.0, between(1.0, MOST),
        "Bytes per second below which a request body, after `IDLE_TIMEOUT`, ends with 408.")
    connect_timeout_s: float = setting("CONNECT_TIMEOUT", 5.0, between(0.001, YEAR_S),
        "Seconds to reach the upstream.")
    first_byte_timeout_s: float = setting("FIRST_BYTE_TIMEOUT", 600.0, between(0.001, YEAR_S),
        "Seconds until its answer begins.")
    idle_timeout_s: float = setting("IDLE_TIMEOUT", 300.0, between(0.001, YEAR_S),
        "Seconds of silence, from the upstream or the client, within a call.")
    drain_overlap_s: float = setting("DRAIN_OVERLAP", 5.0, between(0.0, YEAR_S),
        "Seconds that a stopping process still takes new calls, until balancers have seen `/readyz`.")
    drain_timeout_s: float = setting("DRAIN_TIMEOUT", 600.0, between(0.001, YEAR_S),
        "Seconds that running calls get to end at a stop, the overlap included.")
    cut_streams: bool = setting("CUT_STREAMS", True, switch,
        "A running call is cut within 5 s when its token is revoked or its project switched off; `off` lets it end."
        " WebSockets end always.")
    cut_streams_at_expiry: bool = setting("CUT_STREAMS_AT_EXPIRY", False, switch,
        "With `on`, the same when its token expires.")
    web_concurrency: int = setting("WEB_CONCURRENCY", usable_cores, between(1, 1024),
        "gunicorn's workers. gunicorn reads it first: what is no whole number ends in its own traceback.",
        shown="one per usable core")
    log_format: str = setting("LOG_FORMAT", "text", one_of("text", "json"),
        "How the process's own log is written: `text`, or `json`, an object on each line.")
    log_strict: bool = setting("LOG_STRICT", False, switch,
        "With `true`, a call whose record could not be written is refused with 503.")
    log_client_address: bool = setting("LOG_CLIENT_ADDRESS", True, switch,
        "With `off`, records leave out the address that a call came from.")
    log_file_mode: int = setting("LOG_FILE_MODE", 0o600, file_mode,
        "Who may read the call log, as `chmod` has it: `0640` for a collector in the owner's group. All other files"
        " that the proxy makes are 0600.", shown="`0600`")
    log_max_file_bytes: int = setting("LOG_MAX_FILE_BYTES", 64 * MIB, between(4096, MOST),
        "The call log is rotated at this size.")
    log_max_total_bytes: int = setting("LOG_MAX_TOTAL_BYTES", 10 * 1024 * MIB, between(8192, MOST),
        "The oldest rotated files are removed beyond this, which is at least twice `LOG_MAX_FILE_BYTES`.")
    logging_url: str = setting("LOGGING_URL", "", checked_logging_url,
        "Ships records to `http(s)://…` or `cloudwatch://group/stream?region=…`.", secret=True)
    logging_token: str = setting("LOGGING_TOKEN", "", header_text,
        "Bearer token for `LOGGING_URL`.", secret=True)
    alert_url: str = setting("ALERT_URL", "", checked_alert_url,
        "Alerts are posted to `http(s)://…`, see [budgets.md](docs/budgets.md#alerts).", secret=True)
    alert_secret: str = setting("ALERT_SECRET", "", checked_alert_secret,
        "What alerts are signed with: `whsec_` and 24 to 64 bytes in Base64.", secret=True)
    alert_kinds: tuple[str, ...] = setting("ALERT_KINDS", KINDS, kinds_of,
        "Which alerts are told, with commas: [their kinds](docs/budgets.md#alerts).", shown="all of them")
    contact: str = setting("CONTACT", "", short_text,
        "Whom a token's holder may ask, shown at `/self` and in refusals that you can lift: `it-help@example.com`.")
    metrics_token: str = setting("METRICS_TOKEN", "", header_text,
        "Bearer token that `/metrics` asks for; without one, it answers the node itself alone.",
        secret=True, guards=True)
    otlp_endpoint: str = setting("OTEL_EXPORTER_OTLP_ENDPOINT", "", collector_url,
        "Traces go to this collector, by OTLP over HTTP. Needs `pip install -r requirements-otel.txt`.")
    otlp_headers: str = setting("OTEL_EXPORTER_OTLP_HEADERS", "", header_text,
        "Headers for the collector, as `name=value,name=value`.", secret=True)
    otel_service_name: str = setting("OTEL_SERVICE_NAME", "llm-proxy", header_text,
        "The service's name in traces; the SDK reads its other `OTEL_*` variables itself.")
    token_retention_days: float = setting("TOKEN_RETENTION_DAYS", 30.0, between(0.0, 36_500),
        "Days after which an expired token is deleted, and so is a replaced secret after its end.")
    usage_retention_days: float = setting("USAGE_RETENTION_DAYS", 400.0, between(0.0, 36_500),
        "Days after which sums of usage are deleted.")
    request_index_days: float = setting("REQUEST_INDEX_DAYS", 30.0, between(0.0, 36_500),
        "Days that requests are found by time and duration: 60 to 100 bytes of the database for each request.")
    audit_retention_days: float = setting("AUDIT_RETENTION_DAYS", 400.0, between(0.0, 36_500),
        "Days after which lines of the audit trail are deleted.")
    # fmt: on
    made_secrets: tuple[Path, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()

    @property
    def listeners(self) -> list[tuple[str, int]]:
        """Where to listen: for calls, and for operators last where they have a listener of their own."""
        return [(self.host, self.port), *([self.ops_bind] if self.ops_bind else [])]

    @property
    def log_path(self) -> Path:
        """The call log that is being written."""
        return self.data_dir / "api_logs.jsonl"

    @property
    def sqlite_path(self) -> Path | None:
        """The file that is the database; None on PostgreSQL."""
        return Path(unquote(_sqlite_path(self.database_url))) if self.database_url.startswith("sqlite") else None

    @property
    def egress(self) -> Egress:
        """The way out of this network."""
        return Egress(self.https_proxy, self.http_proxy, self.no_proxy)

    @property
    def upstream_is_unencrypted(self) -> bool:
        """True when keys travel to another machine in the clear."""
        url = urlsplit(self.upstream_url)
        return url.scheme == "http" and not is_loopback(url.hostname or "")

    @property
    def weak_secrets(self) -> tuple[str, ...]:
        """Names of the secrets that could be guessed: those under 12 characters."""
        guards = [one for one in SETTINGS.values() if one.metadata["guards"]]
        return tuple(one.metadata["name"] for one in guards if 0 < len(getattr(self, one.name)) < MIN_SECRET_LENGTH)


# By environment name, in the order of the README.
SETTINGS: Mapping[str, Field[Any]] = {one.metadata["name"]: one for one in fields(Settings) if one.metadata}
SECRETS = tuple(name for name, one in SETTINGS.items() if not one.repr)
REQUIRED_WHEN_DEPLOYED = tuple(name for name, one in SETTINGS.items() if one.metadata["required"])
MADE_WHEN_MISSING = tuple(name for name in REQUIRED_WHEN_DEPLOYED if name in SECRETS)


def contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that do not go together: the wrong one and those it is held against, by name, and what is wrong."""
    if settings.log_max_total_bytes < 2 * settings.log_max_file_bytes:
        needed = f"must be at least twice LOG_MAX_FILE_BYTES, which is {settings.log_max_file_bytes}"
        yield ("LOG_MAX_TOTAL_BYTES", "LOG_MAX_FILE_BYTES"), needed
    if settings.alert_url and not settings.alert_secret:
        yield ("ALERT_SECRET", "ALERT_URL"), "is needed with ALERT_URL: `whsec_` and 24 to 64 bytes in Base64"
    if settings.ops_bind and settings.port and settings.ops_bind[1] == settings.port:
        yield ("OPS_BIND", "PORT"), "must have another port than PORT, by which the two are told apart"


def load(environ: Mapping[str, str] | None = None, *, embedded: bool = False, command: bool = False) -> Settings:
    """
    Settings from the environment, complete and checked.

    Args:
        environ: Names and values; the process's own environment when None.
        embedded: True for the start on one's own machine, which makes missing secrets and keeps them in
            the data directory (mode 0600). False for a deployed start, which refuses to run without them.
        command: True for a command beside a server of either kind: secrets that are not set are those that an
            embedded start has kept in the data directory; none is made, and without them no directory either.

    Raises:
        ConfigError: naming every wrong setting.
    """
    source = os.environ if environ is None else environ  # noqa: TID251
    given, problems = _given(source)
    values = _values(given, problems)
    data_dir = values.setdefault("data_dir", SETTINGS["DATA_DIR"].default)
    values.setdefault("database_url", f"sqlite:///{quote(str(data_dir.absolute()))}/llm-proxy.db")
    makes = () if command else MADE_WHEN_MISSING if embedded else _made_when_deployed(values)
    may_be_kept = [name for name in (MADE_WHEN_MISSING if command else makes) if name not in {*given, *problems}]
    kept = {name: path for name in may_be_kept if os.path.exists(path := data_dir / name.lower())}
    values |= _values(kept, problems)
    if embedded or (command and kept):
        values.setdefault("admin_user", EMBEDDED_USER)
    settings = Settings(**values, misspelt=tuple(_misspelt(source)))
    missing = [name for name in REQUIRED_WHEN_DEPLOYED if name not in problems and SETTINGS[name].name not in values]
    if command and missing:
        where = f"not set, nor kept in {data_dir.absolute()}: run this where the proxy was started, with its settings"
        problems[", ".join(missing)] = where
    else:
        problems |= {name: reason for name in missing if (reason := _why_missing(name, settings, makes))}
    problems |= {names[0]: why for names, why in contradictions(settings) if problems.keys().isdisjoint(names)}
    # A command without its settings may have been started anywhere, and leaves nothing there.
    may_make_directory = not (command and problems)
    if (may_make_directory or os.path.exists(data_dir)) and (reason := _unwritable(data_dir)):
        problems["DATA_DIR"] = reason
    if problems:
        raise ConfigError([f"{name}: {problem}" for name, problem in problems.items()])
    return replace(settings, **_made_secrets(missing, data_dir))


def _given(source: Mapping[str, str]) -> tuple[dict[str, str | Path], dict[str, str]]:
    """What is set, by name: the text itself, or the file that holds a secret; and what is set in both ways."""
    # An empty value counts as unset: compose files pass `NAME=` for what the operator left out.
    texts = {name: text for name in SETTINGS if (text := _text(name, source))}
    files = {name: Path(path) for name in SECRETS if (path := source.get(f"{name}_FILE"))}
    twice = {name: f"and {name}_FILE are both set; keep one of the two" for name in files if name in texts}
    return {name: given for name, given in (texts | files).items() if name not in twice}, twice


def _text(name: str, source: Mapping[str, str]) -> str | None:
    in_lower_case = source.get(name.lower()) if SETTINGS[name].metadata["any_case"] else None
    return source.get(name) or in_lower_case


def _misspelt(source: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is set and no setting, each with the setting that it differs from by a letter or two."""
    known = (*SETTINGS, *(f"{name}_FILE" for name in SECRETS))
    others = NEIGHBOURS | {name.lower() for name, one in SETTINGS.items() if one.metadata["any_case"]}
    for wrong in sorted(name for name in source if source[name] and name not in known and name not in others):
        # Two letters lead from HOST to HOME.
        likely = (name for name in known if _are_near(wrong.upper(), name, letters=2 if len(name) > 7 else 1))
        if meant := next(likely, None):
            yield wrong, meant


def _are_near(a: str, b: str, letters: int) -> bool:
    """Whether adding, leaving out and changing at most so many letters makes one of the other."""
    if not letters or not a or not b:
        return a == b or max(len(a), len(b)) <= letters
    if a[0] == b[0]:
        return _are_near(a[1:], b[1:], letters)
    return any(_are_near(*rest, letters - 1) for rest in ((a[1:], b), (a, b[1:]), (a[1:], b[1:])))


def _values(given: Mapping[str, str | Path], problems: dict[str, str]) -> dict[str, Any]:
    """By attribute, what is given. What is wrong with it is added to `problems`, by name."""
    values = {}
    for name, text in given.items():
        try:
            raw = _read_secret(text) if isinstance(text, Path) else text
            values[SETTINGS[name].name] = SETTINGS[name].metadata["read"](raw)
        except ValueError as exc:
            problems[name] = str(exc)
    return values


def _read_secret(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"cannot be read from {path} ({_reason(exc)})") from exc
    if not text:
        raise ValueError(f"is empty in {path}")
    return text


def _reason(exc: OSError | UnicodeDecodeError) -> str:
    return exc.strerror or "failed" if isinstance(exc, OSError) else "not UTF-8 text"


def _unwritable(data_dir: Path) -> str | None:
    """Why nothing can be written in the data directory, which is made when missing; None when all is well."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = data_dir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        advice = f": chown it to {os.getuid()}, or start as its owner" if isinstance(exc, PermissionError) else ""
        return f"cannot write to {data_dir} as uid {os.getuid()} ({_reason(exc)}){advice}"
    return None


def _made_when_deployed(values: Mapping[str, Any]) -> tuple[str, ...]:
    # A key in one node's directory is no use to the other nodes on the same PostgreSQL.
    is_alone = values["database_url"].startswith("sqlite")
    return ("ENCRYPTION_KEY",) if is_alone and values.get("make_encryption_key") else ()


def _why_missing(name: str, settings: Settings, makes: Iterable[str]) -> str | None:
    """Why this secret or user must be set; None when it can be made."""
    if name in makes:
        path = (name == "ENCRYPTION_KEY" and settings.sqlite_path) or ""
        # What is sealed in a database that is there already would stay shut under a new key.
        is_lost = f"is not set, and {path} was made with one: set it, or put the file encryption_key back"
        return is_lost if os.path.exists(path) else None
    if name == "ENCRYPTION_KEY" and settings.make_encryption_key:
        return "is not set, and is made for SQLite alone: every node on one PostgreSQL needs the same"
    slips = [wrong for wrong, meant in settings.misspelt if meant in (name, f"{name}_FILE")]
    return f"is not set, but {slips[0]} is" if slips else "is not set"


def _made_secrets(names: Iterable[str], data_dir: Path) -> dict[str, Any]:
    """New secrets, by attribute, each kept in the data directory. Raises ConfigError when they cannot be."""
    texts = {name: secrets.token_urlsafe(KEY_BYTES) for name in names}
    paths = {name: data_dir / name.lower() for name in texts}
    problems = []
    for name, path in paths.items():
        try:
            _create_secret(path, texts[name])
        except OSError as exc:
            problems.append(f"{name}: cannot be kept in {path} ({_reason(exc)})")
    if problems:
        raise ConfigError(problems)
    return _values(texts, {}) | {"made_secrets": tuple(paths.values())}


def _create_secret(path: Path, value: str) -> None:
    """Write a new file readable by its owner alone; when it cannot be written whole, it is removed again."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(value + "\n")
    except OSError:
        path.unlink()
        raise
