"""Open a source in any supported format.

``open_source`` lists the files, tells the format from their names or first bytes, and returns the reader of that
format.
Formats: ``llava`` (one JSON array), ``jsonl``, ``parquet`` (Hugging Face's included), ``huggingface``
(``datasets.save_to_disk``), ``webdataset`` (tar shards), ``hub`` (the source is a name on the Hugging Face hub).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raycurate.errors import UserError, unknown_name
from raycurate.samples.hub import SCHEME, hub_folder, is_hub
from raycurate.samples.read_arrow import (
    HuggingFaceReader,
    ParquetReader,
    huggingface_files,
    is_huggingface_folder,
)
from raycurate.samples.read_indexed import IndexedReader, read_index
from raycurate.samples.read_json import CODECS, JsonReader
from raycurate.samples.read_tar import IMAGE_EXTENSIONS, WebDatasetReader
from raycurate.samples.rows import Reader, ReadOptions, SourceFile
from raycurate.samples.sources import folder_of, list_source, open_file
from raycurate.samples.splits import of_split, splits_of

FORMATS = ("llava", "jsonl", "parquet", "huggingface", "webdataset", "hub")
_TEXTS = {".json": "llava", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_EXTENSIONS = {
    **_TEXTS,
    ".parquet": "parquet",
    ".arrow": "huggingface",
    **{f"{kind}{packed}": name for kind, name in _TEXTS.items() for packed in CODECS},
    ".tar": "webdataset",
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "webdataset"),
}
_SUPPORTED = (
    "Supported: llava (.json, one array), jsonl (.jsonl, one object a line), both also as .gz, .bz2 or .zst, parquet "
    "(.parquet), huggingface (a folder written by datasets.save_to_disk), webdataset (.tar shards)."
)
_INDEX_FILES = {
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "meta.json", "metadata.json"),
    *("config.json", "index.json", "package.json", "gitattributes.json", "sizes.json", "export.json"),
}
"""Files that say something of the others in a folder, and hold no rows."""
_BESIDE = (*(f".{kind}" for kind in sorted(IMAGE_EXTENSIONS)), ".md", ".txt", ".yaml", ".yml", ".license", ".py")
"""Of files that nobody takes for rows."""
_TAR_MAGIC_AT = 257
_SHOWN = 10


def open_source(
    source: str | Sequence[str],
    format: str = "auto",
    *,
    options: ReadOptions | None = None,
) -> Reader:
    """The reader of a source: a file, a folder, a glob, a URI, or a list of these.

    Raises ``UserError`` for an unknown format, a source that is not there or is empty, and files whose format cannot be
    told or differs.
    """
    options = options or ReadOptions()
    if format not in ("auto", *FORMATS):
        raise unknown_name("format", format, ("auto", *FORMATS))
    if format == "hub" or is_hub(source):
        source, format = hub_folder(f"{SCHEME}{str(source).removeprefix(SCHEME)}"), "auto"
    folder = folder_of(source)
    if folder and format in ("auto", "huggingface") and is_huggingface_folder(folder):
        return HuggingFaceReader(huggingface_files(folder, options.split), options)
    if folder and format == "auto" and (indexed := _indexed(folder, options)) is not None:
        return indexed
    files = list_source(source)
    if len(files) == 1 and format == "auto" and files[0].name.endswith(".json"):
        above, _, name = files[0].uri.rpartition("/")
        if (indexed := _indexed(above, options, name)) is not None:
            return indexed
    if format == "auto":
        format, files = _detect(files, source)
    elif len(files) > 1:
        files = _of_format(files, format, source)
    if options.split is not None:
        files = of_split(files, folder, options.split, source)
    return _reader_of(format, files, options)


def _indexed(folder: str, options: ReadOptions, only: str | None = None) -> IndexedReader | None:
    """The reader of a folder by its index, or by the file in it that may alone be that."""

    def open_files(files: tuple[SourceFile, ...], columns: tuple[str, ...]) -> Reader:
        format, found = _detect(files, [file.uri for file in files])
        also = replace(options, columns=(*options.columns, *columns), any_table=True)
        return _reader_of(format, found, also)

    reader = read_index(folder, open_files, only)
    if reader is not None and options.split is not None:
        raise UserError(f"split is '{options.split}', and {folder} has an index of its files. Name the split's files.")
    return reader


def _reader_of(format: str, files: tuple[SourceFile, ...], options: ReadOptions) -> Reader:
    if format in ("llava", "jsonl"):
        return JsonReader(files, options)
    if format == "parquet":
        return ParquetReader(files, options)
    if format == "huggingface":
        return HuggingFaceReader(files, options)
    return WebDatasetReader(files, options)


def left_out(source: str | Sequence[str], reader: Reader) -> list[str]:
    """What to say of a source's files that are not read though they may hold rows, and of its splits."""
    if isinstance(reader, HuggingFaceReader):
        return []
    cached = is_hub(source) and not (source := hub_folder(str(source))).startswith("hf://")
    read = {file.uri for file in reader.files}
    others = [file.name for file in list_source(source) if file.uri not in read]
    lines: list[str] = []
    if isinstance(reader, IndexedReader):
        lines = list(reader.notes)
        others.remove(reader.index)
    lines += [f"the hub is not reached; what its cache holds is read: {source}"] if cached else []
    lines += [f"not read: {name}" for name in others if not name.lower().endswith(_BESIDE) and "." in name]
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"not read: {len(lines) - _SHOWN:,} further files"]
    splits = splits_of(reader.files, folder_of(source))
    if len(splits) > 1:
        told = ", ".join(f"{split} ({len(files)} files)" for split, files in sorted(splits.items()))
        lines.append(f"rows of several splits are read together: {told}; --set split=train reads one of them")
    return lines


def _detect(files: tuple[SourceFile, ...], source: str | Sequence[str]) -> tuple[str, tuple[SourceFile, ...]]:
    """The one format of the files, and the files that have it; other files (images) are left out."""
    known = {file: format_by_name(file.name) for file in files}
    formats = sorted({name for name in known.values() if name})
    if len(formats) > 1 and set(formats) != {"jsonl", "llava"}:
        raise UserError(
            f"the source {source} mixes the formats {', '.join(formats)}. Say which one with format=..., or name the "
            "files with a glob."
        )
    if formats:
        return formats[0], tuple(file for file, name in known.items() if name)
    if len(files) == 1:
        return _format_by_content(files[0]), files
    names = ", ".join(file.name for file in files[:3])
    raise UserError(f"cannot tell the format of the source {source} from its files ({names}, ...). {_SUPPORTED}")


def _of_format(files: tuple[SourceFile, ...], format: str, source: str | Sequence[str]) -> tuple[SourceFile, ...]:
    """The files of a folder that may have the format the user named, by their names."""
    wanted = {"llava", "jsonl"} if format in ("llava", "jsonl") else {format}
    matching = tuple(file for file in files if format_by_name(file.name) in wanted)
    if not matching:
        raise UserError(f"none of the {len(files)} files of the source {source} looks like {format}. {_SUPPORTED}")
    return matching


def format_by_name(name: str) -> str | None:
    """The format that the end of a file's name says, None where it says none."""
    lowered = name.lower()
    if lowered.rpartition("/")[2] in _INDEX_FILES:
        return None
    return next((kind for extension, kind in _EXTENSIONS.items() if lowered.endswith(extension)), None)


def _format_by_content(file: SourceFile) -> str:
    with open_file(file.uri) as stream:
        head = stream.read(512)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return "webdataset"
    if text.startswith(b"["):
        return "llava"
    if text.startswith(b"{"):
        return "jsonl"
    if not head:
        raise UserError(f"the source file {file.uri} is empty")
    packed = (
        " It is compressed: unpack it, or name it .json.gz or .jsonl.gz."
        if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK", b"BZh", b"\xfd7zXZ"))
        else ""
    )
    raise UserError(f"cannot tell the format of {file.uri}.{packed} {_SUPPORTED}")
