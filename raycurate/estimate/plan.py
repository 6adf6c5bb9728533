"""A recipe's sections, or one stage, as estimates: which rows and model each has, its work, its seconds, its money.

Sections are taken in their order: what one makes (rows kept, width of features, number of clusters) the next ones use.
A stage of which something is not known has no seconds, and says why. Costs: a model's configuration and processor once
for each model and set of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raycurate.errors import UserError
from raycurate.estimate.contrastive import clip_work, read_towers
from raycurate.estimate.formulas import (
    EMBEDDINGS,
    cluster_work,
    dimension_of,
    export_work,
    extract_work,
    ingest_work,
    loading_work,
    rank_work,
    score_work,
    table_work,
)
from raycurate.estimate.geometry import Geometry, read_geometry
from raycurate.estimate.places import Cluster, price_of
from raycurate.estimate.rates import Rates
from raycurate.estimate.source import Source, read_source
from raycurate.estimate.stage_estimate import Estimate
from raycurate.estimate.tokens import Tokens, read_tokens
from raycurate.estimate.training import evaluate_work, finetune_work, trainings_of
from raycurate.estimate.work import LOADERS, TASKS, Work, time_of
from raycurate.settings import make_config


@dataclass(slots=True)
class Planner:
    """Makes estimates of stages one after the other, and remembers what each makes.

    Attributes:
        cluster: where they run.
        rates: of it.
        prices: of a node-hour, by group or machine.
        on_store: the run directory lies in an object store.
        sources: facts of samples by label.
        features: rows and width by label.
        clusters: number by label.
        kept: rows of selections by label.
        trained: what each of the run's models is trained from, by label.
        processes: kinds that the session has from the stages so far, which are taken to be of one session.
    """

    cluster: Cluster
    rates: Rates
    prices: Mapping[str, float] = field(default_factory=dict)
    on_store: bool = False
    sources: dict[str, Source] = field(default_factory=dict)
    features: dict[str, tuple[int, int]] = field(default_factory=dict)
    clusters: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    processes: set[str] = field(default_factory=set)
    _models: dict[str, tuple[Geometry, Any, str]] = field(default_factory=dict)
    _tokens: dict[tuple[str, str], Tokens] = field(default_factory=dict)

    def estimate(self, section: str, stage: str, config: Any) -> Estimate:
        """The estimate of a stage with its settings."""
        label = str(getattr(config, "label", ""))
        maker = _MAKERS.get(stage, _trainings)
        try:
            work = maker(self, stage, config)
        except UserError as error:
            return Estimate(stage=section, label=label, notes=(str(error),))
        taken = time_of(work.without(self.processes), self.cluster, self.rates, on_store=self.on_store)
        self.processes |= work.keeps
        return Estimate(
            stage=section,
            label=label,
            rows=work.rows,
            seconds=taken.seconds,
            parts=taken.parts,
            disk_bytes=work.disk_bytes,
            memory_bytes=work.memory_bytes,
            requests=work.requests,
            traffic_bytes=work.read_bytes + work.write_bytes,
            nodes=taken.nodes,
            cost=self._cost(taken.seconds, taken.nodes),
            notes=taken.notes,
        )

    def standing_cost(self, seconds: float) -> float | None:
        """Of the nodes that are there from the start, for the whole time; None where a price is missing."""
        found = [(group, price_of(group, self.prices)) for group in self.cluster.groups if group.standing]
        if not self.prices or any(price is None for _, price in found):
            return None
        return sum(group.standing * (price or 0.0) * seconds / 3600 for group, price in found)

    def cost(self, estimates: list[Estimate]) -> float | None:
        """Of a whole run: standing nodes all the time, others while they work; None where a price is missing."""
        seconds = sum(each.seconds or 0.0 for each in estimates)
        total = self.standing_cost(seconds)
        if total is None:
            return None
        groups = {group.name: group for group in self.cluster.groups}
        for each in estimates:
            for name, nodes in each.nodes.items():
                price = price_of(groups[name], self.prices)
                if price is None:
                    return None
                total += max(0, nodes - groups[name].standing) * price * (each.seconds or 0.0) / 3600
        return total

    def _cost(self, seconds: float, nodes: Mapping[str, int]) -> float | None:
        groups = {group.name: group for group in self.cluster.groups}
        prices = {name: price_of(groups[name], self.prices) for name in nodes}
        if any(price is None for price in prices.values()):
            return None
        return sum(count * (prices[name] or 0.0) for name, count in nodes.items()) * seconds / 3600

    def source(self, label: str) -> Source:
        """The samples of a label. Raises `UserError` where nothing makes them."""
        if label not in self.sources:
            raise UserError(f"there are no samples '{label}' whose size is known")
        return self.sources[label]

    def model(self, name: str, label: str, trust_remote_code: bool = False) -> tuple[Geometry, Tokens, str]:
        """A model's geometry, what it makes of some samples, and a note."""
        if name not in self._models:
            self._models[name] = read_geometry(name, trust_remote_code=trust_remote_code)
        geometry, config, note = self._models[name]
        key = (name, label)
        if key not in self._tokens:
            self._tokens[key] = read_tokens(name, config, self.source(label), trust_remote_code=trust_remote_code)
        return geometry, self._tokens[key], note

    def rows_by_clip(self, config: Any) -> Work:
        """The work of a `ScoreConfig`'s CLIP scores: rows are read for them alone."""
        if config.clip is None:
            raise UserError("the score 'clip' needs a CLIP or SigLIP model: --clip")
        source, towers = self.source(config.samples), read_towers(config.clip)
        self.features["clip"] = (source.rows, 2 * towers.width)
        side = Tokens(0, 0, 0, 0, towers.patches, 1, 0, "the configuration")
        loading = loading_work(source.rows, source, side, self.rates)
        return loading.plus(clip_work(source, towers, clip_rows=config.clip_rows, most_cards=config.max_actors))

    def on_card(self, use: str) -> bool:
        """Whether stages of this use have cards here."""
        return self.cluster.for_cards(use) is not None


def _ingest(plan: Planner, _: str, config: Any) -> Work:
    if config.label not in plan.sources:
        plan.sources[config.label] = read_source(config)
    source = plan.sources[config.label]
    work = ingest_work(source, plan.rates, check_images=config.check_images, rows_per_shard=config.rows_per_shard)
    return work.plus(Work(rows=0, notes=source.notes))


def layers_of(geometry: Geometry, config: Any) -> tuple[int, ...]:
    """The layers that `extract` takes features of."""
    from raycurate.models.adapter import auto_layers

    if config.variant == "last_layer":
        return (geometry.layers - 1,)
    return auto_layers(geometry.layers) if config.layers == "auto" else tuple(config.layers)


def _extract(plan: Planner, _: str, config: Any) -> Work:
    source = plan.source(config.samples)
    geometry, tokens, note = plan.model(config.model, config.samples, config.trust_remote_code)
    layers = layers_of(geometry, config)
    plan.features[config.label] = (source.rows, dimension_of(geometry, layers, config.variant))
    work = extract_work(
        source,
        tokens,
        geometry,
        plan.rates,
        layers=layers,
        variant=config.variant,
        batch_tokens=config.batch_tokens,
        most_cards=config.max_actors,
    )
    return work.plus(Work(rows=0, notes=_notes(note, tokens)))


def _notes(note: str, tokens: Tokens) -> tuple[str, ...]:
    told = () if tokens.told_by == "the processor" else (f"tokens by {tokens.told_by}: no processor can be loaded",)
    return (*((note,) if note else ()), *told)


def _score(plan: Planner, _: str, config: Any) -> Work:
    source = plan.source(config.samples)
    if config.given is not None:
        return table_work(source.rows, plan.rates)
    both = plan.rows_by_clip(config) if "clip" in config.scores else None
    if both is not None and config.scores == ("clip",):
        return both
    geometry, tokens, note = plan.model(config.model, config.samples, config.trust_remote_code)
    for name in set(config.scores) & set(EMBEDDINGS):
        plan.features[name] = (source.rows, geometry.width)
    work = score_work(source, tokens, geometry, plan.rates, config).plus(Work(rows=0, notes=_notes(note, tokens)))
    return work if both is None else both.plus(work)


def _cluster(plan: Planner, _: str, config: Any) -> Work:
    if config.features not in plan.features:
        raise UserError(f"the width of features '{config.features}' is not known: no stage here makes them")
    from raycurate.clustering.guards import check_counts

    rows, dim = plan.features[config.features]
    check_counts(config.clusters, min(rows, config.fit_sample or rows))
    plan.clusters[config.label] = config.clusters
    group = plan.cluster.for_cards("extract")
    able = group.cards * group.most if group is not None else max(1, int(plan.cluster.for_cores().cores) // 2)
    return cluster_work(
        rows,
        dim,
        config.clusters,
        plan.rates,
        iterations=config.iterations,
        workers=min(config.workers or able, able),
        project=config.project,
        fit_sample=config.fit_sample,
    )


def _rank(plan: Planner, _: str, config: Any) -> Work:
    if config.features not in plan.features or config.clusters not in plan.clusters:
        raise UserError(f"features '{config.features}' or clusters '{config.clusters}' are not known here")
    rows, dim = plan.features[config.features]
    clusters, bucket = plan.clusters[config.clusters], config.bucket_mb << 20
    return rank_work(rows, dim, clusters, plan.rates, max_rows=config.max_rows, bucket_bytes=bucket)


def _select(plan: Planner, _: str, config: Any) -> Work:
    rows = plan.source(config.samples).rows
    plan.kept[config.label] = round(config.ratio * rows)
    return table_work(rows, plan.rates)


def _export(plan: Planner, _: str, config: Any) -> Work:
    source = plan.source(config.samples or "main")
    kept = plan.kept.get(config.selection, source.rows)
    return export_work(source, kept, plan.rates, embeds=config.format == "parquet" and config.embed_images)


def _cleaning(plan: Planner, _: str, config: Any) -> Work:
    source = plan.source(getattr(config, "samples", "main"))
    images = source.distinct * source.rows * (plan.rates.image_seconds + source.pixels / plan.rates.load_pixels)
    tables = table_work(source.rows, plan.rates, passes=6.0)
    read = source.distinct * source.rows * source.image_bytes
    return tables.plus(Work(rows=0, core_seconds=images, read_bytes=read, task_starts=1.0))


def _finetune(plan: Planner, _: str, config: Any) -> Work:
    plan.trained[config.label] = config.model
    if config.mixture is not None:
        raise UserError("rows of a mixture are not estimated")
    source = plan.source(config.samples)
    rows = float(source.rows) if config.selection is None else float(plan.kept.get(config.selection, source.rows))
    return _training(plan, config, min(rows, config.limit or rows), config.samples)


def _training(plan: Planner, config: Any, rows: float, label: str) -> Work:
    geometry, tokens, note = plan.model(config.model, label, config.trust_remote_code)
    source = plan.source(label)
    work = finetune_work(rows, source, tokens, geometry, plan.rates, config, on_card=plan.on_card("finetune"))
    return work.plus(Work(rows=0, notes=_notes(note, tokens)))


def _evaluate(plan: Planner, _: str, config: Any) -> Work:
    if config.command is not None:
        raise UserError("an external evaluator is not estimated")
    rows = plan.source(config.data).rows
    return _answering(plan, config, float(min(rows, config.max_rows or rows)), config.data, config.model)


def _answering(plan: Planner, config: Any, rows: float, label: str, model: str) -> Work:
    if model.startswith("models/"):
        if (label_of := model.split("/")[1]) not in plan.trained:
            raise UserError(f"what the model {model} is trained from is not known here")
        model = plan.trained[label_of]
    geometry, tokens, note = plan.model(model, label, config.trust_remote_code)
    source, on_card = plan.source(label), plan.on_card("extract")
    work = evaluate_work(rows, source, tokens, geometry, plan.rates, config, on_card=on_card)
    return work.plus(Work(rows=0, notes=_notes(note, tokens)))


def _trainings(plan: Planner, stage: str, config: Any) -> Work:
    """An experiment: its trainings, each scored, one after the other on the whole cluster."""
    from raycurate.training.config import FinetuneConfig

    samples = getattr(config, "samples", "main")
    source = plan.source(samples)
    tested = {label: each.rows for label, each in plan.sources.items()}
    found = trainings_of(stage, config, source.rows, max(1, len(source.tasks)), tested)
    if found is None:
        raise UserError(f"`{stage}` is not estimated")
    finetune = make_config(FinetuneConfig, config.finetune or {}, "finetune")
    in_trials = stage != "compare" and finetune.workers == 1 and finetune.deepspeed is None
    total = Work(rows=0, starts=float(in_trials))  # their processes do one trial after the other
    for each in found:
        one = training_work(plan, config, finetune, each.rows, each.tested, samples)
        one = replace(one.without((LOADERS, TASKS)), starts=0.0) if in_trials else one
        total = total.plus(one.times(each.count))
    if stage in ("compare", "sweep", "choose"):
        total = total.plus(table_work(source.rows, plan.rates, passes=2.0).times(sum(each.count for each in found)))
    return total


def training_work(plan: Planner, config: Any, finetune: Any, rows: float, tested: float, samples: str) -> Work:
    """One training of an experiment and its answers."""
    from raycurate.evaluation.config import EvaluateConfig

    work = _training(plan, finetune, rows, samples)
    given = dict(config.evaluate)
    label = getattr(config, "data", None) or getattr(config, "validation", None)
    if tested and label is not None and "command" not in given:
        own = make_config(EvaluateConfig, {**given, "model": finetune.model, "data": label}, "evaluate")
        work = work.plus(_answering(plan, own, tested, label, finetune.model))
    return work


_Maker = Callable[[Planner, str, Any], Work]
_MAKERS: Mapping[str, _Maker] = {
    "ingest": _ingest,
    "extract": _extract,
    "score": _score,
    "cluster": _cluster,
    "dedup": _cleaning,
    "decontaminate": _cleaning,
    "rank": _rank,
    "select": _select,
    "export": _export,
    "finetune": _finetune,
    "evaluate": _evaluate,
}
