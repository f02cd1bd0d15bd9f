"""The Prometheus text format 0.0.4: families of samples to lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, TypeAlias

PREFIX = "bgproxy_"
# Seconds. From the half millisecond of a small local answer to the slowest request anybody waits for.
EDGES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Labels: TypeAlias = Mapping[str, str]
Sample: TypeAlias = tuple[Labels, float]


def gauge(name: str, about: str, samples: Iterable[Sample]) -> list[str]:
    return [*_head(name, about, "gauge"), *(_line(name, labels, value) for labels, value in samples)]


def counter(name: str, about: str, samples: Iterable[Sample]) -> list[str]:
    return [*_head(name, about, "counter"), *(_line(name, labels, value) for labels, value in samples)]


def histogram(name: str, about: str, rows: Iterable[tuple[Labels, Sequence[int], float]]) -> list[str]:
    """Each row: labels, counts per edge of EDGES_S and one for what is above, the sum of all observations."""
    lines = _head(name, about, "histogram")
    for labels, counts, total_s in rows:
        running = list(accumulate(counts))
        for edge, count in zip([*map(_number, EDGES_S), "+Inf"], running, strict=True):
            lines.append(_line(f"{name}_bucket", {**labels, "le": edge}, count))
        lines.append(_line(f"{name}_sum", labels, total_s))
        lines.append(_line(f"{name}_count", labels, running[-1]))
    return lines


def place(value_s: float) -> int:
    """The index of the first edge that is not below the value."""
    return next((i for i, edge in enumerate(EDGES_S) if value_s <= edge), len(EDGES_S))


def _head(name: str, about: str, kind: Literal["gauge", "counter", "histogram"]) -> list[str]:
    return [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{PREFIX}{name}{{{inside}}} {_number(value)}" if inside else f"{PREFIX}{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
