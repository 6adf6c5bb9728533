"""The loss equals its definition token by token, and micro-batches add up to the whole step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycurate.training.vitw import (
    gradient_shares,
    kept_positions,
    next_labels,
    token_losses,
    weight_sum,
    weighted_sums,
)

V, K = 11, 3


def batch(seed: int, rows: int = 4, length: int = 9):
    """Random logits, labels with masked tokens and unequal lengths, tasks."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, V, generator=generator)
    labels = torch.randint(0, V, (rows, length), generator=generator)
    labels[torch.rand(rows, length, generator=generator) < 0.4] = -100
    for row in range(rows):
        labels[row, length - row :] = -100
    return logits, labels, torch.randint(0, K, (rows,), generator=generator)


def sums_of(logits_BPV, labels_BT, tasks_B, weights_K, positions_P):
    """The sums from the logits at some positions."""
    labels_BP = next_labels(labels_BT, positions_P)
    return weighted_sums(token_losses(logits_BPV, labels_BP), labels_BP, tasks_B, weights_K)


def naive(logits, labels, tasks, weights):
    """Sums in float64, token by token."""
    weighted, tokens, losses = 0.0, np.zeros(K), np.zeros(K)
    for b in range(len(labels)):
        for t in range(1, labels.shape[1]):
            label = int(labels[b, t])
            if label == -100:
                continue
            scores = logits[b, t - 1].double().numpy()
            loss = np.log(np.exp(scores).sum()) - scores[label]
            task = int(tasks[b])
            weighted += weights[task] * loss
            tokens[task] += 1
            losses[task] += loss
    return weighted, tokens, losses


@pytest.mark.parametrize("seed", range(5))
def test_sums_equal_the_definition(seed):
    """n, d, tokens and losses per task equal a loop over tokens in float64."""
    logits, labels, tasks = batch(seed)
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    positions = kept_positions(labels)
    sums = sums_of(logits[:, positions], labels, tasks, weights, positions)
    weighted, tokens, losses = naive(logits, labels, tasks, weights.numpy())
    assert float(sums.weighted) == pytest.approx(weighted, rel=1e-6)
    np.testing.assert_array_equal(sums.tokens_K.numpy(), tokens)
    np.testing.assert_allclose(sums.losses_K.numpy(), losses, rtol=1e-6)
    assert float(weight_sum(labels, tasks, weights)) == float((tokens * weights.numpy()).sum())


def test_micro_batches_add_up_to_the_step():
    """Gradients of R * n / Z, averaged over ranks, equal the gradient of the whole step, for any split."""
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    torch.manual_seed(0)
    inputs = torch.randn(8, 9, 5, dtype=torch.float64)
    _, labels, tasks = batch(3, rows=8)
    labels[3] = -100  # one row, and one micro-batch of a split into eight, has nothing to learn

    def gradient(ranks: int, accumulation: int):
        head = torch.zeros(5, V, dtype=torch.float64, requires_grad=True)
        z = weight_sum(labels, tasks, weights)
        for part in np.array_split(np.arange(8), ranks * accumulation):
            part = torch.from_numpy(part)
            positions = kept_positions(labels[part])
            logits = (inputs[part] @ head)[:, positions]
            sums = sums_of(logits, labels[part], tasks[part], weights, positions)
            (ranks * sums.weighted / z / ranks).backward()
        return head.grad

    whole = gradient(1, 1)
    for ranks, accumulation in ((2, 1), (2, 2), (4, 2), (1, 8)):
        torch.testing.assert_close(gradient(ranks, accumulation), whole, rtol=1e-5, atol=1e-9)


def test_fully_masked_batch_is_zero_with_gradient():
    """A batch without valid tokens gives n = d = 0 and zero gradients, not NaN."""
    logits, labels, tasks = batch(0)
    labels[:] = -100
    logits.requires_grad_()
    positions = kept_positions(labels)
    assert positions.tolist() == [0]
    sums = sums_of(logits[:, positions], labels, tasks, torch.ones(K), positions)
    sums.weighted.backward()
    assert float(sums.weighted.detach()) == float(weight_sum(labels, tasks, torch.ones(K))) == 0.0
    assert not logits.grad.any()
    assert float(sums.rows_K.sum()) == 0


def test_loss_does_not_depend_on_the_scale_of_the_weights():
    """n / d is the same for lambda and 10 lambda."""
    logits, labels, tasks = batch(1)
    positions = kept_positions(labels)
    found = []
    for scale in (1.0, 10.0):
        weights = scale * torch.tensor([0.5, 1.0, 3.0])
        sums = sums_of(logits[:, positions], labels, tasks, weights, positions)
        found.append(float(sums.weighted) / float(weight_sum(labels, tasks, weights)))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_shares_are_weighted_tokens():
    """Effective shares are lambda T over their sum; no token gives zeros."""
    shares = gradient_shares(torch.tensor([10.0, 0.0, 30.0]) * torch.tensor([3.0, 5.0, 1.0]))
    np.testing.assert_allclose(shares.numpy(), [0.5, 0.0, 0.5])
    assert gradient_shares(torch.zeros(2)).tolist() == [0.0, 0.0]
