"""What each stage computes with a model against the model's own forward pass of what its own processor gives."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from raycurate.encoding.inputs import types_name
from raycurate.encoding.prepare import Preparer
from raycurate.encoding.probe import _own, _rows
from raycurate.encoding.token_batches import AnswerPreparer, TokenPreparer
from raycurate.encoding.tokens import TokenRow, image_token_ids, labels_of
from raycurate.evaluation.generate import Generator
from raycurate.evaluation.prompts import QuestionPreparer
from raycurate.features.extractor import ActivationExtractor
from raycurate.features.token_scores import TokenScorer
from raycurate.models.adapter import VLM
from raycurate.training.collate import POSITIONS, TASK_IDS, Collator
from raycurate.training.data import TrainingRow
from raycurate.training.head_losses import HeadLosses
from raycurate.training.network import add_lora, projector_paths
from raycurate.training.vitw import IGNORED

LIMITS: dict[str, Any] = {"max_length": 1 << 16, "token_budget": 1 << 20, "max_rows": 8}
TOLERANCE = 2e-3
NEW_TOKENS = 3


def rows() -> list[dict[str, Any]]:
    """One image, two, none, and the first image once more in a shorter row."""
    found = []
    for what, row in _rows().items():
        found.append({**row, "image_keys": [f"{what} {i}" for i in range(len(row["images"]))], "task": "a"})
    again = {**found[0], "key": "again", "messages": found[0]["messages"][:2]}
    return [*found, again]


def own_inputs(vlm: VLM, row: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the processor's own call gives for one row, under the names of the model's forward."""
    own = _own(vlm.processor, Preparer(vlm.processor, max_length=1 << 16), row)
    accepted = inspect.signature(vlm.model.forward).parameters
    if "mm_token_type_ids" in own:
        own[types_name(vlm.model)] = own.pop("mm_token_type_ids")
    own = {name: value for name, value in own.items() if name in accepted}
    dtype = next(vlm.model.parameters()).dtype  # Llama 4's processor gives bfloat16
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in own.items()}


class FamilyChecks:
    """The four uses of one model, each a pass or fail by assertion."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm, self.rows = vlm, rows()
        self.own = [own_inputs(vlm, row) for row in self.rows]
        self.extractor = ActivationExtractor(vlm)
        self.hidden: list[list[torch.Tensor]] = []
        self.logits: list[torch.Tensor] = []
        for inputs in self.own:
            found: list[torch.Tensor] = []
            hooks = [
                vlm.attention_output(layer).register_forward_hook(lambda _m, _i, out, found=found: found.append(out))
                for layer in self.extractor.layers
            ]
            with torch.no_grad():
                self.logits.append(vlm.model(**inputs).logits[0].float())
            for hook in hooks:
                hook.remove()
            self.hidden.append(found)

    def extract(self) -> None:
        """Features of rows in batches: tanh of the mean of each layer and modality, scaled to length 1."""
        (batch,) = Preparer(self.vlm.processor, **LIMITS).prepare(self.rows).batches
        made = self.extractor.extract(batch)
        assert made.ok_N.all(), made.reasons
        for b, position in enumerate(batch.rows):
            real_T = batch.attention_mask_BT[b]
            text_T = batch.text_mask_BT[b][real_T]
            visual_T = batch.input_ids_BT[b][real_T] == self.vlm.image_token_id
            assert bool(visual_T.any()) == bool(self.rows[position]["images"])
            blocks = []
            for z in self.hidden[position]:
                for mask_T in (visual_T, text_T):
                    mean = z.reshape(-1, z.shape[-1])[mask_T].double().mean(dim=0).nan_to_num()
                    squashed = torch.tanh(mean)
                    blocks.append(squashed / squashed.norm().clamp_min(1e-30))
            wanted = torch.cat(blocks)
            assert np.abs(made.features_ND[b] - (wanted / wanted.norm()).numpy()).max() < TOLERANCE, self.rows[
                position
            ]["key"]

    def score(self) -> None:
        """Mean losses of the answers' tokens."""
        batches, rejects = AnswerPreparer(self.vlm.processor, **LIMITS).prepare_answers(self.rows)
        assert not rejects
        scorer = TokenScorer(self.vlm)
        for batch in batches:
            losses = scorer.score(batch).columns["loss"]
            for b, position in enumerate(batch.rows):
                real_T = batch.attention_mask_BT[b]
                ids_T, answer_T = batch.input_ids_BT[b][real_T].long(), batch.text_mask_BT[b][real_T]
                wanted = self._losses(position, ids_T, answer_T).mean()
                assert abs(losses[b] - float(wanted)) < TOLERANCE, (
                    self.rows[position]["key"],
                    losses[b],
                    float(wanted),
                )

    def train(self) -> None:
        """The losses of a training's batch with LoRA, and gradients in every part that is trained."""
        processor = self.vlm.processor
        window = TokenPreparer(processor, **LIMITS).tokenize(self.rows)
        made = []
        for row, shown in zip(window.results, window.images, strict=True):
            assert isinstance(row, TokenRow), row
            labels_T = labels_of(row.ids_T, row.spans_A2, image_token_ids(processor))
            made.append(TrainingRow(row.ids_T, labels_T, 0, tuple(window.processed[u] for u in shown)))
        batch = Collator(processor, _NoBlank(), types_name(self.vlm.model))(made)
        labels_BT, positions_P = batch.pop("labels"), batch.pop(POSITIONS)
        batch.pop(TASK_IDS)
        network = self.vlm.model
        keeps = "logits_to_keep" in inspect.signature(network.forward).parameters
        projector = projector_paths(network)
        model = add_lora(network, rank=2, alpha=4, dropout=0.0, saved_modules=projector).eval()
        losses_BP, _ = HeadLosses(network, keeps_positions=keeps)(model, batch, labels_BT, positions_P)
        sums_B = losses_BP.detach().sum(dim=1)
        for b, row in enumerate(made):
            wanted = self._losses(b, torch.from_numpy(row.ids_T).long(), torch.from_numpy(row.labels_T != IGNORED))
            assert abs(float(sums_B[b]) / len(wanted) - float(wanted.mean())) < TOLERANCE, self.rows[b]["key"]
        losses_BP.sum().backward()
        for name, parameter in model.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                assert parameter.grad is not None, name
        moved = [
            n for n, p in model.named_parameters() if p.requires_grad and p.grad is not None and bool(p.grad.any())
        ]
        assert any("lora_B" in name for name in moved)
        assert any("modules_to_save" in name for name in moved)

    def generate(self) -> None:
        """Greedy answers of padded batches, token by token."""
        questions = QuestionPreparer(self.vlm.processor, **LIMITS, pixel_dtype=torch.float32)
        batches, rejects = questions.prepare_questions(self.rows)
        assert not rejects
        generator = Generator(self.vlm, max_new_tokens=NEW_TOKENS)
        for asked in batches:
            batch = asked.batch
            answers = generator.answer(batch)
            for b, question in enumerate(asked.questions):
                prompt_T = batch.input_ids_BT[b][batch.attention_mask_BT[b]].long()
                own = self.own[question.position]
                assert torch.equal(prompt_T, own["input_ids"][0, : len(prompt_T)])
                width = own["input_ids"].shape[1]
                cut = {n: v[:, : len(prompt_T)] if v.ndim == 2 and v.shape[1] == width else v for n, v in own.items()}
                with torch.inference_mode():
                    ids = self.vlm.model.generate(**cut)[0, len(prompt_T) :].tolist()
                stop = next((i for i, token in enumerate(ids) if token in generator.stops), None)
                text = self.vlm.processor.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
                answer = answers[b]
                assert answer is not None
                assert answer.text == text, (self.rows[question.position]["key"], answer, text)

    def _losses(self, position: int, ids_T: torch.Tensor, answer_T: torch.Tensor) -> torch.Tensor:
        """The losses of the answers' tokens of a row by the own forward pass."""
        assert torch.equal(ids_T, self.own[position]["input_ids"][0, : len(ids_T)])
        log_TV = torch.log_softmax(self.logits[position].double(), dim=-1)
        at = answer_T[1:].nonzero().flatten()
        return -log_TV[at, ids_T[at + 1]]


class _NoBlank:
    has_images = False
    num_rows = 0

    def __getitem__(self, index: int) -> TrainingRow:
        raise AssertionError("no batch here needs it")
