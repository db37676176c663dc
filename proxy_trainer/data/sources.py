"""Documents out of files: JSON lines (plain, gzip, zstd), parquet, plain text, `datasets`."""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from regmix.config import Source
from regmix.errors import RegmixError, UserError
from regmix.files import PARQUET, PLAIN_TEXT, TEXT_SUFFIXES, expanded


@dataclass
class Counts:
    """What was read from a source, and what was left out and why."""

    documents: int = 0
    text_bytes: int = 0
    no_text: int = 0
    empty: int = 0


@dataclass(frozen=True)
class Input:
    """One unit of reading: a file, or a dataset that `datasets.load_dataset` opens."""

    source: Source
    path: Path | None

    @property
    def label(self) -> str:
        """What error messages call it."""
        return str(self.path) if self.path else f"hub:{self.source.hub}"

    @property
    def size(self) -> int:
        """Bytes of the file; 0 where they are not known."""
        return self.path.stat().st_size if self.path else 0

    @property
    def stamp(self) -> list[Any]:
        """Changes when the input changes: name, size and modification time of a file.

        For a dataset: its settings, and the same of the local files that it is read from. What
        changes elsewhere under the same name (a branch on the hub, a URL) is not noticed; pin it
        with ``revision`` in ``hub_args``.
        """
        if self.path is None:
            local = [_file_stamp(path) for path in _hub_files(self.source)]
            return [self.source.model_dump(mode="json"), *([local] if local else [])]
        return [*_file_stamp(self.path), self.source.text_field]


def _file_stamp(path: Path) -> list[str | int]:
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _hub_files(source: Source) -> list[Path]:
    """Files on this machine that a dataset is read from, found as `datasets` finds them.

    That is: ``data_files`` (a path, a glob, or lists and mappings of them) below ``data_dir`` or
    the dataset's own folder; without ``data_files``, every file there.
    """
    folder = Path(str(source.hub))
    if not folder.is_dir() and len(folder.parts) > 1:  # owner/name: its files are on the hub
        return []
    base = folder if folder.is_dir() else Path()
    base /= str(source.hub_args.get("data_dir") or "")
    patterns = list(_strings(source.hub_args.get("data_files")))
    if not patterns and base != Path():
        patterns = ["**/*"]
    found = {
        Path(name)
        for pattern in patterns
        if "://" not in pattern
        for name in glob.glob(str(base / pattern), recursive=True)
    }
    return sorted(path for path in found if path.is_file())


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def expand(source: Source, root: Path, where: str) -> list[Input]:
    """The inputs a source stands for: files in name order, or one hub dataset.

    Args:
        source: its ``path`` may be a file, a folder (searched for known suffixes) or a glob.
        root: folder against which a relative path is read (the study).
        where: the key in study.yaml, for messages.

    Raises:
        UserError: nothing is there, or a file has a suffix that is not known.
    """
    if source.hub is not None:
        return [Input(source, None)]
    assert source.path is not None  # Source allows exactly one of hub and path
    pattern = expanded(source.path)
    full = pattern if pattern.is_absolute() else root / pattern
    if full.is_dir():
        found = [p for p in full.rglob("*") if p.is_file() and p.name.endswith(TEXT_SUFFIXES)]
    elif full.is_file():
        found = [full]
    else:
        found = [Path(p) for p in glob.glob(str(full), recursive=True) if Path(p).is_file()]
    if not found:
        raise UserError(f"{where}: no file at '{full}'")
    for path in found:
        if not path.name.endswith(TEXT_SUFFIXES):
            raise UserError(
                f"{where}: '{path}' has none of the suffixes {', '.join(TEXT_SUFFIXES)}"
            )
    return [Input(source, path) for path in sorted(found)]


def documents(item: Input, counts: Counts) -> Iterator[str]:
    """The texts of one input, in order; ``counts`` is updated as they are read.

    Documents without a text (the field is missing, null or not a string) and empty ones are
    left out and counted; whether their share is acceptable is the caller's decision.

    Raises:
        UserError: invalid UTF-8, a line that is not JSON, a file that does not decompress.
    """
    for number, text in enumerate(_values(item), 1):
        if not isinstance(text, str):
            counts.no_text += 1
        elif not text.strip():
            counts.empty += 1
        else:
            counts.documents += 1
            counts.text_bytes += len(utf8(text, f"{item.label}: document {number}"))
            yield text


def utf8(text: str, where: str) -> bytes:
    """A text's bytes.

    Raises:
        UserError: it has none.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:  # JSON can spell half of a surrogate pair
        raise UserError(f"{where}: text is not valid Unicode ({exc.reason})") from exc


def _values(item: Input) -> Iterator[object]:
    path, field = item.path, item.source.text_field
    if path is None:
        yield from _hub(item.source)
    elif path.name.endswith(PARQUET):
        yield from _parquet(path, field)
    elif path.name.endswith(PLAIN_TEXT):
        with _decompression_errors(path), _open(path) as stream:
            content = stream.read()
        yield _decode(content, str(path))
    else:
        for _, record in json_lines(path):
            yield record.get(field) if isinstance(record, dict) else None


class _ZstdReader(io.RawIOBase):
    """The content of a zstd file, frame after frame.

    The library's own reader takes a file that is cut short for one that ends there.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(2**14)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            self._ready = memoryview(self._decompress(chunk))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
            parts.append(self._frame.decompress(chunk))
            chunk = b""
            if self._frame.eof:
                chunk, self._frame = self._frame.unused_data, None
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdReader(path), 2**16)
    return path.open("rb")


@contextmanager
def _decompression_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as exc:
        raise UserError(f"{path}: cannot be decompressed ({exc})") from exc


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UserError(
            f"{where}: invalid UTF-8 at byte {exc.start} ({exc.reason}); "
            "convert the file to UTF-8 first"
        ) from exc


def _lines(path: Path) -> Iterator[bytes]:
    with _decompression_errors(path), _open(path) as stream:
        yield from stream


def json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """Every line's number, from 1, and what it holds; empty lines are passed over.

    Raises:
        UserError: as :func:`documents`.
    """
    for number, raw in enumerate(_lines(path), 1):
        if not raw.strip():
            continue
        line = _decode(raw, f"{path}:{number}")
        try:
            record = json.loads(line)
        except json.JSONDecodeError as exc:
            raise UserError(f"{path}:{number}: not JSON ({exc.msg})") from exc
        yield number, record


def parquet_rows(path: Path, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Every row's number, from 1, and those of the wanted columns that there are.

    Raises:
        UserError: the file cannot be read, or has none of them.
    """
    file = _open_parquet(path)
    names = file.schema_arrow.names
    fields = [name for name in names if name in wanted]
    if not fields:
        raise UserError(f"{path}: none of the columns {', '.join(wanted)} in {', '.join(names)}")
    number = 0
    for columns in _columns(path, file, fields):
        for values in zip(*columns, strict=True):
            number += 1
            yield number, dict(zip(fields, values, strict=True))


def _parquet(path: Path, field: str) -> Iterator[object]:
    file = _open_parquet(path)
    names = file.schema_arrow.names
    if field not in names:
        raise UserError(f"{path}: no column '{field}'; columns: {', '.join(names)}")
    for columns in _columns(path, file, [field]):
        yield from columns[0]


def _open_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names
    except (ArrowException, OSError, UnicodeDecodeError) as exc:
        raise UserError(f"{path}: not a parquet file ({_one_line(exc)})") from exc
    return file


def _columns(path: Path, file: Any, fields: list[str]) -> Iterator[list[list[object]]]:
    """Batch after batch: the values of each field."""
    from pyarrow import ArrowException

    for group in range(file.num_row_groups):
        where = f"{path}: row group {group + 1} of {file.num_row_groups}"
        try:
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=fields):
                yield [_column(batch.column(name), where) for name in fields]
        except (ArrowException, OSError) as exc:
            raise UserError(
                f"{where}: cannot be read ({_one_line(exc)}); the file is damaged, replace it"
            ) from exc


def _column(column: Any, where: str) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start].decode()[-40:]
        raise UserError(
            f"{where}: invalid UTF-8 in a text ({exc.reason}: byte {exc.object[exc.start]:#04x} "
            f"after {before!r}); write the column again in UTF-8"
        ) from exc
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _hub(source: Source) -> Iterable[object]:
    import datasets

    try:
        stream = datasets.load_dataset(
            str(source.hub), split=source.split, streaming=True, **source.hub_args
        )
        for record in stream:
            yield record.get(source.text_field)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as exc:
        raise RegmixError(f"hub:{source.hub}: could not be read ({exc})") from exc
