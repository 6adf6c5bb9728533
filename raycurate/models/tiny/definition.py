"""The tiny model's architecture, tokenizer and processor: LLaVA's own classes at toy size.

`LlavaForConditionalGeneration` of a CLIP vision tower (64 x 64 pixels in 16 patches, 4 layers of width 128),
LLaVA's two-layer projector, and a Llama decoder (6 layers of width 128, so layers 1..5 are one sixth to five
sixths of its depth). 2.0 M parameters. The tokenizer is a byte-level BPE whose digits are always single
tokens: it encodes any text and decodes back to it exactly. Cost of one forward pass: 2 FLOP x (1.1 M x text
and image tokens + 0.8 M x 17), about 0.13 GFLOP for a short question.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from raycurate.models.tiny.scenes import SIDE

PATCH = 16
NUM_IMAGE_TOKENS = (SIDE // PATCH) ** 2
VOCABULARY = 1024
CONTEXT = 2048
PAD, BOS, EOS, USER, ASSISTANT, IMAGE = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<image>"
SPECIAL_TOKENS = (PAD, BOS, EOS, USER, ASSISTANT, IMAGE)

# A system message is read as part of the user's side: the model has never seen one.
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}
{{- eos_token -}}
{%- endgeneration -%}
{%- else -%}
{{- '<|user|>' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- else -%}{{- part['text'].lstrip('\\n') -}}{%- endif
-%} {%- endfor -%}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"""

# Words of visual-instruction data that the procedural corpus does not use; they keep other people's prompts short.
_COMMON_TEXT = (
    "what is in this image? does the image contain any text? is there a photo present here? which of these two is "
    "larger or smaller? please answer the question using a single word or phrase. describe the image in detail. "
    "what color is the object? what shape does it have? how many objects are there in total? is no shape present? "
    "is there not a person in the image? provide the bounding box coordinate of the region this sentence "
    "describes. read the number and compare it with the other one. who when why how where whose could would "
    "should will may might must shall been being having doing their there these those then than them they with "
    "without about after again against because before between both during each few more most only other over same "
    "some such through under until very while people man woman child children street food room kitchen building "
    "sky USER ASSISTANT The This That There What Which How Is Are Does Do Can In On A An It Yes No Answer "
    "Question Image Describe Read Count Sort Compare Give Write Find Name List Look "
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on `texts` and common words of instruction data, and attach the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *([_COMMON_TEXT] * 20)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT, IMAGE],
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor: images of any size are squeezed to 64 x 64 and scaled to [-1, 1]."""
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> LlavaForConditionalGeneration:
    """Return the model with fresh float32 weights drawn from `seed`."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        # The usual 0.02 is made for widths in the thousands: at width 128 attention would start, and long stay, flat.
        initializer_range=128**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaForConditionalGeneration(config)
