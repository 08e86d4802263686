import base64
import os
import resource
import stat
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest

import config
from config import ConfigError, Settings, load
from llmproxy.egress import bypass_of, proxy_of
from llmproxy.limits.prices import Overlay
from models import AuditEntry

KEY = base64.b64encode(b"k" * 32).decode()
SIGNING = f"whsec_{KEY}"
DEPLOYED = {
    "MANAGEMENT_TOKEN": "planted-management-token",
    "ADMIN_USER": "admin",
    "ADMIN_PASSWORD": "planted-admin-password",
    "ENCRYPTION_KEY": KEY,
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def deployed(data_dir: Path, **environ: str) -> Settings:
    return load(DEPLOYED | {"DATA_DIR": str(data_dir)} | environ)


def problems(data_dir: Path, *, embedded: bool = False, **environ: str) -> dict[str, str]:
    """What is wrong with these settings, by name."""
    complete = {} if embedded else DEPLOYED
    with pytest.raises(ConfigError) as error:
        load(complete | {"DATA_DIR": str(data_dir)} | environ, embedded=embedded)
    return dict(problem.split(": ", 1) for problem in error.value.problems)


def test_a_deployed_start_needs_its_secrets_and_nothing_else(data_dir: Path) -> None:
    settings = deployed(data_dir)

    assert settings.management_token == "planted-management-token"
    assert settings.encryption_keys == (b"k" * 32,)
    assert settings.database_url == f"sqlite:///{data_dir}/llm-proxy.db"
    assert settings.made_secrets == ()
    assert not list(data_dir.glob("*"))
    defaults = {field.name: field.default for field in fields(Settings)}
    for name in (
        "host",
        "port",
        "upstream_url",
        "rate_limit_per_hour",
        "max_body_bytes",
        "idle_timeout_s",
        "log_strict",
    ):
        assert getattr(settings, name) == defaults[name]


def test_a_deployed_start_without_its_secrets_names_every_one(data_dir: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load({"DATA_DIR": str(data_dir)})

    assert [problem.split(":")[0] for problem in error.value.problems] == list(config.REQUIRED_WHEN_DEPLOYED)
    assert not (data_dir / "management_token").exists()


WRONG = {
    "HOST": "a b\x00", "PORT": "65536", "DATABASE_URL": "mysql://planted-secret@h/d", "UPSTREAM_URL": "ftp://h",
    "MANAGEMENT_TOKEN": "\x7fplanted-secret", "ADMIN_USER": "a:b", "ADMIN_TIME_ZONE": "../Berlin",
    "ENCRYPTION_KEY": "planted-secret",
    "DATABASE_POOL_SIZE": "3", "DATABASE_PREPARE": "perhaps", "MAKE_ENCRYPTION_KEY": "perhaps",
    "RATE_LIMIT_PER_HOUR": "0", "PRICES_FILE": "/planted-not-there.toml",
    "MAX_BODY_BYTES": "1.5", "RULED_BODY_BYTES": "0", "MIN_BODY_RATE": "0",
    "CONNECT_TIMEOUT": "nan", "FIRST_BYTE_TIMEOUT": "-1", "IDLE_TIMEOUT": "inf",
    "DRAIN_OVERLAP": "-1", "DRAIN_TIMEOUT": "x", "WEB_CONCURRENCY": "0",
    "CUT_STREAMS": "perhaps", "CUT_STREAMS_AT_EXPIRY": "perhaps", "LOG_STRICT": "perhaps",
    "LOG_FORMAT": "xml",
    "LOG_MAX_FILE_BYTES": "1", "LOG_MAX_TOTAL_BYTES": "1", "LOGGING_URL": "cloudwatch://[planted-secret",
    "LOGGING_TOKEN": "planted-secret\u2028", "METRICS_TOKEN": "planted-secret\u00e9",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "planted-secret\u00e9",
    "OTEL_SERVICE_NAME": " ", "TOKEN_RETENTION_DAYS": "-1",
    "HTTPS_PROXY": "socks5://u:planted-secret@h", "HTTP_PROXY": "http://u:planted-secret@h/x",
    "NO_PROXY": "10.0.0.0/33",
    "ROOT_PATH": "llm", "CORS_ORIGINS": "https://app.example/", "TRUSTED_PROXIES": "10.0.0.1/8", "OPS_BIND": "9090",
    "LOG_FILE_MODE": "0777",
    "UPSTREAM_ALLOWED_HOSTS": "https://h", "ALLOW_ORGANIZATION_ROUTES": "perhaps",
    "HIDE_OPENAI_ACCOUNT": "perhaps",
    "MAX_WEBSOCKETS_PER_TOKEN": "0",
    "LOG_CLIENT_ADDRESS": "perhaps",
    "USAGE_RETENTION_DAYS": "nan", "AUDIT_RETENTION_DAYS": "x",
    "REQUEST_INDEX_DAYS": "-1",
    "ALERT_URL": "cloudwatch://planted-secret/s?region=eu-west-1", "ALERT_SECRET": "planted-secret",
    "ALERT_KINDS": "budget.threshold,token.expires", "CONTACT": "planted-secret\nX",
}  # fmt: skip


def test_every_wrong_setting_is_named_in_one_message_that_shows_no_secret(data_dir: Path) -> None:
    found = problems(data_dir, **WRONG)

    # Any text is a directory until it is tried, and a password.
    assert set(found) == set(config.SETTINGS) - {"DATA_DIR", "ADMIN_PASSWORD"}
    assert "planted-secret" not in str(found)


@pytest.mark.parametrize("embedded", [True, False])
def test_a_wrong_setting_makes_no_secret(embedded: bool, data_dir: Path) -> None:
    assert set(problems(data_dir, embedded=embedded, PORT="x")) == {"PORT"}
    assert not list(data_dir.glob("*"))


@pytest.mark.parametrize(
    ("name", "value", "attribute", "read"),
    [
        ("PORT", "0", "port", 0), ("PORT", "65535", "port", 65535), ("LOG_STRICT", "on", "log_strict", True),
        ("LOG_STRICT", "off", "log_strict", False), ("LOG_STRICT", "1", "log_strict", True),
        ("CONNECT_TIMEOUT", "0.5", "connect_timeout_s", 0.5), ("HOST", "::1", "host", "::1"),
        ("RATE_LIMIT_PER_HOUR", "1", "rate_limit_per_hour", 1), ("MAX_BODY_BYTES", "1", "max_body_bytes", 1),
        ("LOGGING_URL", "https://logs.example/in", "logging_url", "https://logs.example/in"),
        ("ALERT_KINDS", "model.unpriced, budget.threshold", "alert_kinds", ("model.unpriced", "budget.threshold")),
        ("DATABASE_URL", "postgresql://u:p@h/d", "database_url", "postgresql://u:p@h/d"),
    ],
)  # fmt: skip
def test_a_setting_is_read_with_its_type(name: str, value: str, attribute: str, read: object, data_dir: Path) -> None:
    assert getattr(deployed(data_dir, **{name: value}), attribute) == read


@pytest.mark.parametrize("name", sorted(config.SETTINGS))
def test_an_empty_value_counts_as_unset(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    if name in config.REQUIRED_WHEN_DEPLOYED:
        assert problems(data_dir, **{name: ""}) == {name: "is not set"}
    else:
        assert deployed(data_dir, **{name: ""}) == deployed(Path("data") if name == "DATA_DIR" else data_dir)


# Names that are nearly a setting's


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMIT_PER_HOURS", "RATE_LIMIT_PER_HOUR"), ("RATE_LIMITS_PER_HOURS", "RATE_LIMIT_PER_HOUR"),
        ("ATE_LIMIT_PER_HOU", "RATE_LIMIT_PER_HOUR"), ("LOG_STIRCT", "LOG_STRICT"),
        ("DATABASE_URI", "DATABASE_URL"), ("Log_Strict", "LOG_STRICT"), ("PORTS", "PORT"), ("HOS", "HOST"),
        ("METRICS_TOKEN_FIEL", "METRICS_TOKEN_FILE"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_a_settings_is_told_from_it(name: str, meant: str, data_dir: Path) -> None:
    assert deployed(data_dir, **{name: "planted"}).misspelt == ((name, meant),)


@pytest.mark.parametrize(
    "name",
    [
        "RATE_LIMITS_PER_HOURLY", "TE_LIMIT_PER_HOU", "LOG", "OTEL_EXPORTER_OTLP_TIMEOUT", "METRICS_TOKEN_FILE",
        "ftp_proxy", "FTP_PROXY", "ALL_PROXY", "all_proxy",
        "HOME", "PATH", "PWD", "USER", "TERM", "SHELL", "OS", "LLM_PROXY_PORT", "FORWARDED_ALLOW_IPS",
    ],
)  # fmt: skip
def test_other_names_are_somebody_elses(name: str, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a-token-in-a-file")

    assert deployed(data_dir, **{name: str(tmp_path / "x")}).misspelt == ()


def test_the_proxies_variables_may_be_in_lower_case_and_count_less_then(data_dir: Path) -> None:
    lower = {"https_proxy": "one:1", "http_proxy": "two:2", "no_proxy": "b.example"}
    settings = deployed(data_dir, **lower, HTTP_PROXY="three:3", port="1")

    assert (settings.https_proxy, settings.http_proxy) == (proxy_of("one:1"), proxy_of("three:3"))
    assert settings.no_proxy == bypass_of("b.example")
    assert settings.misspelt == (("port", "PORT"),)
    assert (settings.port, set(problems(data_dir, https_proxy="ftp://x"))) == (8080, {"HTTPS_PROXY"})


def test_a_name_that_is_nearly_a_settings_and_set_to_nothing_is_passed_over(data_dir: Path) -> None:
    assert deployed(data_dir, LOG_STRICKT="").misspelt == ()


def test_no_setting_is_taken_for_another(data_dir: Path) -> None:
    everything = dict.fromkeys([*config.SETTINGS, *(f"{name}_FILE" for name in config.SECRETS)], "x")

    assert list(config._misspelt(everything)) == []


def test_a_required_setting_under_a_wrong_name_is_found(data_dir: Path) -> None:
    found = problems(
        data_dir, MANAGEMENT_TOKEN="", MANAGMENT_TOKEN="planted", ADMIN_USER="", ADMIN_USRE_FILE="planted"
    )

    assert found == {"MANAGEMENT_TOKEN": "is not set, but MANAGMENT_TOKEN is", "ADMIN_USER": "is not set"}


# Settings that do not go together, or not with what is installed


def test_the_cap_on_the_log_leaves_room_for_two_files(data_dir: Path) -> None:
    sizes = {"LOG_MAX_FILE_BYTES": "5000", "LOG_MAX_TOTAL_BYTES": "10000"}
    assert deployed(data_dir, **sizes).log_max_total_bytes == 10_000

    found = problems(data_dir, **sizes | {"LOG_MAX_TOTAL_BYTES": "9999"})
    assert found == {"LOG_MAX_TOTAL_BYTES": "must be at least twice LOG_MAX_FILE_BYTES, which is 5000"}


def test_a_setting_is_held_against_the_default_of_another(data_dir: Path) -> None:
    assert set(problems(data_dir, LOG_MAX_FILE_BYTES=str(2**40))) == {"LOG_MAX_TOTAL_BYTES"}


def test_a_setting_is_not_held_against_a_wrong_one(data_dir: Path) -> None:
    assert set(problems(data_dir, LOG_MAX_FILE_BYTES="1", LOG_MAX_TOTAL_BYTES="8192")) == {"LOG_MAX_FILE_BYTES"}


def test_an_admin_has_a_name_that_the_audit_trail_has_room_for(data_dir: Path) -> None:
    room = AuditEntry.__table__.c.actor.type.length
    assert len(deployed(data_dir, ADMIN_USER="a" * room).admin_user) == room

    assert set(problems(data_dir, ADMIN_USER="a" * (room + 1))) == {"ADMIN_USER"}


@pytest.mark.parametrize(
    ("missing", "name", "url", "extra"),
    [
        ("boto3", "LOGGING_URL", "cloudwatch://group/stream?region=eu-west-1", "requirements-cloudwatch.txt"),
        ("opentelemetry.exporter", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318", "requirements-otel.txt"),
    ],
)
def test_a_url_that_needs_an_extra_names_it_when_it_is_not_installed(
    missing: str, name: str, url: str, extra: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(deployed(data_dir, **{name: url}), config.SETTINGS[name].name) == url

    for module in [missing, *(one for one in sys.modules if one.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    assert extra in problems(data_dir, **{name: url})[name]


# Databases


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///?x=y"])
def test_a_database_in_memory_is_refused_for_it_would_be_another_in_each_process(url: str, data_dir: Path) -> None:
    assert set(problems(data_dir, DATABASE_URL=url)) == {"DATABASE_URL"}


def test_a_relative_path_to_a_database_means_one_file_to_everybody(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)

    assert deployed(data_dir, DATABASE_URL="sqlite:///x.db").database_url == f"sqlite:///{data_dir.parent}/x.db"
    assert deployed(data_dir, DATABASE_URL="sqlite:////a/x.db").database_url == "sqlite:////a/x.db"


@pytest.mark.parametrize(
    "url", ["postgresql://u:planted@h:x/d", "postgresql://u:planted@h:99999/d", "postgresql://[u"]
)
def test_a_malformed_database_url_is_refused_without_showing_it(url: str, data_dir: Path) -> None:
    found = problems(data_dir, DATABASE_URL=url)

    assert set(found) == {"DATABASE_URL"}
    assert "planted" not in str(found)


def test_alerts_are_not_sent_unsigned(data_dir: Path) -> None:
    assert set(problems(data_dir, ALERT_URL="https://h/x")) == {"ALERT_SECRET"}


# Secrets from files


@pytest.mark.parametrize("name", config.SECRETS)
def test_a_secret_may_come_from_a_file(name: str, data_dir: Path, tmp_path: Path) -> None:
    value = {
        "DATABASE_URL": "postgresql://u:p@h/d", "ENCRYPTION_KEY": KEY, "LOGGING_URL": "https://u:p@h/x",
        "HTTPS_PROXY": "http://u:p@h:3128", "HTTP_PROXY": "h:3128", "ALERT_URL": "https://h/x",
        "ALERT_SECRET": SIGNING,
    }.get(name, "a-secret-from-a-file")  # fmt: skip
    file = tmp_path / "secret"
    file.write_text(f"{value}\n")
    others = DEPLOYED | ({"ALERT_SECRET": SIGNING} if name == "ALERT_URL" else {})
    without = {key: value for key, value in others.items() if key != name}
    settings = load(without | {"DATA_DIR": str(data_dir), f"{name}_FILE": str(file)})

    read = getattr(settings, config.SETTINGS[name].name)
    reads = {"ENCRYPTION_KEY": lambda _: (b"k" * 32,), "HTTPS_PROXY": proxy_of, "HTTP_PROXY": proxy_of}
    assert read == reads.get(name, str)(value)


def test_a_secret_set_in_both_ways_is_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("planted-file-secret")
    found = problems(data_dir, MANAGEMENT_TOKEN_FILE=str(tmp_path / "x"))

    assert found == {"MANAGEMENT_TOKEN": "and MANAGEMENT_TOKEN_FILE are both set; keep one of the two"}


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=["missing", "empty", "blank", "no text"])
def test_a_file_without_a_secret_is_named(content: bytes | None, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    found = problems(data_dir, MANAGEMENT_TOKEN="", MANAGEMENT_TOKEN_FILE=str(file))

    assert set(found) == {"MANAGEMENT_TOKEN"}
    assert str(file) in found["MANAGEMENT_TOKEN"]


# The embedded start


def test_the_embedded_start_makes_what_is_missing_for_its_owner_alone(data_dir: Path) -> None:
    settings = load({"DATA_DIR": str(data_dir)}, embedded=True)

    assert {path.name for path in settings.made_secrets} == {"management_token", "admin_password", "encryption_key"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in settings.made_secrets)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert settings.admin_user == "admin"
    assert len({settings.management_token, settings.admin_password}) == 2
    assert min(len(settings.management_token), len(settings.admin_password)) >= 32
    assert sorted(path.name for path in data_dir.iterdir()) == [
        "admin_password",
        "encryption_key",
        "management_token",
    ]


def test_made_secrets_stay_the_same_from_start_to_start(data_dir: Path) -> None:
    first = load({"DATA_DIR": str(data_dir)}, embedded=True)
    second = load({"DATA_DIR": str(data_dir)}, embedded=True)

    assert second.made_secrets == ()
    for name in ("management_token", "admin_password", "encryption_keys"):
        assert getattr(first, name) == getattr(second, name)


def test_what_is_set_is_not_made(data_dir: Path) -> None:
    settings = load(DEPLOYED | {"DATA_DIR": str(data_dir)}, embedded=True)

    assert settings.made_secrets == ()
    assert settings.management_token == "planted-management-token"
    assert list(data_dir.iterdir()) == []


@pytest.mark.parametrize("name", ["management_token", "admin_password", "encryption_key"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xff"], ids=["empty", "blank", "no text"])
def test_a_kept_secret_that_is_damaged_stops_the_start(name: str, content: bytes, data_dir: Path) -> None:
    """Whatever guards with it would guard with nothing."""
    load({"DATA_DIR": str(data_dir)}, embedded=True)
    (data_dir / name).write_bytes(content)
    found = problems(data_dir, embedded=True)

    assert set(found) == {name.upper()}
    assert str(data_dir / name) in found[name.upper()]


def test_a_kept_encryption_key_that_is_none_stops_the_start(data_dir: Path) -> None:
    load({"DATA_DIR": str(data_dir)}, embedded=True)
    (data_dir / "encryption_key").write_text("planted-garbage")
    found = problems(data_dir, embedded=True)

    assert set(found) == {"ENCRYPTION_KEY"}
    assert "planted" not in str(found)


def test_a_start_on_a_full_disk_leaves_no_half_secret(data_dir: Path) -> None:
    load(DEPLOYED | {"DATA_DIR": str(data_dir)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # every write fails now, as on a full disk
    try:
        found = problems(data_dir, embedded=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert set(found) == {"MANAGEMENT_TOKEN", "ADMIN_PASSWORD", "ENCRYPTION_KEY"}
    assert list(data_dir.iterdir()) == []
    assert load({"DATA_DIR": str(data_dir)}, embedded=True).management_token


@pytest.mark.skipif(os.getuid() != 0, reason="asks for a directory that only root could not write to either")
@pytest.mark.parametrize("path", ["/proc/llm-proxy", "/dev/null/x"])
def test_a_data_directory_that_cannot_be_written_is_named(path: str) -> None:
    assert set(problems(Path(path))) == {"DATA_DIR"}


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    assert set(problems(tmp_path / "data")) == {"DATA_DIR"}


# What is shown


def test_nothing_secret_is_in_the_repr(data_dir: Path) -> None:
    settings = deployed(
        data_dir,
        DATABASE_URL="postgresql://u:planted-password@h/d",
        LOGGING_URL="https://u:planted-password@h/x",
        LOGGING_TOKEN="planted-logging-token",
        METRICS_TOKEN="planted-metrics-token",
    )

    assert "planted" not in repr(settings)
    assert KEY not in repr(settings)
    assert "kkkk" not in repr(settings)


def test_every_attribute_that_a_secret_fills_is_left_out_of_the_repr() -> None:
    hidden = {field.name for field in fields(Settings) if not field.repr}

    assert hidden == {config.SETTINGS[name].name for name in config.SECRETS}


@pytest.mark.parametrize(
    ("secret", "is_weak"), [("secret", True), ("admin", True), ("x" * 11, True), ("x" * 12, False)]
)
def test_a_short_secret_is_called_weak(secret: str, is_weak: bool, data_dir: Path) -> None:
    settings = deployed(data_dir, MANAGEMENT_TOKEN=secret, ADMIN_PASSWORD=secret, METRICS_TOKEN=secret)

    assert settings.weak_secrets == (("MANAGEMENT_TOKEN", "ADMIN_PASSWORD", "METRICS_TOKEN") if is_weak else ())


@pytest.mark.parametrize(
    ("url", "is_unencrypted"),
    [
        ("https://api.openai.com", False), ("http://models:8000", True), ("http://127.0.0.1:9", False),
        ("http://localhost", False), ("http://[::1]:9", False), ("http://127.0.0.1.example", True),
        ("http://0.0.0.0", True),
    ],
)  # fmt: skip
def test_keys_in_the_clear_to_another_machine_are_noticed(url: str, is_unencrypted: bool, data_dir: Path) -> None:
    assert deployed(data_dir, UPSTREAM_URL=url).upstream_is_unencrypted is is_unencrypted


# Encryption keys


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(b"\xfb\xff" * 16).decode(), base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode(),
        base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode().rstrip("="),
    ],
)  # fmt: skip
def test_an_encryption_key_is_base64_of_either_kind(text: str, data_dir: Path) -> None:
    assert deployed(data_dir, ENCRYPTION_KEY=text).encryption_keys == (b"\xfb\xff" * 16,)


def test_older_encryption_keys_follow_after_commas(data_dir: Path) -> None:
    older = base64.b64encode(b"o" * 32).decode()

    assert deployed(data_dir, ENCRYPTION_KEY=f"{KEY} , {older}").encryption_keys == (b"k" * 32, b"o" * 32)


@pytest.mark.parametrize("text", ["x", KEY[:-4], KEY + KEY, f"{KEY},", f"{KEY},x", "\u00e9" * 44, "k" * 32])
def test_anything_else_is_no_encryption_key(text: str, data_dir: Path) -> None:
    assert set(problems(data_dir, ENCRYPTION_KEY=text)) == {"ENCRYPTION_KEY"}


# The image's start: deployed, with MAKE_ENCRYPTION_KEY


IMAGE = {name: value for name, value in DEPLOYED.items() if name != "ENCRYPTION_KEY"} | {
    "MAKE_ENCRYPTION_KEY": "true"
}


def test_the_image_makes_an_encryption_key_beside_sqlite_and_keeps_it(data_dir: Path) -> None:
    first = load(IMAGE | {"DATA_DIR": str(data_dir)})
    second = load(IMAGE | {"DATA_DIR": str(data_dir)})

    assert first.made_secrets == (data_dir / "encryption_key",)
    assert stat.S_IMODE((data_dir / "encryption_key").stat().st_mode) == 0o600
    assert second.made_secrets == ()
    assert first.encryption_keys == second.encryption_keys
    assert [path.name for path in data_dir.iterdir()] == ["encryption_key"]


@pytest.mark.parametrize("name", ["MANAGEMENT_TOKEN", "ADMIN_USER", "ADMIN_PASSWORD"])
def test_the_image_makes_no_other_secret(name: str, data_dir: Path) -> None:
    assert problems(data_dir, **(IMAGE | {"ENCRYPTION_KEY": "", name: ""})) == {name: "is not set"}


def test_the_image_makes_no_key_for_one_node_of_several(data_dir: Path) -> None:
    found = problems(data_dir, **IMAGE, ENCRYPTION_KEY="", DATABASE_URL="postgresql://u@h/d")

    assert "every node" in found["ENCRYPTION_KEY"]
    assert not (data_dir / "encryption_key").exists()


@pytest.mark.parametrize("embedded", [True, False])
def test_no_new_key_is_made_for_a_database_that_was_sealed_with_another(embedded: bool, data_dir: Path) -> None:
    """Its upstream keys would stay shut, and nobody would know why."""
    data_dir.mkdir()
    (data_dir / "llm-proxy.db").touch()
    found = problems(data_dir, embedded=embedded, MAKE_ENCRYPTION_KEY="true", ENCRYPTION_KEY="")

    assert set(found) == {"ENCRYPTION_KEY"}
    assert "llm-proxy.db was made with one" in found["ENCRYPTION_KEY"]
    assert [path.name for path in data_dir.iterdir()] == ["llm-proxy.db"]


# A command beside a server


def test_a_command_takes_the_kept_secrets_and_makes_none(data_dir: Path) -> None:
    with pytest.raises(ConfigError):
        load({"DATA_DIR": str(data_dir)}, command=True)
    made = load({"DATA_DIR": str(data_dir)}, embedded=True)
    settings = load({"DATA_DIR": str(data_dir)}, command=True)

    assert (settings.admin_user, settings.made_secrets) == ("admin", ())
    assert settings.encryption_keys == made.encryption_keys


def test_a_command_without_settings_says_so_in_one_line_and_makes_nothing(data_dir: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load({"DATA_DIR": str(data_dir)}, command=True)

    assert "\n" not in str(error.value) and f"nor kept in {data_dir}" in str(error.value)
    assert [name for name in config.REQUIRED_WHEN_DEPLOYED if name not in str(error.value)] == []
    assert not data_dir.exists()


def test_a_command_with_wrong_settings_makes_nothing_either(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="PORT"):
        load(DEPLOYED | {"DATA_DIR": str(data_dir), "PORT": "x"}, command=True)

    assert not data_dir.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_a_command_that_may_not_look_into_the_data_directory_is_told_so() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
        data_dir = Path(place) / "data"
        load({"DATA_DIR": str(data_dir)}, embedded=True)
        Path(place).chmod(0o755)
        os.seteuid(10_001)
        try:
            with pytest.raises(ConfigError, match=r"DATA_DIR: cannot write to .*, or start as its owner"):
                load({"DATA_DIR": str(data_dir)}, command=True)
        finally:
            os.seteuid(0)


def test_a_set_secret_goes_before_a_kept_one(data_dir: Path) -> None:
    load({"DATA_DIR": str(data_dir)}, embedded=True)

    for start in ({"embedded": True}, {"command": True}):
        settings = load(DEPLOYED | {"DATA_DIR": str(data_dir)}, **start)
        assert settings.management_token == "planted-management-token"


# The machine


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "800000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_a_container_counts_the_cores_of_its_share(files, cores, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert config.usable_cores(tmp_path) == cores


def test_a_price_file_s_every_fault_is_named_with_its_row(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[model.m]\nin = -1\n[project.p.model.n]\nprice = 2\n")

    found = problems(data_dir, PRICES_FILE=str(path))["PRICES_FILE"]

    assert 'model "m": in must lie between 0 and 1,000,000 dollars' in found
    assert 'project "p", model "n": price is no name of a price' in found


def test_prices_may_be_left_out(data_dir: Path) -> None:
    assert deployed(data_dir).prices == Overlay()
    assert deployed(data_dir, PRICES_FILE="none").prices is None
