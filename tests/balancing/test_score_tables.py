"""A score table is read as it stands, or refused with the line that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycurate.balancing.scores import parse_scores
from raycurate.errors import UserError


def test_spaces_blank_lines_quotes_and_empty_cells() -> None:
    """What spreadsheets write."""
    table = parse_scores('\ufeffprobe, a ,"b,c"\r\n\r\nmini,1, 2.5e1\r\na,,3\r\n,,\r\n')
    assert table.tasks == ("a", "b,c")
    assert table.probes == ("mini", "a")
    assert table.scores == {("mini", "a"): 1.0, ("mini", "b,c"): 25.0, ("a", "b,c"): 3.0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs a header line"),
        ("probe\n", "needs a header line"),
        ("probe;a;b\nmini;1;2\n", "needs a header line of comma-separated names"),
        ("probe,a,b\n", "no row below it"),
        ("probe,a,a\nmini,1,2\n", "line 1: task 'a' is given twice"),
        ("probe,a,\nmini,1,2\n", "line 1: task 2 has no name"),
        ("probe,a,mini\nmini,1,2\n", "line 1: a task may not be called 'mini'"),
        ("probe,a,b\nmini,1,2\na,1,2\nmini,1,2\n", "line 4: probe 'mini' is given twice, first in line 2"),
        ("probe,a,b\nmini,1,2\n,1,2\n", "line 3: the first cell is empty"),
        ("probe,a,b\nmini,1,2,3\n", "line 2: 3 scores for 2 tasks"),
        ("probe,a,b\nmini,1,high\n", "line 2, task 'b': 'high' is not a number"),
        ("probe,a,b\nmini,nan,1\n", "line 2, task 'a': 'nan' is not finite"),
        ("probe,a,b\nmini,1,-inf\n", "line 2, task 'b': '-inf' is not finite"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(text: str, told: str) -> None:
    """No cell is guessed."""
    with pytest.raises(UserError, match=told):
        parse_scores(text)


@given(st.text(alphabet='probe,mina:1.5e-"\n\r x', max_size=60))
def test_any_text_is_a_table_or_a_user_error(text: str) -> None:
    """No other exception, and no score that the text does not have."""
    try:
        table = parse_scores(text)
    except UserError:
        return
    assert len(table.scores) <= len(table.probes) * len(table.tasks)
