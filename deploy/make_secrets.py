"""
Makes the files in secrets/ that compose.yaml names, where they are missing; those that are there stay.

    python3 deploy/make_secrets.py [directory]

The directory is its owner's alone. The files in it can be read by all, since compose shows them to containers that
run as other users. The certificate is for https://localhost and signed by nobody: put yours in its place.
"""

import base64
import secrets
import subprocess
import sys
from pathlib import Path

DAYS = 365
SECRETS = (
    "management_token",
    "admin_password",
    "metrics_token",
    "postgres_password",
    "database_password",
    "grafana_password",
)


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "secrets")
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in SECRETS:
        _keep(directory / name, secrets.token_urlsafe(32))
    _keep(directory / "encryption_key", base64.b64encode(secrets.token_bytes(32)).decode())
    password = (directory / "database_password").read_text().strip()
    _keep(directory / "database_url", f"postgresql://llm_proxy:{password}@postgres:5432/llm_proxy")
    if not (directory / "tls_certificate").exists():
        _make_certificate(directory)


def _keep(path: Path, value: str) -> None:
    if not path.exists():
        path.write_text(value + "\n")
        path.chmod(0o444)
        print(f"made {path}")


def _make_certificate(directory: Path) -> None:
    certificate, key = directory / "tls_certificate", directory / "tls_key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", str(DAYS)]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True)
    print(f"made {certificate} and its key")


if __name__ == "__main__":
    main()
