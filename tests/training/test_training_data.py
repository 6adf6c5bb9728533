"""Order, blanks, random access and batches of the token rows."""

from __future__ import annotations

import functools
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycurate.encoding.tokens import RowTokenizer
from raycurate.models.adapter import load_processor
from raycurate.run.store import Noun
from raycurate.training.collate import POSITIONS, TASK_IDS, Collator
from raycurate.training.config import FinetuneConfig
from raycurate.training.data import EpochSampler, TokenDataset, TokenSource, _local_copy, epoch_order, padded_rows
from raycurate.training.loop import loaders_beside
from raycurate.training.network import add_lora, freeze, load_network, projector_paths
from tests.tiny_vlms import FAMILIES, make_tiny_vlm
from tests.training.made_runs import TASKS, made_sample, write_run, write_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, model) -> TokenDataset:
    """Thirty rows in two shards."""
    tokens = write_tokens(write_run(tmp_path_factory.mktemp("run"), 30), model)
    scratch = tmp_path_factory.mktemp("scratch")
    return TokenDataset([TokenSource(tokens)], load_processor(model), TASKS, scratch=scratch, image_cache_mb=1)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    group_rows=st.integers(1, 9),
    by_length=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_and_blanks_fill_the_last_group(lengths, group_rows, by_length, epoch):
    """An epoch is a permutation of the rows and less than a group of blanks, the same for the same seed."""
    lengths_N = np.array(lengths)
    settings = {"group_rows": group_rows, "seed": 3, "epoch": epoch, "group_by_length": by_length}
    order = epoch_order(lengths_N, **settings)
    blanks = -len(lengths) % group_rows
    assert sorted(order.tolist()) == sorted([*range(len(lengths)), *[len(lengths)] * blanks])
    np.testing.assert_array_equal(order, epoch_order(lengths_N, **settings))
    order_of = functools.partial(epoch_order, lengths_N, group_rows=group_rows, seed=3, group_by_length=by_length)
    sampler = EpochSampler(order_of, padded_rows(len(lengths_N), group_rows))
    sampler.set_epoch(epoch)
    assert list(sampler) == order.tolist()
    assert len(sampler) == len(order)


def test_groups_have_rows_of_like_length():
    """Grouping leaves little padding; epochs and seeds differ."""
    lengths_N = np.random.default_rng(0).integers(10, 500, 2000)
    order = epoch_order(lengths_N, group_rows=8, seed=0, epoch=0, group_by_length=True)
    groups = lengths_N[order].reshape(-1, 8)
    assert (groups.max(axis=1) * 8).sum() < 1.1 * lengths_N.sum()
    other = epoch_order(lengths_N, group_rows=8, seed=0, epoch=1, group_by_length=True)
    assert (order != other).any()
    longest = groups.max(axis=1)
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_rows_are_what_the_tokenizer_made(dataset, model):
    """Random access gives each row's own ids, labels, task and image, in any order, after pickling as well."""
    tokenizer = RowTokenizer(load_processor(model), max_length=2048)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - what a DataLoader does with it
    made = {made_sample(number).key: made_sample(number) for number in range(30)}
    assert dataset.num_rows == 30
    for index in np.random.default_rng(0).permutation(30).tolist():
        sample = made[dataset.key(index)]
        messages = [{"role": m.role, "text": m.text} for m in sample.messages]
        text_only = {"key": "k", "messages": messages, "images": []}
        row = copy[index]
        assert TASKS[row.task] == sample.task
        assert len(row.images) == len(sample.images)
        assert len(row.ids_T) == dataset.lengths_N[index]
        if not sample.images:
            np.testing.assert_array_equal(row.ids_T, tokenizer.tokenize([text_only])[0].ids_T)
        answers = "".join(m.text + "</s>" for m in sample.messages if m.role == "assistant")
        assert tokenizer._tokenizer.decode(row.labels_T[row.labels_T >= 0]) == answers


def test_blank_row_has_an_image_and_no_labels(dataset):
    """The blank row is masked and shows an image."""
    blank = dataset[dataset.num_rows]
    assert (blank.labels_T == -100).all()
    assert blank.images


def test_batch_of_text_gets_the_blank_row(dataset, model):
    """A batch without image is given one; one with an image is left alone."""
    collate = Collator(load_processor(model), dataset)
    text = [i for i in range(30) if not dataset[i].images][:2]
    batch = collate([dataset[i] for i in text])
    assert len(batch["input_ids"]) == 3
    assert len(batch["pixel_values"]) == 1
    assert (batch["labels"][2] == -100).all()
    mixed = collate([dataset[i] for i in range(30) if i not in text][:4])
    assert len(mixed["input_ids"]) == 4
    assert set(mixed) >= {TASK_IDS, POSITIONS, "attention_mask"}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_trains_every_family(tmp_path, family):
    """Loss and gradients flow through LoRA and projector of each family, from text, one and two images."""
    model = str(make_tiny_vlm(family, tmp_path / "model"))
    tokens = write_tokens(write_run(tmp_path / "run", 12), model)
    processor = load_processor(model)
    dataset = TokenDataset([TokenSource(tokens)], processor, TASKS, scratch=tmp_path)
    batch = Collator(processor, dataset)([dataset[i] for i in range(6)])
    network = load_network(model, dtype=torch.float32)
    projector = projector_paths(network)
    lora = add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=projector)
    plain = {name: value for name, value in batch.items() if name not in (TASK_IDS, POSITIONS)}
    loss = lora(**plain).loss
    loss.backward()
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    assert torch.isfinite(loss)
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert not any("vision" in name and "lora_" in name for name in trained)
    assert sum("lora_B" in name for name in trained) == 6 * 7
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for name, p in trained.items() if "modules_to" in name)


def test_full_finetuning_freezes_the_vision_tower(model):
    """Decoder, embeddings, head and projector are trained; the tower only when asked for."""
    network = load_network(model, dtype=torch.float32)
    projector = projector_paths(network)
    for train_vision in (False, True):
        freeze(network, projector=projector, train_projector=True, train_vision=train_vision)
        for name, parameter in network.named_parameters():
            assert parameter.requires_grad == (train_vision or "vision_tower" not in name)


def test_the_projector_can_be_trained_alone(model):
    """As LLaVA's first stage does; its learning rate is then that stage's."""
    network = load_network(model, dtype=torch.float32)
    projector = projector_paths(network)
    freeze(network, projector=projector, train_projector=True, train_vision=False, train_decoder=False)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(any(name.startswith(f"{path}.") for path in projector) for name in trained)
    assert FinetuneConfig(method="projector").rates == (1e-3, 1e-3)
    assert FinetuneConfig(method="projector", learning_rate=0.1).rates == (0.1, 0.1)
    with pytest.raises(ValueError, match="method projector trains nothing"):
        FinetuneConfig(method="projector", train_projector=False)


def test_a_part_is_converted_once_for_all_ranks_of_a_machine(model, tmp_path, monkeypatch):
    """Eight ranks open the tokens at once: each part is read once, and all see the same rows."""
    tokens = write_tokens(write_run(tmp_path / "run", 30), model)
    shards = tokens.require("finetune").shards
    read, read_part = [], Noun.read_part

    def counting(self, shard, columns=None):
        read.append(shard)
        time.sleep(0.05)
        return read_part(self, shard, columns)

    monkeypatch.setattr(Noun, "read_part", counting)
    with ThreadPoolExecutor(8) as ranks:
        paths = list(
            ranks.map(lambda rank: [_local_copy(tokens, shard, tmp_path) for shard in range(shards)], range(8))
        )
    assert sorted(read) == list(range(shards))
    assert all(found == paths[0] for found in paths)
    assert sum(pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows for path in paths[0]) == 30


@pytest.mark.parametrize(
    ("gpus", "cpus", "expected"), [(0, 64, 0), (1, 16, 4), (8, 192, 4), (8, 32, 3), (1, 4, 3), (4, 4, 0), (1, 1, 0)]
)
def test_images_are_decoded_beside_a_gpu(gpus, cpus, expected):
    """As many as the machine's CPUs allow each training process, none without a GPU."""
    assert loaders_beside(gpus, cpus) == expected
