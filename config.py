"""
Settings: read once from the environment, checked together, frozen.

The only module that reads the environment. Every secret may also come from a file named by ``NAME_FILE``.
A start with wrong settings stops with one message that names every wrong one.

The embedded start (``python wsgi.py``) makes the secrets that are missing and keeps them in the data
directory; a deployed start (gunicorn) refuses to run without them. With ``MAKE_ENCRYPTION_KEY``, which the image
sets, a deployed start on SQLite makes that one secret: its key then lives and dies with the database beside it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, post_load, validate
from marshmallow import fields as typed

from llmproxy.api_log.logging_url import parse_logging_url

MIB = 1024 * 1024
YEAR_S = 366 * 24 * 3600
ENCRYPTION_KEY_BYTES = 32
MIN_SECRET_LENGTH = 12


class ConfigError(Exception):
    """One or more settings are wrong; the message has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("wrong settings:\n" + "\n".join(f"  - {problem}" for problem in problems))


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


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Everything the environment decides; secrets are left out of ``repr``.

    Sizes are bytes, times are seconds, rates are bytes per second, ``encryption_keys`` are 32 bytes each with the
    current one first. ``made_secrets`` names the files that this very start made.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    database_url: str = field(default="", repr=False)
    database_pool_size: int = 10
    database_prepare: bool = True
    upstream_url: str = "https://api.openai.com"
    management_token: str = field(default="", repr=False)
    admin_user: str = ""
    admin_password: str = field(default="", repr=False)
    encryption_keys: tuple[bytes, ...] = field(default=(), repr=False)
    make_encryption_key: bool = False
    rate_limit_per_hour: int = 1000
    max_body_bytes: int = 512 * MIB
    min_body_rate: float = 500.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 600.0
    idle_timeout_s: float = 300.0
    drain_overlap_s: float = 5.0
    drain_timeout_s: float = 600.0
    cut_streams: bool = True
    cut_streams_at_expiry: bool = False
    web_concurrency: int = field(default_factory=usable_cores)
    log_strict: bool = False
    log_max_file_bytes: int = 64 * MIB
    log_max_total_bytes: int = 10 * 1024 * MIB
    logging_url: str = field(default="", repr=False)
    logging_token: str = field(default="", repr=False)
    metrics_token: str = field(default="", repr=False)
    otlp_endpoint: str = ""
    otlp_headers: str = field(default="", repr=False)
    otel_service_name: str = "llm-proxy"
    token_retention_days: float = 30.0
    usage_retention_days: float = 400.0
    audit_retention_days: float = 400.0
    made_secrets: tuple[Path, ...] = ()

    @property
    def log_path(self) -> Path:
        """The call log that is being written."""
        return self.data_dir / "api_logs.jsonl"

    @property
    def upstream_is_unencrypted(self) -> bool:
        """True when keys travel to another machine in the clear."""
        url = urlsplit(self.upstream_url)
        return url.scheme == "http" and not is_loopback(url.hostname or "")

    @property
    def weak_secrets(self) -> tuple[str, ...]:
        """Names of the secrets that could be guessed: those under 12 characters."""
        guarded = {
            "MANAGEMENT_TOKEN": self.management_token,
            "ADMIN_PASSWORD": self.admin_password,
            "METRICS_TOKEN": self.metrics_token,
        }
        return tuple(name for name, value in guarded.items() if 0 < len(value) < MIN_SECRET_LENGTH)


# Environment name -> attribute. The README's table is held against this by a test.
ENVIRONMENT: Mapping[str, str] = {
    "HOST": "host",
    "PORT": "port",
    "DATA_DIR": "data_dir",
    "DATABASE_URL": "database_url",
    "DATABASE_POOL_SIZE": "database_pool_size",
    "DATABASE_PREPARE": "database_prepare",
    "UPSTREAM_URL": "upstream_url",
    "MANAGEMENT_TOKEN": "management_token",
    "ADMIN_USER": "admin_user",
    "ADMIN_PASSWORD": "admin_password",
    "ENCRYPTION_KEY": "encryption_keys",
    "MAKE_ENCRYPTION_KEY": "make_encryption_key",
    "RATE_LIMIT_PER_HOUR": "rate_limit_per_hour",
    "MAX_BODY_BYTES": "max_body_bytes",
    "MIN_BODY_RATE": "min_body_rate",
    "CONNECT_TIMEOUT": "connect_timeout_s",
    "FIRST_BYTE_TIMEOUT": "first_byte_timeout_s",
    "IDLE_TIMEOUT": "idle_timeout_s",
    "DRAIN_OVERLAP": "drain_overlap_s",
    "DRAIN_TIMEOUT": "drain_timeout_s",
    "CUT_STREAMS": "cut_streams",
    "CUT_STREAMS_AT_EXPIRY": "cut_streams_at_expiry",
    "WEB_CONCURRENCY": "web_concurrency",
    "LOG_STRICT": "log_strict",
    "LOG_MAX_FILE_BYTES": "log_max_file_bytes",
    "LOG_MAX_TOTAL_BYTES": "log_max_total_bytes",
    "LOGGING_URL": "logging_url",
    "LOGGING_TOKEN": "logging_token",
    "METRICS_TOKEN": "metrics_token",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "otlp_endpoint",
    "OTEL_EXPORTER_OTLP_HEADERS": "otlp_headers",
    "OTEL_SERVICE_NAME": "otel_service_name",
    "TOKEN_RETENTION_DAYS": "token_retention_days",
    "USAGE_RETENTION_DAYS": "usage_retention_days",
    "AUDIT_RETENTION_DAYS": "audit_retention_days",
}
SECRETS = (
    "DATABASE_URL",
    "MANAGEMENT_TOKEN",
    "ADMIN_PASSWORD",
    "ENCRYPTION_KEY",
    "LOGGING_URL",
    "LOGGING_TOKEN",
    "METRICS_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
)
MADE_WHEN_MISSING = ("MANAGEMENT_TOKEN", "ADMIN_PASSWORD", "ENCRYPTION_KEY")
REQUIRED_WHEN_DEPLOYED = ("MANAGEMENT_TOKEN", "ADMIN_USER", "ADMIN_PASSWORD", "ENCRYPTION_KEY")


def load(environ: Mapping[str, str] | None = None, *, embedded: bool = False, command: bool = False) -> Settings:
    """
    Settings from the environment, complete and checked.

    Args:
        environ: Names and values; the process's own environment when None.
        embedded: True for the start on one's own machine, which makes missing secrets and keeps them in
            the data directory (mode 0600). False for a deployed start, which refuses to run without them.
        command: True for a command beside a server of either kind: secrets that are not set are those that an
            embedded start has kept in the data directory; none is made.

    Raises:
        ConfigError: naming every wrong setting.
    """
    source = os.environ if environ is None else environ  # noqa: TID251
    given, problems = _given(source)
    data_dir = Path(given.get("DATA_DIR", Settings().data_dir))
    makes = () if command else MADE_WHEN_MISSING if embedded else _made_when_deployed(given)
    if _add_kept_secrets(MADE_WHEN_MISSING if command else makes, data_dir, given, problems) and command:
        given.setdefault("ADMIN_USER", "admin")
    values: dict[str, Any] = {}
    try:
        values = _SettingsSchema().load(given)
    except ValidationError as exc:
        problems |= {name: " ".join(messages) for name, messages in exc.messages_dict.items()}
    values.setdefault("database_url", f"sqlite:///{quote(str(data_dir.absolute()))}/llm-proxy.db")
    missing = [name for name in REQUIRED_WHEN_DEPLOYED if name not in given and name not in problems]
    if not embedded:
        problems |= {name: _not_set(name, given) for name in missing if name not in makes}
    if "ENCRYPTION_KEY" in makes and "ENCRYPTION_KEY" in missing and (reason := _key_is_lost(values["database_url"])):
        problems["ENCRYPTION_KEY"] = reason
    if reason := _unwritable(data_dir):
        problems["DATA_DIR"] = reason
    if problems:
        raise ConfigError([f"{name}: {problem}" for name, problem in problems.items()])
    if embedded:
        values.setdefault("admin_user", "admin")
    return Settings(**values, **_made_secrets(makes, data_dir, values))


def _given(source: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the environment says, secrets read from their files, and what was wrong with those by name."""
    # An empty value counts as unset: compose files pass `NAME=` for what the operator left out.
    given = {name: source[name] for name in ENVIRONMENT if source.get(name)}
    problems: dict[str, str] = {}
    for name in SECRETS:
        path = source.get(f"{name}_FILE")
        if path and name in given:
            problems[name] = f"and {name}_FILE are both set; keep one of the two"
        elif path:
            _read_secret(name, Path(path), given, problems)
    return given, problems


def _read_secret(name: str, path: Path, given: dict[str, str], problems: dict[str, str]) -> None:
    """Add the secret that lies in a file to `given`, or why there is none to `problems`."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        problems[name] = f"cannot be read from {path} ({_reason(exc)})"
        return
    if text:
        given[name] = text
    else:
        problems[name] = f"is empty in {path}"


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


def _made_when_deployed(given: Mapping[str, str]) -> tuple[str, ...]:
    # A key in one node's directory is no use to the other nodes on the same PostgreSQL.
    alone = given.get("DATABASE_URL", "sqlite").startswith("sqlite")
    return ("ENCRYPTION_KEY",) if alone and given.get("MAKE_ENCRYPTION_KEY") in typed.Boolean.truthy else ()


def _not_set(name: str, given: Mapping[str, str]) -> str:
    if name == "ENCRYPTION_KEY" and given.get("MAKE_ENCRYPTION_KEY") in typed.Boolean.truthy:
        return "is not set, and is made for SQLite alone: every node on one PostgreSQL needs the same"
    return "is not set"


def _add_kept_secrets(names: Iterable[str], data_dir: Path, given: dict[str, str], problems: dict[str, str]) -> bool:
    """Add what an earlier start has made and kept, where nothing else is set. True when there was any."""
    kept = [name for name in names if name not in {*given, *problems} and (data_dir / name.lower()).exists()]
    for name in kept:
        _read_secret(name, data_dir / name.lower(), given, problems)
    return bool(kept)


def _made_secrets(names: Iterable[str], data_dir: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The secrets that are still missing, made and kept, by attribute. Raises ConfigError when they cannot be."""
    made: dict[str, Any] = {}
    paths = []
    problems = []
    for name in names:
        if ENVIRONMENT[name] in values:
            continue
        path, secret = data_dir / name.lower(), secrets.token_urlsafe(ENCRYPTION_KEY_BYTES)
        try:
            _create_secret(path, secret)
        except OSError as exc:
            problems.append(f"{name}: cannot be kept in {path} ({_reason(exc)})")
        made |= _SettingsSchema().load({name: secret})
        paths.append(path)
    if problems:
        raise ConfigError(problems)
    return made | {"made_secrets": tuple(paths)}


def _create_secret(path: Path, value: str) -> None:
    """Write a new file readable by its owner alone; when it cannot be written whole, it is removed again."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(value + "\n")
    except OSError:
        path.unlink()
        raise


def _key_is_lost(database_url: str) -> str | None:
    """Why no key may be made: what is sealed in the SQLite file that is there would stay shut. None without one."""
    path = Path(unquote(_sqlite_path(database_url)))
    if not database_url.startswith("sqlite") or not path.exists():
        return None
    return f"is not set, and {path} was made with one: set it, or put the file encryption_key back"


def is_loopback(host: str) -> bool:
    """True for localhost and the loopback addresses."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _encryption_keys(raw: str) -> tuple[bytes, ...]:
    keys = []
    for part in raw.split(","):
        try:
            text = part.strip()
            key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != ENCRYPTION_KEY_BYTES:
            raise ValidationError(
                "must be 32 random bytes in base64 (openssl rand -base64 32), the current key first,"
                " older ones after commas."
            )
        keys.append(key)
    return tuple(keys)


def _web_url(raw: str) -> SplitResult:
    try:
        url = urlsplit(raw)
        has_port = url.port != 0  # reading it checks it
    except ValueError as exc:
        raise ValidationError("is not a URL.") from exc
    if not has_port:
        raise ValidationError("must not name port 0.")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValidationError("must start with http:// or https:// and name a host.")
    return url


def check_upstream_url(raw: str) -> None:
    """Raise ValidationError unless `raw` can be an upstream's base URL: scheme, host, port and path alone."""
    url = _web_url(raw)
    if "@" in url.netloc or url.query or url.fragment:
        raise ValidationError("must be scheme, host, port and path alone.")
    if not raw.isascii() or any(ord(char) <= 0x20 or char in '"<>\\^`{|}\x7f' for char in raw):
        raise ValidationError("must not hold spaces, control or non-ASCII characters.")
    segments = url.path.lower().replace("%2e", ".").split("/")
    if "." in segments or ".." in segments:
        raise ValidationError("must not hold dot segments.")


def _check_otlp_endpoint(raw: str) -> None:
    _web_url(raw)
    try:
        installed = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        installed = None
    if installed is None:
        raise ValidationError("needs OpenTelemetry: pip install -r requirements-otel.txt.")


def _check_logging_url(raw: str) -> None:
    try:
        parse_logging_url(raw)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc


def _check_database_url(raw: str) -> None:
    if not raw.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://", "postgres://")):
        raise ValidationError("must start with sqlite:/// or postgresql://.")
    if raw.startswith("sqlite"):
        # In memory, each connection and each process would have a database of its own.
        if _sqlite_path(raw) in ("", ":memory:"):
            raise ValidationError("must name a file.")
        return
    # Whoever stays on SQLite need not load it.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        read = conninfo_to_dict(f"postgresql://{raw.partition('://')[2]}")
        ports = [int(port or 5432) for port in str(read.get("port", "")).split(",")]
    except (ProgrammingError, ValueError) as exc:
        # The message would quote the URL, which may hold a password.
        raise ValidationError("is not a URL that PostgreSQL's clients understand.") from exc
    if not all(0 < port < 2**16 for port in ports):
        raise ValidationError("must name ports up to 65535.")


def checked_database_url(raw: str) -> str:
    """A database's URL, with a relative SQLite path made absolute. Raises ValueError, which does not quote it."""
    try:
        _check_database_url(raw)
    except ValidationError as exc:
        raise ValueError(" ".join(map(str, exc.messages))) from exc
    return _absolute(raw)


def _absolute(database_url: str) -> str:
    if not database_url.startswith("sqlite") or _sqlite_path(database_url).startswith("/"):
        return database_url
    # Flask-SQLAlchemy would look for it in its instance folder, the claim where the process runs.
    return database_url.replace("sqlite:///", f"sqlite:///{quote(str(Path.cwd()))}/", 1)


def _sqlite_path(database_url: str) -> str:
    return database_url.removeprefix("sqlite:///").partition("?")[0]


def _check_header_safe(raw: str) -> None:
    if not raw.isascii() or not raw.isprintable() or raw != raw.strip():
        raise ValidationError("must be printable ASCII without spaces around it.")


_seconds = validate.Range(min=0.001, max=YEAR_S)
_days = validate.Range(min=0, max=36_500)
_positive = validate.Range(min=1, max=2**53)


class _KeyRing(typed.Field[tuple[bytes, ...]]):
    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[bytes, ...]:
        return _encryption_keys(value)


class _SettingsSchema(Schema):
    """The type and range of each setting, under its environment name."""

    class Meta:
        unknown = EXCLUDE

    HOST = typed.String(validate=_check_header_safe)
    PORT = typed.Integer(validate=validate.Range(min=0, max=65535))
    DATA_DIR = typed.String()
    DATABASE_URL = typed.String(validate=_check_database_url)
    DATABASE_POOL_SIZE = typed.Integer(validate=validate.Range(min=4, max=1000))
    DATABASE_PREPARE = typed.Boolean()
    UPSTREAM_URL = typed.String(validate=check_upstream_url)
    MANAGEMENT_TOKEN = typed.String(validate=_check_header_safe)
    ADMIN_USER = typed.String(validate=[_check_header_safe, validate.ContainsNoneOf(":")])
    ADMIN_PASSWORD = typed.String()
    ENCRYPTION_KEY = _KeyRing()
    MAKE_ENCRYPTION_KEY = typed.Boolean()
    RATE_LIMIT_PER_HOUR = typed.Integer(validate=validate.Range(min=1, max=2**31 - 1))
    MAX_BODY_BYTES = typed.Integer(validate=_positive)
    MIN_BODY_RATE = typed.Float(validate=validate.Range(min=1, max=2**53))
    CONNECT_TIMEOUT = typed.Float(validate=_seconds)
    FIRST_BYTE_TIMEOUT = typed.Float(validate=_seconds)
    IDLE_TIMEOUT = typed.Float(validate=_seconds)
    DRAIN_OVERLAP = typed.Float(validate=validate.Range(min=0, max=YEAR_S))
    DRAIN_TIMEOUT = typed.Float(validate=_seconds)
    CUT_STREAMS = typed.Boolean()
    CUT_STREAMS_AT_EXPIRY = typed.Boolean()
    WEB_CONCURRENCY = typed.Integer(validate=validate.Range(min=1, max=1024))
    LOG_STRICT = typed.Boolean()
    LOG_MAX_FILE_BYTES = typed.Integer(validate=validate.Range(min=4096, max=2**53))
    LOG_MAX_TOTAL_BYTES = typed.Integer(validate=validate.Range(min=8192, max=2**53))
    LOGGING_URL = typed.String(validate=_check_logging_url)
    LOGGING_TOKEN = typed.String(validate=_check_header_safe)
    METRICS_TOKEN = typed.String(validate=_check_header_safe)
    OTEL_EXPORTER_OTLP_ENDPOINT = typed.String(validate=_check_otlp_endpoint)
    OTEL_EXPORTER_OTLP_HEADERS = typed.String(validate=_check_header_safe)
    OTEL_SERVICE_NAME = typed.String(validate=_check_header_safe)
    TOKEN_RETENTION_DAYS = typed.Float(validate=_days)
    USAGE_RETENTION_DAYS = typed.Float(validate=_days)
    AUDIT_RETENTION_DAYS = typed.Float(validate=_days)

    @post_load
    def _by_attribute(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        values = {ENVIRONMENT[name]: value for name, value in data.items()}
        if "data_dir" in values:
            values["data_dir"] = Path(values["data_dir"])
        if "database_url" in values:
            values["database_url"] = _absolute(values["database_url"])
        return values


assert {field.name for field in fields(Settings)} == set(ENVIRONMENT.values()) | {"made_secrets"}  # noqa: S101
