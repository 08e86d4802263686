import inspect
from http import HTTPStatus

import pytest

from llmproxy import errors
from llmproxy.errors import BodyTooLarge, ProxyError, RateLimited

# SPEC's table of refusals: class, status, type, code, and whether the official clients are told not to repeat.
TABLE = [
    (errors.MissingBearer, 401, "invalid_request_error", None, False),
    (errors.UnknownToken, 401, "invalid_request_error", "invalid_api_key", True),
    (errors.TokenExpired, 401, "invalid_request_error", "token_expired", True),
    (errors.TokenRevoked, 401, "invalid_request_error", "token_revoked", True),
    (errors.ProjectInactive, 403, "permission_error", "project_inactive", True),
    (errors.BadRequest, 400, "invalid_request_error", None, False),
    (errors.BudgetExhausted, 429, "insufficient_quota", "budget_exhausted", True),
    (errors.BudgetTooSmall, 429, "insufficient_quota", "budget_too_small", True),
    (errors.ModelNotAllowed, 403, "permission_error", "model_not_allowed", True),
    (errors.EndpointNotAllowed, 403, "permission_error", "endpoint_not_allowed", True),
    (errors.AddressNotAllowed, 403, "permission_error", "address_not_allowed", True),
    (errors.ModelNotPriced, 403, "permission_error", "model_not_priced", True),
    (errors.ModelUndetermined, 403, "permission_error", "model_undetermined", True),
    (errors.ParameterNotAllowed, 400, "invalid_request_error", "parameter_not_allowed", True),
    (errors.AmbiguousBody, 400, "invalid_request_error", "ambiguous_body", True),
    (errors.UpstreamAuthFailed, 502, "server_error", "upstream_auth_failed", True),
    (errors.UpstreamEchoedKey, 502, "server_error", "upstream_echoed_key", True),
    (errors.UpstreamUnreachable, 502, "server_error", "upstream_unreachable", False),
    (errors.EgressRefused, 502, "server_error", "egress_refused", True),
    (errors.UpstreamTimeout, 504, "server_error", "upstream_timeout", False),
    (errors.AuthUnavailable, 503, "service_unavailable_error", "auth_unavailable", False),
    (errors.ProxyDraining, 503, "service_unavailable_error", "proxy_draining", False),
    (errors.LogUnavailable, 503, "service_unavailable_error", "log_unavailable", False),
    (errors.SpoolUnavailable, 503, "service_unavailable_error", "spool_unavailable", False),
]


@pytest.mark.parametrize(("error", "status", "kind", "code", "is_final"), TABLE)
def test_a_refusal_has_its_status_type_code_and_headers(
    error: type[ProxyError], status: int, kind: str, code: str | None, is_final: bool
) -> None:
    reason = error()

    assert reason.status == status
    assert reason.body["error"] == {"message": reason.message, "type": kind, "param": None, "code": code}
    assert (("x-should-retry", "false") in reason.extra_headers) == is_final
    assert (("retry-after", "1") in reason.extra_headers) == (status == 503)
    assert (("www-authenticate", "Bearer") in reason.extra_headers) == (error is errors.MissingBearer)
    assert len(reason.message) > 20


def test_who_holds_too_much_may_come_back_soon_and_not_all_at_once() -> None:
    refusals = [errors.ConcurrencyLimited("Too many.", "token", "project") for _ in range(50)]

    waits_ms = {int(dict(refusal.extra_headers)["retry-after-ms"]) for refusal in refusals}
    assert len(waits_ms) > 20 and 1000 <= min(waits_ms) <= max(waits_ms) <= 3000
    assert {(refusal.token_id, refusal.project_id, refusal.status) for refusal in refusals} == {
        ("token", "project", 429)
    }
    assert errors.DO_NOT_RETRY not in refusals[0].extra_headers


def test_a_limit_and_a_size_are_named_in_numbers() -> None:
    limited, too_large = RateLimited(limit=7, reset_in_s=0.2), BodyTooLarge(limit=99)

    assert (limited.status, limited.type, limited.code) == (429, "requests", "rate_limit_exceeded")
    assert (too_large.status, too_large.type, too_large.code) == (413, "invalid_request_error", "request_too_large")
    assert "7" in limited.message
    assert "99" in too_large.message


def test_who_waits_for_running_calls_comes_back_in_a_while_and_not_all_at_once() -> None:
    refusals = [errors.BudgetReserved() for _ in range(50)]

    waits_ms = {int(dict(refusal.extra_headers)["retry-after-ms"]) for refusal in refusals}
    assert len(waits_ms) > 20 and 10_000 <= min(waits_ms) <= max(waits_ms) <= 30_000
    assert errors.DO_NOT_RETRY not in refusals[0].extra_headers


def test_a_rate_of_tokens_says_when_it_begins_anew() -> None:
    reason = errors.TokensLimited(limit=9000, reset_in_s=12.5)

    headers = dict(reason.extra_headers)
    assert (reason.status, reason.type, reason.code) == (429, "tokens", "rate_limit_exceeded")
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("13", "12500")
    assert headers["x-ratelimit-limit-tokens"] == "9000"


@pytest.mark.parametrize("reset_in_s", [-5.0, 0.0, 0.0001, 1.0])
def test_the_wait_is_never_less_than_a_second(reset_in_s: float) -> None:
    headers = dict(RateLimited(limit=1, reset_in_s=reset_in_s).extra_headers)

    assert headers["retry-after"] == "1"
    assert int(headers["retry-after-ms"]) >= 1


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    classes = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, ProxyError)]

    assert len(classes) > 10
    for error in classes:
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", [row[0] for row in TABLE])
def test_every_status_has_a_phrase(error: type[ProxyError]) -> None:
    assert HTTPStatus(error.status).phrase


def test_an_own_message_and_param_take_the_place_of_the_classs() -> None:
    reason = errors.BadRequest("Look at this.", param="that")

    assert reason.body["error"]["message"] == str(reason) == "Look at this."
    assert reason.body["error"]["param"] == "that"
