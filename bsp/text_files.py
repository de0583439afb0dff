"""The one way to open other people's text: bytes to text, JSON and CSV rows, labels, and which files to pass over.

People's programs write byte-order marks, UTF-16, Windows line ends, semicolons, blanks around labels, decomposed
accents, and leave ``._name`` beside ``name``. All readers of text in this project come through here, so that each of
them takes the same files. What cannot be read is an AnnotationError that names the file, the place and the remedy.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiter

from bsp.errors import AnnotationError

MAX_TEXT_BYTES = 4 * 2**30  # after unpacking; the largest published result file is below 1 GB
_MARKS = (  # the longer ones first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def is_hidden(name: str | os.PathLike[str]) -> bool:
    """Whether a file or folder name is none of the user's data: ``.x``, macOS's ``._x``, its ``__MACOSX`` folder."""
    name = os.path.basename(os.fspath(name))
    return name.startswith(".") or name == "__MACOSX"


def clean_label(text: str) -> str:
    """A label as all comparisons take it: composed accents (NFC), no outer blanks, inner runs of blanks as one."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file, unpacked if it is gzip (by its first two bytes), at most ``max_bytes`` of it.

    Raises AnnotationError for a file that cannot be read, is damaged, or holds more.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                content = file.read(max_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: damaged gzip file ({error}); download it again") from None
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise AnnotationError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > max_bytes:
        raise AnnotationError(f"{path}: more than {max_bytes:,} bytes of content; it is not such a file")
    return content


def decode(content: bytes, name: str | os.PathLike[str]) -> str:
    """Text from UTF-8, or from UTF-16 or UTF-32 with a byte-order mark (removed). ``name`` stands in the error."""
    encoding = "utf-8"
    for mark, of in _MARKS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], of
            break
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AnnotationError(
            f"{name}, line {line}: not {encoding.upper()} text (byte 0x{content[error.start]:02x}); if it comes from "
            f"an older Windows program: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT"
        ) from None


def read_text(path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    r"""The text of a plain or gzipped file, without byte-order mark, every line end as ``\n``.

    Raises AnnotationError as :func:`read_bytes` and :func:`decode`.
    """
    text = decode(read_bytes(path, max_bytes=max_bytes), path)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """The content of a plain or gzipped JSON file.

    Raises AnnotationError with line and column where it is malformed, nested too deep, or has a key twice.
    """
    return parse_json(read_bytes(path, max_bytes=max_bytes), path)


def parse_json(content: bytes, name: str | os.PathLike[str]) -> Any:
    """JSON from bytes; ``name`` stands in the AnnotationError."""
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    elif content.startswith(tuple(mark for mark, _ in _MARKS)):
        content = decode(content, name).encode()
    try:
        # The parser under pydantic: three times as fast as json.loads on 100 MB, and bounds the depth itself. A key
        # that stands twice would otherwise lose the first one's value without a word.
        return jiter.from_json(content, catch_duplicate_keys=True)
    except ValueError as error:
        raise AnnotationError(f"{name}: malformed JSON, {error}") from None


def read_csv(path: str | os.PathLike[str], *, delimiters: str = ",;\t") -> Iterator[tuple[int, list[str]]]:
    """Rows of a plain or gzipped CSV file: (line from 1, fields without outer blanks); empty lines are left out.

    The delimiter is the one of ``delimiters`` that the first line has most of. Raises AnnotationError for text that
    is no CSV (an open quote, a field above 128 kB).
    """
    text = read_text(path)
    first_line = text.partition("\n")[0]
    delimiter = max(delimiters, key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise AnnotationError(f"{Path(path)}, line {reader.line_num}: not valid CSV ({error})") from None
