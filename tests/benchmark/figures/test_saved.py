"""A saved run beside one of today."""

import json

import pytest

from benchmark.figures.saved import compared, read_saved
from benchmark.refused import Refused

PROMISED = {
    "base_url": "http://host", "endpoint": "/v1/x", "requests": 100, "concurrency": 10, "total_duration_ms": 1500,
    "average_latency_ms": 15.0, "p50_latency_ms": 14.5, "p90_latency_ms": 20.0, "p99_latency_ms": 25.0,
    "throughput_rps": 66.67, "error_rate": 0.02, "errors": 2,
}  # fmt: skip
SETUP = {"payload": {"sha256": "1"}, "version": "0.1.0", "machine": {"cores": 2}}


def save(tmp_path, figures) -> str:
    (tmp_path / "saved.json").write_text(json.dumps(figures))
    return str(tmp_path / "saved.json")


def test_the_twelve_promised_keys_are_enough(tmp_path):
    saved = read_saved(save(tmp_path, PROMISED))
    now = PROMISED | {"p50_latency_ms": 29.0, "p99_latency_ms": None}
    other = compared(now, saved, SETUP, is_swept=False)["compare"]

    assert other["difference"] == {
        "average_latency_ms": {
            "first": 15.0, "second": 15.0, "difference_ms": 0.0, "difference_interval_ms": None, "ratio": 1.0,
            "ratio_interval": None,
        },
        "p50_latency_ms": {
            "first": 29.0, "second": 14.5, "difference_ms": 14.5, "difference_interval_ms": None, "ratio": 2.0,
            "ratio_interval": None,
        },
        "p99_latency_ms": None,
    }  # fmt: skip
    assert other["p90_latency_ms"] == 20.0 and other["saved"].endswith("saved.json")


@pytest.mark.parametrize(
    ("changes", "setup", "said"),
    [
        ({}, SETUP, []),
        ({"concurrency": 5}, SETUP, ["concurrency 10 (was 5)"]),
        ({"endpoint": "/v1/y", "rate_rps": 2.0}, SETUP, ["endpoint /v1/x (was /v1/y)", "rate_rps None (was 2.0)"]),
        ({}, SETUP | {"payload": {"sha256": "2"}, "machine": {"cores": 4}}, ["payload", "machine"]),
        ({}, SETUP | {"version": "0.0.9"}, ["version"]),
        ({}, None, ["payload, version and machine of then are unknown"]),
    ],
)
def test_what_was_not_the_same_is_said(tmp_path, changes, setup, said):
    saved = read_saved(save(tmp_path, PROMISED | changes | {"setup": setup}))
    now = {"method": "POST"} | PROMISED

    assert compared(now, saved, SETUP, is_swept=False)["compare"]["differs_in"] == said


def test_levels_of_a_sweep_meet_their_like_and_others_nobody(tmp_path):
    levels = [PROMISED | {"concurrency": users, "p50_latency_ms": float(users)} for users in (1, 2)]
    saved = read_saved(save(tmp_path, levels[-1] | {"sweep": levels}))

    met = [compared(PROMISED | {"concurrency": users}, saved, SETUP, is_swept=True) for users in (1, 2, 4)]
    assert [one and one["compare"]["p50_latency_ms"] for one in met] == [1.0, 2.0, {}]


def test_a_rate_is_the_level_whatever_the_users(tmp_path):
    levels = [PROMISED | {"rate_rps": rate, "concurrency": 256} for rate in (10.0, 20.0)]
    saved = read_saved(save(tmp_path, levels[-1] | {"sweep": levels}))

    assert compared(PROMISED | {"rate_rps": 10.0}, saved, SETUP, is_swept=True)["compare"]["rate_rps"] == 10.0


@pytest.mark.parametrize(
    "figures",
    [[], {}, "text", {"errors": 5}, PROMISED | {"requests": "100"}, PROMISED | {"errors": None},
     PROMISED | {"sweep": [{}]}, PROMISED | {"p50_latency_ms": True}],
)  # fmt: skip
def test_what_is_no_saved_run_is_refused(tmp_path, figures):
    with pytest.raises(Refused, match="holds no figures"):
        read_saved(save(tmp_path, figures))


def test_what_is_neither_a_file_nor_a_url_is_refused():
    with pytest.raises(Refused, match="neither a URL nor a file"):
        read_saved("no/such/file.json")
