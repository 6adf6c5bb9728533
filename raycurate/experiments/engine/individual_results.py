"""What Individual Select writes.

decisions.csv  one line per candidate: rows, share in the baseline, gain, the decision and its reason, benchmarks
curve.csv      one line per step: datasets, score, gain, the sum of the single gains, their difference
soups.csv      one line per soup of models, where asked
results.json   all of it, with the settings
report.md      for people
figures/       gains, deltas, curve
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raycurate.balancing.individual_select import Baseline, CurveStep, Decision
from raycurate.experiments.engine.candidates import Dataset
from raycurate.experiments.engine.figures import write_figures
from raycurate.experiments.engine.individual_config import IndividualSelectConfig
from raycurate.experiments.engine.results import Row
from raycurate.experiments.engine.tables import to_markdown, write_table
from raycurate.run.store import Noun

MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """A decision, the baseline that it was made against, and the datasets that had joined that."""

    decision: Decision
    baseline: Baseline
    joined: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A step of the curve: its mean score and the gain over the baseline."""

    step: CurveStep
    mean: float
    gain: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was measured; `rows` are the baseline's, `soups` one row each."""

    config: IndividualSelectConfig
    rows: int
    baseline: Baseline
    datasets: Mapping[str, Dataset]
    trials: Sequence[Trial]
    points: Sequence[Point]
    soups: Sequence[Row]


def write_outcome(noun: Noun, outcome: Outcome) -> None:
    """Write all tables and figures."""
    decisions, points = decision_rows(outcome), curve_rows(outcome)
    base = outcome.baseline
    value = {
        "config": outcome.config.determining(),
        "baseline": {
            "rows": outcome.rows,
            "mean": base.mean,
            "sd": base.sd,
            "seeds": base.seeds,
            "benchmarks": dict(base.benchmarks),
        },
        "decisions": decisions,
        "curve": points,
        "soups": list(outcome.soups),
    }
    noun.write_json("results.json", value, sort_keys=False)
    write_table(noun, "decisions", decisions)
    write_table(noun, "curve", points)
    if outcome.soups:
        write_table(noun, "soups", outcome.soups)
    noun.write_bytes("report.md", report(outcome).encode())
    write_figures(noun, value)


def decision_rows(outcome: Outcome) -> list[Row]:
    """One row per candidate, in the order of the decisions."""
    rows = []
    for trial in outcome.trials:
        d, against = trial.decision, trial.baseline
        dataset = outcome.datasets[d.candidate.name]
        row: Row = {
            "dataset": dataset.name,
            "category": dataset.category,
            "rows": dataset.rows,
            "in_baseline": dataset.in_baseline,
            "mean": d.mean,
            "gain": d.gain,
            "gain_sds": d.gain / against.sd if against.sd > 0 else None,
            "chosen": d.chosen,
            "reason": reason_of(trial, dataset),
            "baseline": against.mean,
            "baseline_sd": against.sd,
            "joined": " ".join(trial.joined),
        }
        row |= {f"delta {name}": value for name, value in d.deltas.items()}
        row |= {name: d.candidate.scores[name] for name in d.deltas}
        rows.append(row)
    return rows


def reason_of(trial: Trial, dataset: Dataset) -> str:
    """The rule's reason, what moved most, and whether the rows are the baseline's own."""
    deltas = trial.decision.deltas
    best, worst = max(deltas, key=lambda name: deltas[name]), min(deltas, key=lambda name: deltas[name])
    parts = [trial.decision.reason, f"most up: {best} {deltas[best]:+.1f}", f"most down: {worst} {deltas[worst]:+.1f}"]
    if dataset.in_baseline > MOSTLY:
        parts.append(f"{dataset.in_baseline:.0%} of its rows are in the baseline already")
    return "; ".join(parts)


def curve_rows(outcome: Outcome) -> list[Row]:
    """The baseline, then one row per step; `interaction` is the gain beyond the sum of the single gains."""
    start: Row = {
        "category": "",
        "added": "",
        "datasets": "",
        "rows": outcome.rows,
        "score": outcome.baseline.mean,
        "gain": 0.0,
        "summed_gain": 0.0,
        "interaction": 0.0,
    }
    rows = [start]
    for point in outcome.points:
        step = point.step
        row: Row = {
            "category": step.category,
            "added": " ".join(step.added),
            "datasets": " ".join(step.datasets),
            "rows": outcome.rows + sum(outcome.datasets[name].rows for name in step.datasets),
            "score": point.mean,
            "gain": point.gain,
            "summed_gain": step.summed_gain,
            "interaction": point.gain - step.summed_gain,
        }
        rows.append(row)
    return rows


def report(outcome: Outcome) -> str:
    """The decision table with the reasons, the curve and the soups, as Markdown."""
    config, base = outcome.config, outcome.baseline
    shown = ("dataset", "category", "rows", "in_baseline", "mean", "gain", "gain_sds", "chosen", "reason")
    drop = "any" if config.largest_drop is None else f"at most {config.largest_drop:g} points"
    top = "all" if config.top is None else f"the best {config.top}"
    if config.mode == "sequential" and config.top is not None:
        top = f"the first {config.top}"
    text = (
        f"# Individual Select, {config.mode}\n\n"
        f"Baseline: {outcome.rows:,} rows, mean of {len(base.benchmarks)} benchmarks {base.mean:.2f} of 100, "
        f"sd {base.sd:.3f} over {base.seeds} seeds. Each candidate: {config.candidate_seeds} training(s).\n\n"
        f"Rule: gain above {config.threshold_sds:g} sd; drop of a benchmark: {drop}; of a category: {top}. The rule's "
        "numbers are settings, those of the paper are not known. With two or three seeds the sd is rough.\n\n"
        f"{to_markdown([{name: row[name] for name in shown} for row in decision_rows(outcome)])}"
    )
    if outcome.points:
        text += f"\n## Added category by category\n\n{to_markdown(curve_rows(outcome))}"
    else:
        text += "\nNo candidate was chosen.\n"
    if outcome.soups:
        text += f"\n## Averages of the candidates' models\n\n{to_markdown(outcome.soups)}"
    return text
