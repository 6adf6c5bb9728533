"""What a stage tells Prometheus, through the metrics that Ray's nodes export.

    ray_raycurate_units_total          units of work done (tag unit: rows, steps, answers, ...)
    ray_raycurate_quarantined_total    rejected rows (tag reason)
    ray_raycurate_units_per_second     rate of this attempt
    ray_raycurate_units_left
    ray_raycurate_<name>               what a stage measures on its way: kmeans_objective, loss, tokens_per_second

All carry the tags run (its id), stage and label. The driver alone counts, where it also counts for its progress line:
when work is committed. A resumed stage counts its own attempt; the totals of all attempts are in the manifest.
Every node offers them at its metrics port, and Ray lists the ports in `prom_metrics_service_discovery.json` in the
folder of its session, for Prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.util.metrics import Counter, Gauge

TAGS = ("run", "stage", "label")
PREFIX = "raycurate"


class Meters:
    """The metrics of one attempt of one stage. Without a connected cluster nothing is counted."""

    def __init__(self, run: str, stage: str, label: str, unit: str) -> None:
        # Ray takes ASCII only.
        self._tags = {"run": run, "stage": stage, "label": label.encode("ascii", "backslashreplace").decode()}
        self._unit = {**self._tags, "unit": unit}
        self._done = Counter(f"{PREFIX}_units", "Units of work done", tag_keys=(*TAGS, "unit"))
        self._rejected = Counter(f"{PREFIX}_quarantined", "Rejected rows by reason", tag_keys=(*TAGS, "reason"))
        self._rate = Gauge(f"{PREFIX}_units_per_second", "Rate of this attempt", tag_keys=(*TAGS, "unit"))
        self._left = Gauge(f"{PREFIX}_units_left", "Units of work still to do", tag_keys=(*TAGS, "unit"))
        self._measured: dict[str, Gauge] = {}

    def work(self, count: int, rate: float, left: int) -> None:
        """Count finished units; none where a stage went back to an earlier state."""
        if ray.is_initialized():
            if count > 0:
                self._done.inc(count, self._unit)
            self._rate.set(rate, self._unit)
            self._left.set(left, self._unit)

    def quarantined(self, reasons: Mapping[str, int]) -> None:
        """Count rejected rows."""
        if ray.is_initialized():
            for reason, count in reasons.items():
                self._rejected.inc(count, {**self._tags, "reason": reason})

    def measure(self, name: str, value: float) -> None:
        """Set a gauge by its name."""
        if ray.is_initialized():
            if name not in self._measured:
                self._measured[name] = Gauge(f"{PREFIX}_{name}", f"{name} of a stage", tag_keys=TAGS)
            self._measured[name].set(value, self._tags)
