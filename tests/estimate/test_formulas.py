"""Work and seconds of stages against cases worked out by hand."""

from __future__ import annotations

import pytest

from raycurate.estimate.formulas import PADDING, cluster_work, extract_work, rank_work
from raycurate.estimate.places import this_machine
from raycurate.estimate.rates import CARDS
from raycurate.estimate.training import Training, evaluate_work, finetune_work, trainings_of
from raycurate.estimate.work import Work, time_of
from raycurate.evaluation.config import CompareConfig
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


def test_a_finetune_of_given_steps_does_not_depend_on_its_rows():
    config = FinetuneConfig(model="tiny", method="full", max_steps=4, batch_rows=8)
    works = [finetune_work(rows, SOURCE, TOKENS, MODEL, RATES, config, on_card=False) for rows in (100.0, 1000.0)]
    assert works[0].training_flop == works[1].training_flop
    training = MODEL.training_flop(30, 1000, 5, method="full", recomputed=False)
    tower = MODEL.vision_flop(16, 16, 1)
    assert works[0].training_flop == pytest.approx(32 * (PADDING * training + tower))


def test_a_longer_answer_takes_more_steps():
    def seconds(longest):
        work = evaluate_work(
            100.0,
            SOURCE,
            TOKENS,
            MODEL,
            RATES,
            max_new_tokens=longest,
            batch_tokens=3000,
            batch_rows=50,
            on_card=False,
        )
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
    assert trainings_of("balance", balanced, 1000, 5, {"val": 7}) == [Training(1, 100, 7), Training(5, 280, 7)]


def test_what_follows_from_earlier_trainings_is_not_foreseen():
    assert trainings_of("transferability", None, 1000, 5, {}) is None
