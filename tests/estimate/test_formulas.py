"""Work and seconds of stages against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raycurate.config import IngestConfig, RankConfig
from raycurate.estimate.formulas import PADDING, cluster_work, extract_work, ingest_work, rank_work, table_work
from raycurate.estimate.places import this_machine
from raycurate.estimate.plan import Planner
from raycurate.estimate.rates import CARDS
from raycurate.estimate.training import Training, evaluate_work, finetune_work, trainings_of
from raycurate.estimate.work import Work, time_of
from raycurate.evaluation.config import CompareConfig, EvaluateConfig
from raycurate.experiments.engine.choose_config import ChooseConfig
from raycurate.experiments.engine.config import SweepConfig
from raycurate.experiments.engine.weights_config import BalanceProbesConfig
from raycurate.training.config import FinetuneConfig
from tests.estimate.facts import MODEL, RATES, SOURCE, TOKENS


def test_cores_share_the_work_and_files_come_after_it():
    work = Work(
        rows=1,
        core_seconds=8,
        network_flop=2e6,
        training_flop=4e6,
        network_bytes=4e6,
        product_flop=4e6,
        read_bytes=5e6,
        starts=1,
    )
    taken = time_of(work, this_machine(4), RATES)
    assert taken.parts == {"starting": 3.0, "devices": 0.0, "cores": 5.0, "serial": 0.0, "files": 5.0}
    assert taken.seconds == 13.0


def test_a_card_hides_the_work_of_cores_behind_its_own():
    work = Work(
        rows=1,
        core_seconds=8,
        network_flop=989e12 * RATES.peak_part * 4,
        training_flop=989e12 * RATES.peak_part * 3,
        use="extract",
    )
    taken = time_of(work, this_machine(4, 1, CARDS["H100"]), RATES)
    assert taken.parts["devices"] == pytest.approx(7.0)
    assert taken.seconds == pytest.approx(7.0)


def test_requests_bound_a_stage_on_an_object_store():
    work = Work(rows=1, read_bytes=1e6, requests=16_000)
    assert time_of(work, this_machine(1), RATES, on_store=True).seconds == pytest.approx(1000 * RATES.store_seconds)


def test_what_does_not_fit_a_card_is_told():
    work = Work(rows=1, memory_bytes=100e9, use="extract")
    assert "100 GB do not fit H100" in time_of(work, this_machine(4, 1, CARDS["H100"]), RATES).notes[0]


def test_times_multiplies_work_and_not_memory():
    twice = Work(rows=3, core_seconds=2, memory_bytes=7, starts=1).times(2)
    assert (twice.rows, twice.core_seconds, twice.memory_bytes, twice.starts) == (6, 4, 7, 2)


def test_extraction_runs_the_tower_once_for_each_distinct_image():
    work = extract_work(SOURCE, TOKENS, MODEL, RATES, layers=(1, 2))
    decoder = 2 * 30 * (3 * 1000 - 600) + 4 * 1000 * 10 * 3
    tower = 2 * (2 * 16 * 500 + 4 * 16 * 16 * 8) + 2 * 16 * 100 + 2 * 16 * 80
    assert work.network_flop == pytest.approx(1000 * PADDING * decoder + 500 * tower)
    assert work.disk_bytes == 2 * (2 * 2 * 10) * 1000


def test_clustering_multiplies_in_every_iteration_and_once_more():
    work = cluster_work(1000, 64, 10, RATES, iterations=5, workers=2)
    assert work.product_flop == 6 * 2 * 1000 * 64 * 10
    assert work.memory_bytes == 2 * 1000 * 64 / 2 + 20 * 10 * 64


def test_a_sample_and_a_projection_make_clustering_smaller():
    work = cluster_work(1000, 64, 10, RATES, iterations=5, workers=1, project=8, fit_sample=100)
    assert work.product_flop == 2 * 8 * 10 * (5 * 100 + 1000) + 2 * 64 * 8 * 1100


def test_ranking_reads_every_feature_row_twice_and_writes_it_once():
    work = rank_work(1000, 64, 10, RATES)
    assert work.read_bytes == 4 * 1000 * 64
    assert work.write_bytes == 2 * 1000 * 64 + 120 * 1000


def test_cores_share_the_buckets_of_a_ranking_and_one_bucket_is_ordered_by_one():
    alone, shared = (rank_work(1000, 64, 10, RATES, bucket_bytes=size) for size in (1 << 20, 64 << 10))
    assert alone.serial_seconds == pytest.approx(2 * shared.serial_seconds)
    assert sum((alone.serial_seconds, alone.core_seconds)) == pytest.approx(shared.serial_seconds + shared.core_seconds)


def test_a_small_table_takes_the_opening_of_its_parts():
    one, two = (table_work(rows, replace(RATES, table_row_seconds=1e-12, part_seconds=0.5)) for rows in (2048, 2049))
    assert (one.core_seconds, two.core_seconds) == pytest.approx((1.5, 3.0))


def test_small_images_are_checked_in_the_seconds_of_one_and_no_less():
    rates = replace(RATES, check_image_seconds=2.0, check_pixels=1e12)
    checked, not_checked = (ingest_work(SOURCE, rates, check_images=on, rows_per_shard=100) for on in (True, False))
    assert checked.core_seconds - not_checked.core_seconds == pytest.approx(2.0 * 500)


def test_a_session_keeps_its_processes_for_later_stages():
    """Tasks of a ranking after an ingest find theirs; so do the loaders of a second pool, whose actors are new."""
    plan = Planner(this_machine(2), RATES, sources={"main": SOURCE, "test": SOURCE})
    plan.features["main"], plan.clusters["main"] = (1000, 64), 10
    plan._models["made"] = (MODEL, None, "")
    plan._tokens = {("made", label): TOKENS for label in plan.sources}
    config = EvaluateConfig(model="made", data="test")
    asked = [("rank", RankConfig()), ("ingest", IngestConfig(source="x")), ("evaluate", config), ("evaluate", config)]
    starting = [plan.estimate(stage, stage, each).parts["starting"] for stage, each in asked]
    task, actor = RATES.task_seconds, RATES.worker_seconds
    assert starting == pytest.approx([task, 0.0, 2.2 * actor, 1.1 * actor])


def test_the_trials_of_an_experiment_share_their_processes():
    plan = Planner(this_machine(2), RATES, sources={"main": SOURCE, "val": SOURCE})
    plan._models["tiny"] = (MODEL, None, "")
    plan._tokens = {("tiny", label): TOKENS for label in plan.sources}
    few, many = (BalanceProbesConfig(validation="val", mini=0.1, difficulty=each) for each in ("real", "precise"))
    starting = [plan.estimate("balance", "balance", each).parts["starting"] for each in (few, many)]
    assert starting == pytest.approx([RATES.worker_seconds] * 2)


def test_a_finetune_of_given_steps_does_not_depend_on_its_rows():
    config = FinetuneConfig(model="tiny", method="full", max_steps=4, batch_rows=8)
    works = [finetune_work(rows, SOURCE, TOKENS, MODEL, RATES, config, on_card=False) for rows in (100.0, 1000.0)]
    assert works[0].training_flop == works[1].training_flop
    training = MODEL.training_flop(30, 1000, 5, method="full", recomputed=False)
    tower = MODEL.vision_flop(16, 16, 1)
    assert works[0].training_flop == pytest.approx(32 * (PADDING * training + tower))


def test_a_longer_answer_takes_more_steps():
    def seconds(longest):
        config = EvaluateConfig(model="tiny", data="test", max_new_tokens=longest, batch_tokens=3000, batch_rows=50)
        work = evaluate_work(100.0, SOURCE, TOKENS, MODEL, RATES, config, on_card=False)
        return time_of(work, this_machine(2), RATES).seconds

    assert seconds(2) < seconds(10) < seconds(20) == seconds(500)


def test_experiments_train_as_often_as_they_say():
    compared = CompareConfig(methods=("full", "random"), seeds=(0, 1), ratio=0.1, max_test_rows=50)
    assert trainings_of("compare", compared, 1000, 5, {"test": 80}) == [Training(2, 1000, 50), Training(2, 100.0, 50)]
    swept = SweepConfig(methods=("coincide", "random"), temperatures=(0.1, 1.0), seeds=(0, 1), finetune={})
    assert [each.count for each in trainings_of("sweep", swept, 1000, 5, {})] == [4, 2]
    chosen = ChooseConfig(methods=("random",), rows=30)
    assert trainings_of("choose", chosen, 1000, 5, {"validation": 9}) == [Training(6, 30, 9)]
    balanced = BalanceProbesConfig(validation="val", mini=0.1, large=1.0)
    precise = trainings_of("balance", balanced.model_copy(update={"difficulty": "precise"}), 1000, 5, {"val": 7})
    assert [(each.count, each.rows) for each in precise] == [(1, 100), (5, 280), (5, 200), (5, 20)]
    assert trainings_of("balance", balanced, 1000, 5, {"val": 7}) == [Training(1, 100, 7), Training(5, 280, 7)]


def test_what_follows_from_earlier_trainings_is_not_foreseen():
    assert trainings_of("transferability", None, 1000, 5, {}) is None
