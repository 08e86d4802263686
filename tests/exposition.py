"""Reads what /metrics says, as Prometheus would."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def samples(text: str) -> Iterator[Sample]:
    """Every number of an exposition with its name and labels."""
    for family in text_string_to_metric_families(text):
        yield from family.samples


def total(text: str, name: str, **labels: str) -> float:
    """The sum over the series of this name that have these labels among theirs; 0 where there is none."""
    wanted = labels.items()
    return sum(sample.value for sample in samples(text) if sample.name == name and wanted <= sample.labels.items())
