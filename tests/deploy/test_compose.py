"""compose.yaml and what it mounts, held against the settings, the scripts and each other."""

import re
import shutil
import stat
from pathlib import Path

import pytest
import yaml

import config
from server.gunicorn import master as gunicorn_master
from tests.deploy.compose import ROOT, compose, make_secrets

PROXIES = ["proxy-1", "proxy-2"]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in compose()["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]

    assert len(mounted) >= 4
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_every_volume_and_secret_that_is_used_is_declared_and_the_other_way_round() -> None:
    services = compose()["services"].values()
    volumes = {volume.split(":")[0] for service in services for volume in service.get("volumes", [])}
    used = {secret for service in services for secret in service.get("secrets", [])}

    assert {volume for volume in volumes if "/" not in volume} == set(compose()["volumes"])
    assert used == set(compose()["secrets"])


@needs_openssl
def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    made = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}

    assert set(made) == {Path(secret["file"]).name for secret in compose()["secrets"].values()}
    assert make_secrets(tmp_path / "secrets") == ""
    assert {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()} == made
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


@needs_openssl
def test_the_proxies_start_with_those_secrets(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    environ = {
        name: re.sub(r"\$\{\w+:-\}", "", value.replace("/run/secrets", str(tmp_path)))
        for name, value in compose()["services"]["proxy-1"]["environment"].items()
    }
    settings = config.load(environ | {"DATA_DIR": str(tmp_path / "data")})

    assert settings.database_url.endswith("@postgres:5432/llm_proxy")
    assert settings.weak_secrets == () and settings.metrics_token
    unknown = {name.removesuffix("_FILE") for name in environ} - set(config.SETTINGS)
    assert unknown == set()
    grace_s = int(compose()["services"]["proxy-1"]["stop_grace_period"].removesuffix("s"))
    assert gunicorn_master.graceful_timeout_s(settings) < grace_s


def test_whoever_is_waited_for_has_a_health_check() -> None:
    services = compose()["services"]
    waited_for = {name for service in services.values() for name in service.get("depends_on", {})}

    # That of the proxies is in their image.
    assert {name for name in waited_for if "healthcheck" not in services[name]} == set(PROXIES)
    assert "\nHEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_the_database_is_healthy_only_when_the_network_reaches_it() -> None:
    """While PostgreSQL's image makes the database, a passing server answers on its socket."""
    test = compose()["services"]["postgres"]["healthcheck"]["test"]

    assert test[:4] == ["CMD", "pg_isready", "-h", "127.0.0.1"]


def test_nginx_waits_as_long_as_the_proxies_whose_calls_it_carries() -> None:
    services = compose()["services"]

    assert {services[name]["stop_grace_period"] for name in ("nginx", *PROXIES)} == {"620s"}


def test_its_head_tells_how_to_replace_each_proxy_and_to_show_nginx_its_address() -> None:
    """nginx asks for the addresses of its upstream's names when it reads its configuration, and not again."""
    head = (ROOT / "compose.yaml").read_text().partition("\n\n")[0]
    commands = re.findall(r"docker compose (up -d --no-deps|exec -T nginx) (.*)", head)

    assert [rest for _, rest in commands] == ["proxy-1", "nginx -s reload", "proxy-2", "nginx -s reload"]


def test_every_image_from_elsewhere_has_its_stand_in() -> None:
    """`make compose-test` runs where no registry can be reached."""
    targets = set(re.findall(r" AS (\S+)", (ROOT / "deploy/stand_ins/Dockerfile").read_text()))

    assert targets == {name for name, service in compose()["services"].items() if service["image"] != "llm-proxy"}


def test_only_tls_is_published_and_for_this_machine_what_operators_need() -> None:
    ports = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}

    assert ports == {"nginx": ["443:443", "127.0.0.1:8443:8443"], "grafana": ["127.0.0.1:3000:3000"]}


def test_prometheus_asks_both_proxies_with_the_token_and_grafana_asks_prometheus() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [job] = prometheus["scrape_configs"]
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards/llm-proxy.yaml").read_text())["providers"]
    [dashboards] = [volume for volume in compose()["services"]["grafana"]["volumes"] if "llm-proxy.json" in volume]

    assert job["static_configs"][0]["targets"] == [f"{name}:9090" for name in PROXIES]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert [(ROOT / "deploy/prometheus" / name).exists() for name in prometheus["rule_files"]] == [True]
    assert source["url"] == "http://prometheus:9090"
    assert dashboards.split(":")[1].startswith(provider["options"]["path"])
