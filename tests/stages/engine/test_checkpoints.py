"""Models of a run, whole or as a LoRA, are found, hashed and loaded alike."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from raycurate.errors import UserError
from raycurate.run.store import Run
from raycurate.stages.engine.checkpoints import (
    Checkpoint,
    base_of,
    checkpoint_facts,
    find_checkpoint,
    load_checkpoint,
    local_source,
    merged_folder,
)
from raycurate.training.network import add_lora, load_network, projector_paths
from tests.tiny_vlms import make_tiny_vlm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random LLaVA on disk."""
    return str(make_tiny_vlm("llava", tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A LoRA with weights that change its answers."""
    folder = tmp_path_factory.mktemp("adapter")
    network = load_network(base, dtype=torch.float32)
    network = add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=projector_paths(network))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3)
    network.save_pretrained(str(folder))
    return str(folder)


def _load(name: str):
    return load_checkpoint(Checkpoint(name), device="cpu", dtype="float32", trust_remote_code=False)


def test_an_adapter_loads_as_its_merged_checkpoint(base, adapter, tmp_path):
    """A LoRA folder and the model merged from it have the same weights, which are not the base's."""
    merged = merged_folder(Checkpoint(adapter), tmp_path / "merged", trust_remote_code=False)
    found, expected = _load(adapter).model.state_dict(), _load(merged).model.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)
    plain = _load(base).model.state_dict()
    assert any(not torch.equal(plain[name], weight) for name, weight in found.items())


def test_an_adapter_is_merged_in_float32_and_cast_once(base, adapter):
    """In bfloat16: weights as of a float32 merge of the whole model, rotary tables as of any model."""
    found = load_checkpoint(Checkpoint(adapter), device="cpu", dtype="bfloat16", trust_remote_code=False).model
    stored = load_network(base, dtype=torch.bfloat16).float()
    expected = dict(PeftModel.from_pretrained(stored, adapter).merge_and_unload().to(torch.bfloat16).named_parameters())
    named = dict(found.named_parameters())
    assert named.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in named.items())
    plain = load_checkpoint(Checkpoint(base), device="cpu", dtype="bfloat16", trust_remote_code=False).model
    buffers = dict(found.named_buffers())
    assert any(buffer.dtype is torch.float32 for buffer in buffers.values())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in plain.named_buffers())


def test_a_whole_model_needs_no_merge(base, tmp_path):
    """A checkpoint without an adapter is handed on as it is."""
    assert base_of(Checkpoint(base), base) is None
    assert merged_folder(Checkpoint(base), tmp_path / "unused", trust_remote_code=False) == base


def test_fingerprints_follow_the_files(base, adapter):
    """Base and adapter have different fingerprints, the same files the same one."""
    facts = {name: checkpoint_facts(Checkpoint(name), "float32", False, False) for name in (base, adapter)}
    assert facts[base] == checkpoint_facts(Checkpoint(base), "float32", False, False)
    assert facts[base][0] != facts[adapter][0]
    assert facts[base][1] == "float32"


def test_a_model_of_the_run_is_found_by_its_label(base, tmp_path):
    """models/LABEL is the run's finished finetune, merged where that was written; a folder of that name goes first."""
    run = Run(str(tmp_path))
    noun = run.noun("models", "mine")
    with pytest.raises(UserError, match="raycurate finetune"):
        find_checkpoint(run, "models/mine")
    noun.begin({"stage": "finetune", "config": {"model": base}})
    noun.finish()
    found = find_checkpoint(run, "models/mine")
    assert dataclasses.astuple(found)[0] == "models/mine"
    assert (found.noun, found.base) == (noun, base)
    assert local_source(found) == f"{noun.folder}/final"
    noun.filesystem.create_dir(f"{noun.folder}/merged")
    assert local_source(found) == f"{noun.folder}/merged"
    assert find_checkpoint(run, "tiny") == Checkpoint("tiny")


def test_a_model_that_was_trained_again_has_another_fingerprint(base, tmp_path):
    """One weight in the middle of `models/LABEL` changed, under one label and description: other scores are due."""
    run = Run(str(tmp_path))
    noun = run.noun("models", "mine")
    noun.begin({"stage": "finetune", "config": {"model": base}})
    shutil.copytree(base, f"{noun.folder}/final")
    noun.finish()
    checkpoint = find_checkpoint(run, "models/mine")
    before = checkpoint_facts(checkpoint, "float32", False, False)
    assert checkpoint_facts(checkpoint, "float32", False, False) == before
    weights = Path(noun.folder) / "final" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert checkpoint_facts(checkpoint, "float32", False, False) != before


def test_a_retrained_model_of_a_remote_run_is_not_answered_from_the_copy_of_the_old_one(s3, tmp_path, monkeypatch):
    """The local copy of `models/LABEL` belongs to one training, not to the description that trainings share."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    noun = Run("s3://bucket/retrained").noun("models", "mine")
    found = []
    for weights in (b"old", b"new"):
        noun.clear()
        noun.begin({"stage": "finetune", "config": {"model": "tiny"}})
        noun.write_bytes("final/model.safetensors", weights)
        noun.finish()
        noun.write_json("manifest.json", {**asdict(noun.require("finetune")), "created": f"after {weights!r}"})
        found.append((Path(local_source(Checkpoint("models/mine", noun))) / "model.safetensors").read_bytes())
    assert found == [b"old", b"new"]
