"""Exports read by the trainers' own data code; `make test-consumers` installs it beside this package.

What is not installed is skipped. Each test has the rows of `tests/samples/test_task_folders.py`: text alone, one image,
two images in their order, bytes, a system turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import pyarrow as pa
import pytest
from PIL import Image

from raycurate.run.names import as_label
from raycurate.samples.exporters import ExportFacts, ExportOptions, export_samples, samples_from_tables
from raycurate.samples.fiftyone import with_decisions
from raycurate.samples.file_readme import SUFFIX, export_file
from raycurate.samples.images import ImageRoot
from raycurate.samples.schema import ImageRef, Message, Sample, samples_to_table
from raycurate.samples.task_folders import export_folder
from tests.hostile import encoded
from tests.tiny_vlms import make_processor

pytestmark = pytest.mark.consumers
WEIGHTS = {"vqa": 0.5, "ocr": 2.0}
ANSWER = Message("assistant", "ü")
ROWS = [
    Sample((Message("system", "s"), Message("user", "q"), ANSWER), task="vqa"),
    Sample((Message("user", "<image>\nq"), ANSWER), (ImageRef(path="1.png"),), task="ocr"),
    Sample(
        (Message("user", "<image> or <image>?"), ANSWER), (ImageRef(path="2.png"), ImageRef(path="0.png")), task="ocr"
    ),
    Sample((Message("user", "<image>\nq"), ANSWER), (ImageRef(data=encoded(), sha="ab" * 16),), task="ocr"),
]


@pytest.fixture
def options(tmp_path):
    """Three pictures that differ in their sizes."""
    for number in range(3):
        Image.new("RGB", (8 + number, 6), (number * 60, 9, 9)).save(tmp_path / f"{number}.png")
    return ExportOptions(images=ImageRoot.of(str(tmp_path)))


def folder(tmp_path, name, options):
    out = tmp_path / name
    export_folder(ROWS, str(out), name, options, ExportFacts("runs/mine", "abc", WEIGHTS))
    return out


def file(tmp_path, name, options):
    """A file of JSON Lines with its README; whoever reads it stands somewhere else."""
    out = tmp_path / "out" / "rows.jsonl"
    export_file(ROWS, str(out), name, options, ExportFacts("runs/mine", "abc"))
    return out


def test_webdataset_reads_the_tars(tmp_path, options):
    """Every row with its images decoded, in order."""
    webdataset = pytest.importorskip("webdataset")
    out = folder(tmp_path, "webdataset", options)
    shards = str(out / as_label("ocr") / "shard-000000.tar")
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [row["json"]["messages"] for row in rows] == [
        [{"role": turn.role, "content": turn.text} for turn in sample.messages] for sample in ROWS[1:]
    ]
    assert [row["000.png"].size[0] for row in rows[:2]] == [9, 10]
    assert rows[1]["001.png"].size[0] == 8


def test_energon_mixes_the_parts_by_their_weights(tmp_path, options):
    """Its own preparation, then its own loader: the share of each task follows rows times weight."""
    energon = pytest.importorskip("megatron.energon")
    out = folder(tmp_path, "webdataset", options)
    found = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(out / "prepare.sh")], env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    class Encoder(energon.DefaultTaskEncoder):
        cookers = (energon.Cooker(energon.stateless(lambda row: row)),)

        def encode_sample(self, sample):
            return sample

        def batch(self, samples):
            return samples

    loader = energon.get_loader(
        energon.get_train_dataset(
            str(out / "metadataset.yaml"),
            batch_size=1,
            shuffle_buffer_size=None,
            max_samples_per_sequence=None,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
            task_encoder=Encoder(),
        )
    )
    rows = [batch[0] for batch, _ in zip(loader, range(400), strict=False)]
    tasks = [(row["json"] if isinstance(row["json"], dict) else json.loads(row["json"]))["task"] for row in rows]
    assert abs(tasks.count("ocr") / 400 - 6 / 6.5) < 0.06
    assert all("000.png" in row for row, task in zip(rows, tasks, strict=True) if task == "ocr")


def test_llama_factory_finds_and_converts_the_parts(tmp_path, options, monkeypatch):
    """Its index of datasets and its converter: roles, texts and images of every row."""
    # It imports torchaudio for audio, which no row here has, and which has no release for this torch.
    pytest.importorskip("peft")
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")  # of transformers; its data code alone is asked here
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    parser = pytest.importorskip("llamafactory.data.parser", exc_type=ImportError)
    converter = pytest.importorskip("llamafactory.data.converter", exc_type=ImportError)
    from llamafactory.hparams import DataArguments

    out = folder(tmp_path, "llamafactory", options)
    names = list(json.loads((out / "dataset_info.json").read_text()))
    listed = parser.get_dataset_list(names, str(out))
    arguments = DataArguments(dataset=",".join(names), dataset_dir=str(out), media_dir=str(out))
    for attributes, task in zip(listed, ("ocr", "vqa"), strict=True):
        convert = converter.get_dataset_converter(attributes.formatting, attributes, arguments)
        rows = [json.loads(line) for line in (out / attributes.dataset_name).read_text().splitlines()]
        for row, sample in zip(rows, (sample for sample in ROWS if sample.task == task), strict=True):
            made = convert(row)
            turns = [*made["_prompt"], *made["_response"]]
            said = [turn.text for turn in sample.messages if turn.role != "system"]
            assert [turn["content"] for turn in turns] == said
            assert made["_system"] == ("s" if task == "vqa" else "")
            assert all(os.path.isfile(path) for path in made["_images"] or ())
            assert len(made["_images"] or ()) == len(sample.images)


def _swift_template(folder, **settings):
    """LLaVA's template of ms-swift on a byte tokenizer: no model is loaded."""
    hf = pytest.importorskip("transformers")
    from swift.model import get_model_info_meta
    from swift.template import get_template

    hf.LlavaConfig(architectures=["LlavaForConditionalGeneration"]).save_pretrained(folder)
    facts = get_model_info_meta(str(folder), model_type="llava1_5_hf", download_model=False)
    processor = make_processor("llava")
    for part in (processor, processor.tokenizer):
        part.model_info, part.model_meta = facts
    template = get_template(processor, **settings)
    template.set_mode("train")
    return template


def test_ms_swift_collates_the_parts_with_their_loss_scales(tmp_path, options, monkeypatch):
    """Its loader and collator: answers trained, images there, the weight of the task at each token but the last."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    swift = pytest.importorskip("swift.dataset")
    out = folder(tmp_path, "swift_tasks", options)
    monkeypatch.setenv("ROOT_IMAGE_DIR", str(out))
    files = [str(out / f"{as_label(task)}.jsonl") for task in ("ocr", "vqa")]
    rows, _ = swift.load_dataset(files, strict=True)
    template = _swift_template(tmp_path / "model", is_binary_loss_scale=False)
    encoded = [template.encode(row) for row in rows]
    batch = template.data_collator(encoded)
    assert batch["channel"] == ["ocr", "ocr", "ocr", "vqa"]
    assert batch["input_ids"].shape == batch["labels"].shape
    assert len(batch["pixel_values"]) == sum(len(sample.images) for sample in ROWS)
    for labels, row in zip(batch["labels"], encoded, strict=True):
        assert template.tokenizer.decode(labels[labels != -100]).startswith("ü")
        trained = [scale for scale in row["loss_scale"] if scale]
        assert len(trained) == int((labels != -100).sum())
        assert {*trained[:-1]} == {WEIGHTS[row["channel"]]}
        assert trained[-1] == 1.0
    assert "loss_scale" not in _swift_template(tmp_path / "plain").encode(rows[0])


@pytest.mark.parametrize("name", ["llamafactory", "sharegpt"])
def test_llama_factory_collates_a_folder_and_a_file(tmp_path, options, monkeypatch, name):
    """Its own loader from the index on, which a file's README gives: answers trained, every image's pixels."""
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    collators = pytest.importorskip("llamafactory.data.collator", exc_type=ImportError)
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    if name == "sharegpt":
        text = file(tmp_path, name, options).with_suffix(f".jsonl{SUFFIX}").read_text()
        (tmp_path / "out" / "dataset_info.json").write_text("{" + text[text.index('"coreset": {') :] + "}")
    out = tmp_path / "out" if name == "sharegpt" else folder(tmp_path, name, options)
    names = ",".join(json.loads((out / "dataset_info.json").read_text()))
    settings = DataArguments(
        template="llava", dataset=names, dataset_dir=str(out), media_dir=str(out), overwrite_cache=True
    )
    model = ModelArguments(model_name_or_path="none", cache_dir=str(tmp_path / "cache"))
    processor = make_processor("llava")
    for name, value in {"image_max_pixels": 1 << 20, "image_min_pixels": 1}.items():
        setattr(processor, name, value)
    template = get_template_and_fix_tokenizer(processor.tokenizer, settings)
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to=[])
    parts = get_dataset(template, model, settings, training, "sft", processor.tokenizer, processor)
    collator = collators.MultiModalDataCollatorForSeq2Seq(
        tokenizer=processor.tokenizer, template=template, processor=processor, label_pad_token_id=-100
    )
    batch = collator([dict(row) for row in parts["train_dataset"]])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"].shape[0] == len(ROWS)
    assert len(batch["pixel_values"]) == sum(len(sample.images) for sample in ROWS)
    for labels in batch["labels"]:
        assert processor.tokenizer.decode(labels[labels != -100]).startswith("ü")


def test_ms_swift_finds_the_images_of_a_file(tmp_path, options, monkeypatch):
    """Those that it names, and with the root of its README those beside it."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    swift = pytest.importorskip("swift.dataset")
    out = file(tmp_path, "swift", options)
    command = out.with_suffix(f".jsonl{SUFFIX}").read_text().partition("    ROOT_IMAGE_DIR=")[2]
    monkeypatch.setenv("ROOT_IMAGE_DIR", command.split("'")[1])
    rows, _ = swift.load_dataset([command.split("'")[-2]], strict=True)
    template = _swift_template(tmp_path / "model")
    shown = [len(template.encode(row).get("pixel_values", ())) for row in rows]
    assert shown == [len(sample.images) for sample in ROWS]


@pytest.mark.parametrize("name", ["messages", "parquet"])
def test_trl_collates_what_the_line_of_the_readme_loads(tmp_path, options, name):
    """Its collator: a row of tokens for each of the file, the pixels of every image."""
    trainer = pytest.importorskip("trl.trainer.sft_trainer", exc_type=ImportError)
    datasets = pytest.importorskip("datasets")
    out = tmp_path / f"out.{'parquet' if name == 'parquet' else 'jsonl'}"
    embedded = ExportOptions(images=options.images, embed=True)
    export_file(ROWS, str(out), name, embedded, ExportFacts("runs/mine", "abc"))
    line = (tmp_path / f"{out.name}{SUFFIX}").read_text().partition("    ")[2].splitlines()[0]
    exec(line, scope := dict(vars(datasets)))
    processor = make_processor("llava")
    batch = trainer.DataCollatorForVisionLanguageModeling(processor)(list(scope["rows"]))
    assert len(batch["input_ids"]) == len(ROWS)
    assert len(batch["pixel_values"]) == 4
    assert all(processor.tokenizer.decode(row).count("ü") == 1 for row in batch["input_ids"])


@pytest.mark.parametrize("name", ["messages", "parquet"])
def test_trl_takes_the_messages_as_they_are(tmp_path, options, name):
    """Its own preparation puts each image where its block stands."""
    utils = pytest.importorskip("trl.data_utils")
    datasets = pytest.importorskip("datasets")
    out = tmp_path / f"out.{'parquet' if name == 'parquet' else 'jsonl'}"
    rows = ROWS[:3]
    embedded = ExportOptions(images=options.images, embed=True)
    export_samples(rows, str(out), name, embedded)
    kind = "parquet" if name == "parquet" else "json"
    table = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    for row, sample in zip(table, rows, strict=True):
        images = row["images"] if name == "parquet" else [Image.open(tmp_path / path) for path in row["images"]]
        prepared = utils.prepare_multimodal_messages(row["messages"], images=images)
        blocks = [block for turn in prepared for block in turn["content"]]
        assert [block["image"].size for block in blocks if block["type"] == "image"] == [image.size for image in images]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        assert text == "".join(turn.text.replace("<image>\n", "").replace("<image>", "") for turn in sample.messages)


@pytest.fixture
def fiftyone(monkeypatch):
    """FiftyOne over an in-memory stand-in for MongoDB, which no package index has."""
    mongomock = pytest.importorskip("mongomock")
    pymongo = pytest.importorskip("pymongo")
    store = mongomock.store.ServerStore()

    class Client(mongomock.MongoClient):
        _closed = False  # asked for; to the stand-in any name that it does not know is a database

        def __init__(self, *args, **settings):
            super().__init__(*args, _store=store, **settings)

    monkeypatch.setattr(pymongo, "MongoClient", Client)
    for name in ("py7zr", "rarfile"):  # archives, of which none is read here
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, value in {"URI": "mongodb://localhost", "VALIDATION": "false"}.items():
        monkeypatch.setenv(f"FIFTYONE_DATABASE_{name}", value)
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    return pytest.importorskip("fiftyone", exc_type=ImportError)


def test_fiftyone_imports_what_a_selection_decided(tmp_path, options, fiftyone):
    """Its importer and its migration to the present version: every image opens, fields have values and types."""
    decided = {"kept": [True, False, True, False], "cluster": [0, 1, None, 3], "rank": [0, 1, 0, None]}
    decided |= {"score": [0.5, float("nan"), 2.0, None], "reason": ["a", "b", "c", "d"]}
    out = tmp_path / "fiftyone"
    rows = samples_from_tables([with_decisions(samples_to_table(ROWS), pa.table(decided))])
    export_folder(rows, str(out), "fiftyone", options, ExportFacts("runs/mine", "abc"))
    dataset = fiftyone.Dataset.from_dir(dataset_dir=str(out), dataset_type=fiftyone.types.FiftyOneDataset)
    found = [(each.task, each.image, each.kept, each.rank, each.score) for each in dataset]
    second = [("ocr", number, True, 0, 2.0) for number in range(2)]
    assert found == [("ocr", 0, False, 1, None), *second, ("ocr", 0, False, None, None)]
    sizes = [Image.open(path).size[0] for path in dataset.values("filepath")]
    assert sizes[:3] == [9, 10, 8]
    assert isinstance(dataset.get_field("score"), fiftyone.FloatField)
    assert dataset.count_values("kept") == {True: 2, False: 2}
