"""Records and the audit trail tell whom the operator's own proxies serve, and believe nobody else."""

import pytest

from tests.http_by_hand import call
from tests.servers import Server, on_both_servers

pytestmark = on_both_servers
FORGED = ("X-Forwarded-For", "198.51.100.1")


def addresses(server: Server, *headers: tuple[str, str]) -> tuple[str | None, str | None]:
    """What the record of a call with these headers tells, and the audit trail of a change."""
    token = server.issue_token()
    call(server.url, "GET", "/v1/models", token.bearer, *headers)
    bearer = ("Authorization", f"Bearer {server.settings['MANAGEMENT_TOKEN']}")
    assert call(server.url, "POST", f"/manage/projects/{token.project_id}/revoke", bearer, *headers).status == 200
    (record,) = server.wait_for_records(1, token)
    (entry,) = server.rows(
        f"SELECT address FROM audit WHERE action = 'project.revoke_tokens' AND target_id = '{token.project_id}'"
    )
    return record.get("client_address"), entry["address"]


def test_without_proxies_the_peer_is_told_whatever_it_says(proxy, upstream):
    assert addresses(proxy, FORGED) == ("127.0.0.1", "127.0.0.1")


@pytest.fixture
def behind(server_kind, upstream, tmp_path):
    with Server(
        server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8"
    ) as server:
        yield server


def test_behind_a_proxy_its_client_is_told(behind):
    served = ("X-Forwarded-For", "198.51.100.1, 203.0.113.7, 10.0.0.3")

    assert addresses(behind, served) == ("203.0.113.7", "203.0.113.7")
    # What the client wrote itself stands before what the proxy appended, in one field or in two.
    assert addresses(behind, FORGED, ("X-Forwarded-For", "203.0.113.8")) == ("203.0.113.8", "203.0.113.8")
    # A header that only looks like it once it is in an environ.
    assert (
        addresses(behind, ("X-Forwarded-For", "203.0.113.9"), ("X_Forwarded_For", "198.51.100.1"))[0] == "203.0.113.9"
    )


def test_an_operator_may_leave_the_address_out_of_the_records(server_kind, upstream, tmp_path):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, LOG_CLIENT_ADDRESS="off") as server:
        assert addresses(server) == (None, "127.0.0.1")
        (record,) = server.records()
        assert "client_address" not in record
