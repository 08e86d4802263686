"""A certificate for localhost, and the authority that signed it."""

from __future__ import annotations

from pathlib import Path

import trustme


def signed_in(directory: Path) -> tuple[Path, Path]:
    """Make both, in PEM: the certificate with its private key, and the authority to trust."""
    certificate, authority = directory / "localhost.pem", directory / "authority.pem"
    signer = trustme.CA()
    signer.cert_pem.write_to_path(str(authority))
    signer.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return certificate, authority
