"""Sentences: CIDEr-D and GLEU, from the libraries that define them, on texts split at white space.

- CIDEr-D (Vedantam et al. 2015) by `pycocoevalcap.cider`, pure Python: n = 1..4, tf-idf with the document
  frequencies of the test references, clipped cosine, length penalty of sigma 6, mean over n and references, x 10.
  As in CoTBal the texts are raw: no PTB tokenizer (which needs Java), so "cat." and "cat" differ, and the value is
  the raw score (0..10). A task of one image has idf 0 everywhere and scores 0.
- GLEU (Wu et al. 2016) by `nltk.translate.gleu_score.corpus_gleu`: matches over the larger number of 1..4-grams,
  counts summed over the task (0..1). A row's own GLEU is given too; the task's is not their mean.

Cost: a few microseconds a word. Limit: neither says anything for languages without spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from raycurate.errors import UserError
from raycurate.evaluation.base import Meta, Scores, load_library, mean_of_rows


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return CIDEr-D of the task, 0..10, and of every row.

    Raises:
        UserError: no reference has a word, or pycocoevalcap is missing.
    """
    if not any(answer.split() for answers in references for answer in answers):
        raise UserError("CIDEr needs references with words; every reference of this task is empty")
    scorer = load_library("pycocoevalcap.cider.cider", "pycocoevalcap").Cider()
    right = {row: list(answers) for row, answers in enumerate(references)}
    given = {row: [prediction] for row, prediction in enumerate(predictions)}
    _, rows = scorer.compute_score(right, given)
    return mean_of_rows("cider", [float(value) for value in rows])


def gleu(predictions: Sequence[str], references: Sequence[Sequence[str]], _meta: Sequence[Meta]) -> Scores:
    """Return corpus GLEU of the task, 0..1, and the sentence GLEU of every row.

    Raises:
        UserError: nltk is missing.
    """
    corpus_gleu = load_library("nltk.translate.gleu_score", "nltk").corpus_gleu
    right = [[answer.split() for answer in answers] for answers in references]
    given = [prediction.split() for prediction in predictions]
    rows = [float(corpus_gleu([answers], [words])) for answers, words in zip(right, given, strict=True)]
    return Scores(headline="gleu", values={"gleu": float(corpus_gleu(right, given))}, rows={"gleu": rows})
