"""What is said of validation rows before the first training."""

from __future__ import annotations

import pytest

from raycurate.errors import UserError
from raycurate.experiments.engine.choose_config import ChooseConfig
from raycurate.experiments.engine.validation import check_validation
from raycurate.run.store import Run
from raycurate.settings import make_config
from tests.nouns import write_samples
from tests.selection.selection_cases import sample_keys
from tests.stages.test_select_marked import write_marks


def test_validation_rows_that_a_method_can_train_on_are_told(tmp_path, caplog):
    """Some: a warning with the count and the command; all: an error; marked ones are none; too few rows: an error."""
    run, keys = Run(str(tmp_path / "run")), sample_keys(40, 1)
    write_samples(run, keys, ["t"] * 40, shards=2)
    samples = run.noun("samples").require("x")

    def check(validation: list[str]) -> None:
        noun = write_samples(run, validation, ["t"] * len(validation), label="val")
        check_validation(run, make_config(ChooseConfig, {"data": "val"}), samples, noun.require("x"))

    check(sample_keys(20, 2))
    assert not caplog.records
    check(keys[:3] + sample_keys(20, 2))
    assert "3 of 23 rows of samples/val are rows to choose from" in caplog.text
    assert f"raycurate decontaminate {run.uri} --against val" in caplog.text
    with pytest.raises(UserError, match="12 of 12 rows of samples/val are rows to choose from"):
        check(keys[:11] + [keys[0].replace("-0", "-1")])
    with pytest.raises(UserError, match="no task of samples/val has more than 9 rows"):
        check(sample_keys(9, 2))
    write_marks(run, dict.fromkeys(keys[:3], "test_row"))
    caplog.clear()
    check(keys[:3] + sample_keys(20, 2))
    assert not caplog.records


def test_a_method_is_not_judged_by_the_rows_that_it_looks_at(tmp_path, caplog):
    """The label of both, or most rows in both: an error with the two commands; a few: a warning; none: nothing."""
    run, judges = Run(str(tmp_path / "run")), sample_keys(20, 2)
    write_samples(run, sample_keys(40, 1), ["t"] * 40, shards=2)
    samples = run.noun("samples").require("x")
    judged = write_samples(run, judges, ["t"] * 20, label="judge").require("x")
    values = {"data": "judge", "methods": ["mine"], "variants": {"mine": {"method": "targeted"}}}

    def check(**own: object) -> None:
        check_validation(run, make_config(ChooseConfig, {**values, **own}), samples, judged)

    with pytest.raises(UserError, match=r"'less' looks at samples/judge, which also judge it.*hash_range=\[0,0.5\]"):
        check(methods=["less"], variants={}, options={"less": {"targets": "judge"}})
    check()
    for same, told in ((0, ""), (10, "'mine' looks at 10 of the 20 rows"), (11, "which have 11 of the 20 rows")):
        write_samples(run, judges[:same] + sample_keys(20, 3), ["t"] * (same + 20), label="val")
        caplog.clear()
        if same <= 10:
            check()
            assert (told in caplog.text) if told else not caplog.records
        else:
            with pytest.raises(UserError, match=told):
                check()
