"""What a call is counted under, and that others cannot make the series pile up."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmproxy.api_log.record import CallRecord
from llmproxy.telemetry import metrics, standing
from tests.exposition import samples, total


@pytest.fixture(autouse=True)
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caps that a test reaches quickly, with nothing known yet."""
    for cap, known in (("MAX_PROJECTS", "_projects"), ("MAX_MODELS", "_models")):
        monkeypatch.setattr(metrics, cap, 3)
        monkeypatch.setattr(metrics, known, set())
    for cache in (metrics._requests, metrics._tokens):
        cache.cache_clear()


def record(**changes: Any) -> CallRecord:
    """Of a call that went through."""
    facts: dict[str, Any] = {
        "timestamp": 0.0, "request_id": "r", "token_id": "t", "project_id": "p", "endpoint": "/v1/chat/completions",
        "method": "POST", "status_code": 200, "duration_ms": 1.0, "metadata": None, "outcome": "complete",
        "stream": False, "ttft_ms": None, "upstream_status": 200, "upstream_request_id": None, "bytes_in": 0,
        "bytes_out": 0, "usage_source": "absent", "error": None,
    }  # fmt: skip
    return CallRecord(**facts | changes)


class Seen:
    """What the numbers have grown by since this was made."""

    def __init__(self) -> None:
        self._before = self._text()

    def _text(self) -> str:
        return metrics.exposition().decode()

    def growth(self, name: str, **labels: str) -> float:
        return total(self._text(), name, **labels) - total(self._before, name, **labels)

    def names(self, name: str, label: str) -> set[str]:
        """Values of a label that have grown."""
        values = {sample.labels[label] for sample in samples(self._text()) if sample.name == name}
        return {value for value in values if self.growth(name, **{label: value})}


def end(**changes: Any) -> None:
    metrics.call_ended(record(**changes), overhead_s=None)


def test_a_call_is_counted_under_project_endpoint_status_and_outcome() -> None:
    seen = Seen()
    end(project_id="a project", status_code=429, outcome="refused", error={"code": "rate_limit_exceeded"})

    labels = {"project": "a project", "endpoint": "chat", "status": "429", "outcome": "refused"}
    assert seen.growth("llmproxy_requests_total", **labels) == 1
    assert seen.growth("llmproxy_refusals_total", code="rate_limit_exceeded") == 1


@pytest.mark.parametrize(
    ("changes", "label", "shown"),
    [
        ({"project_id": None}, "project", "none"),
        ({"endpoint": "/v1/whatever/else"}, "endpoint", "other"),
        ({"status_code": 499}, "status", "499"),
        ({"status_code": 599}, "status", "5xx"),
        ({"status_code": 777}, "status", "7xx"),
    ],
)
def test_what_is_not_known_has_a_common_name(changes: dict[str, Any], label: str, shown: str) -> None:
    seen = Seen()
    end(**changes)

    assert seen.names("llmproxy_requests_total", label) == {shown}


def test_projects_beyond_the_cap_are_counted_as_one() -> None:
    seen = Seen()
    for number in range(6):
        end(project_id=f"project {number}")

    expected = {"project 0", "project 1", "project 2", "other"}
    assert seen.names("llmproxy_requests_total", "project") == expected
    assert seen.growth("llmproxy_requests_total", project="other") == 3


def test_models_that_an_upstream_makes_up_are_counted_as_one() -> None:
    seen = Seen()
    for number in range(6):
        metadata = {"model": f"model {number}" + "x" * 1000, "prompt_tokens": 2, "completion_tokens": 3}
        end(metadata=metadata, usage_source="reported")

    assert len(seen.names("llmproxy_usage_tokens_total", "model")) == 4
    assert max(map(len, seen.names("llmproxy_usage_tokens_total", "model"))) == metrics.MODEL_CHARS
    assert seen.growth("llmproxy_usage_tokens_total", kind="prompt") == 12
    assert seen.growth("llmproxy_usage_tokens_total", model="other", kind="completion") == 9


@pytest.mark.parametrize(
    ("status", "named", "model"),
    [(200, "named", "named"), (200, None, "asked for"), (400, None, "none"), (None, None, "none")],
)
def test_usage_counts_under_the_model_that_was_asked_for_where_it_was_served(
    status: int | None, named: str | None, model: str
) -> None:
    used = {"prompt_tokens": 7} | ({"model": named} if named else {})
    seen = Seen()
    end(metadata=used, usage_source="reported", requested_model="asked for", upstream_status=status)

    assert seen.names("llmproxy_usage_tokens_total", "model") == {model}


@pytest.mark.parametrize("amount", [None, "5", -5, 0, True, 5.5, {}])
def test_tokens_that_are_no_number_are_not_counted(amount: object) -> None:
    seen = Seen()
    end(metadata={"model": "m", "prompt_tokens": amount}, usage_source="reported")

    assert seen.growth("llmproxy_usage_tokens_total") == 0


def test_a_refusal_is_not_in_the_durations() -> None:
    seen = Seen()
    end(outcome="refused")
    end(duration_ms=2000.0, ttft_ms=1000.0)

    assert seen.growth("llmproxy_request_duration_seconds_count", endpoint="chat") == 1
    assert seen.growth("llmproxy_request_duration_seconds_sum") == pytest.approx(2.0)
    assert seen.growth("llmproxy_first_byte_seconds_sum") == pytest.approx(1.0)


def test_lost_records_only_grow() -> None:
    seen = Seen()
    for lost in (metrics._lost_so_far, metrics._lost_so_far + 4, metrics._lost_so_far + 4):
        metrics.look_at_log(pending=3, lost=lost)

    assert seen.growth("llmproxy_log_lost_records_total") == 4
    assert total(metrics.exposition().decode(), "llmproxy_log_pending_records") == 3


def test_calls_under_way_are_counted_by_project_and_streams_by_kind() -> None:
    kinds = [(True, False, "a project"), (True, False, "a project"), (False, True, "another"), (False, False, None)]
    calls = [SimpleNamespace(is_stream=one, is_session=two, project_id=project) for one, two, project in kinds]
    metrics.look_at_calls(calls)

    text = metrics.exposition().decode()
    assert total(text, "llmproxy_requests_in_flight") == 4
    assert total(text, "llmproxy_open_streams", kind="sse") == 2
    assert total(text, "llmproxy_open_streams", kind="websocket") == 1
    assert total(text, "llmproxy_project_requests_in_flight", project="a project") == 2
    metrics.look_at_calls(calls[1:])
    assert standing.calls_of("a project") == 1
    metrics.look_at_calls([])
    assert (standing.calls_of("a project"), standing.calls_of("nobody's")) == (0, 0)


def test_a_call_that_failed_inside_is_counted_apart() -> None:
    seen = Seen()
    end(project_id="a project", failed_inside=True)
    end(project_id="a project")

    assert seen.growth("llmproxy_failed_inside_total", project="a project", endpoint="chat") == 1


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({"usage_source": "partial"}, 7),
        ({"usage_source": "stored"}, 0),
        ({"usage_source": "reported", "usage_of": "resp_1"}, 0),
        ({"usage_source": "absent"}, 0),
    ],
)
def test_only_usage_of_the_call_s_own_is_counted_at_its_end(changes: dict[str, Any], counted: int) -> None:
    seen = Seen()
    end(metadata={"model": "m", "prompt_tokens": 7}, **changes)

    assert seen.growth("llmproxy_usage_tokens_total") == counted


def test_the_text_is_made_once_in_a_second():
    clock, looks = [100.0], []
    exposition = metrics.Exposition(lambda: clock[0])
    first = exposition.text(lambda: looks.append(1))
    metrics.SIGN_IN_FAILURES.labels("admin").inc()

    clock[0] += 0.99
    assert exposition.text(lambda: looks.append(2)) == first
    clock[0] += 0.01
    assert exposition.text(lambda: looks.append(3)) != first
    assert looks == [1, 3]
