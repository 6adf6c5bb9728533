from __future__ import annotations

import pytest

from raycurate.demo.tasks import MADE_TASKS
from raycurate.errors import UserError
from raycurate.evaluation import METRICS, default_metric, metrics_for_tasks
from raycurate.evaluation.tasks import DEFAULTS, fits_of


def test_the_demo_gets_cider_for_captions_and_iou_for_boxes() -> None:
    """Every other task of the demo has exact match."""
    tasks = ["yes_no", "shape", "color", *MADE_TASKS]
    found = {task: default_metric(task) for task in tasks}
    assert (found.pop("caption"), found.pop("box")) == ("cider", "iou")
    assert set(found.values()) == {"exact_match"}


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("RefCOCO-caption", "cider"),
        ("Ref-cap", "cider"),
        ("ShareGPT4V", "cider"),
        ("RefCOCO-bbox", "iou"),
        ("refcoco+_testA", "iou"),
        ("VQAv2", "vqa_accuracy"),
        ("TextVQA", "vqa_accuracy"),
        ("vizwiz-val", "vqa_accuracy"),
        ("OK-VQA", "vqa_accuracy"),
        ("GQA", "exact_match"),
        ("OCRVQA", "exact_match"),
        ("ChartQA", "relaxed_accuracy"),
        ("POPE", "pope"),
        ("pope_random", "pope"),
        ("MME", "mme"),
        ("mme-perception", "mme"),
        ("mmmu", "exact_match"),
        ("boxing", "exact_match"),
        ("", "exact_match"),
    ],
)
def test_default_by_name(task: str, metric: str) -> None:
    """The benchmarks of the papers, in the spellings that are about."""
    assert default_metric(task) == metric


def test_defaults_name_metrics_that_exist() -> None:
    """No dangling name in the table."""
    assert {metric for _, metric in DEFAULTS} <= set(METRICS)


def test_overrides_by_name_and_pattern() -> None:
    """The own name goes before a pattern; several metrics are legal."""
    overrides = {"Ref*": "gleu", "RefB": ["iou", "exact_match"]}
    chosen = metrics_for_tasks(["RefA", "RefB", "box"], overrides)
    names = {task: [metric.name for metric in metrics] for task, metrics in chosen.items()}
    assert names == {"RefA": ["gleu"], "RefB": ["iou", "exact_match"], "box": ["iou"]}


def test_an_override_that_fits_nothing_is_a_user_error() -> None:
    """A misspelt task is not ignored; nor is a misspelt metric."""
    with pytest.raises(UserError, match="'captoin'. Did you mean 'caption'"):
        metrics_for_tasks(["caption", "box"], {"captoin": "gleu"})
    with pytest.raises(UserError, match="unknown metric 'glue'"):
        metrics_for_tasks(["caption"], {"caption": "glue"})


def test_a_guess_that_does_not_fit_gives_way_and_says_so() -> None:
    """A task that is called like boxes and has words for answers: told with the task, before anything is answered."""
    fits = fits_of(["box_color", "refcoco", "pope", "mme"])
    fits["box_color"].see(["red"], {})
    fits["box_color"].see(["[0, 0, 1, 1]"], {})
    fits["refcoco"].see(["[0, 0, 1, 1]"], {})
    fits["pope"].see(["perhaps"], {})
    fits["mme"].see(["yes"], {"image": "i"})
    metrics = {task: [metric.name for metric in fit.fitting()] for task, fit in fits.items()}
    assert metrics == {
        "box_color": ["exact_match"],
        "refcoco": ["iou"],
        "pope": ["exact_match"],
        "mme": ["exact_match"],
    }
    note = fits["box_color"].note
    assert note is not None
    assert note.startswith("task 'box_color': metric 'iou' cannot take 1 of 2 rows: 'red' holds no box")
    assert note.endswith("name another with --metrics 'box_color=METRIC'")
    assert "meta['category']" in str(fits["mme"].note)
    assert fits["refcoco"].note is None


def test_a_metric_that_the_user_named_and_that_does_not_fit_is_an_error() -> None:
    """By name or by pattern."""
    for overrides in ({"colour": "iou"}, {"col*": ["exact_match", "iou"]}):
        fits = fits_of(["colour"], overrides)
        fits["colour"].see(["red"], {})
        with pytest.raises(UserError, match=r"task 'colour': metric 'iou' cannot take 1 of 1 rows.*--metrics"):
            fits["colour"].fitting()
