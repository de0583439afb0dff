"""Reading of text files from others: decoding, JSON, CSV rows, labels, ids, and hidden files.

Other programs write byte-order marks, UTF-16, Windows line ends, semicolons, blanks around labels, decomposed accents,
and leave ``._name`` beside ``name``. All readers of text in this project use this module and so accept the same files.
Errors are AnnotationErrors that name file, place and remedy.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, cast

import jiter

from bsp.errors import AnnotationError

_AT_ONCE = 16 * 2**20  # bytes
MAX_TEXT_BYTES = 4 * 2**30  # after unpacking; the largest published result file is below 1 GB
DELIMITERS = ",;\t"
VIDEO_EXTENSIONS = (  # in order of preference, if a video exists twice
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".wmv", ".3gp", ".ts", ".ogv",
)  # fmt: skip
_FROM_WINDOWS = "if it comes from an older Windows program: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT"
_MARKS = (  # the longer ones first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def is_hidden(name: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is hidden: ``.x``, macOS's ``._x`` and its ``__MACOSX`` folder."""
    name = os.path.basename(os.fspath(name))
    return name.startswith(".") or name == "__MACOSX"


@lru_cache(2**16)
def clean_label(text: str) -> str:
    """Normalised label: composed accents (NFC), no outer blanks, inner runs of blanks as one.

    ValueError if nothing is left.
    """
    label = " ".join(unicodedata.normalize("NFC", text).split())
    if not label:
        raise ValueError("a label has at least one character that is not blank")
    return label


@lru_cache(2**16)
def clean_id(text: str) -> str:
    """Normalised video id: composed accents (NFC), no outer blanks, no video extension.

    ValueError if nothing is left. A ``v_`` stays: some ids begin with it.
    """
    name = unicodedata.normalize("NFC", text.strip())
    stem, extension = os.path.splitext(name)
    name = stem if extension.lower() in VIDEO_EXTENSIONS else name
    if not name:
        raise ValueError("an id has at least one character that is not blank")
    return name


def safe_name(name: str, where: str | os.PathLike[str]) -> str:
    """The name, if it is safe as a file name; ``where`` begins the error message.

    AnnotationError for an absolute name, ``..``, a separator of any system, a control character, a hidden name (which
    no listing would find) and one of more than 250 bytes, which leaves room for an ending.
    """
    why = None
    if not name or name != name.strip():
        why = "is empty or has blanks around it"
    elif "/" in name or "\\" in name:
        why = "contains a separator of folders"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        why = "contains a control character"
    elif is_hidden(name):
        why = "is a hidden name"
    elif len(name.encode()) > 250:
        why = "is longer than 250 bytes"
    if why:
        shown = repr(name if len(name) <= 80 else name[:77] + "...")
        raise AnnotationError(f"{where}: {shown} cannot be a file name: it {why}; rename it in the list")
    return name


def refuse_alike(names: Iterable[tuple[str, str]], what: str) -> None:
    """AnnotationError for two of the (cleaned name, where it stands) that differ only in case; names both places."""
    first: dict[str, tuple[str, str]] = {}
    for name, where in names:
        other, place = first.setdefault(name.casefold(), (name, where))
        if other != name:
            raise AnnotationError(
                f"{where}: {what} {name!r}, but {other!r} in {place}: they differ only in case; write one of them"
            )


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file's content as a stream, unpacked if it is gzip (by its first two bytes).

    Raises AnnotationError, also while it is read, for a file that cannot be read or is damaged.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                yield cast(IO[bytes], file)
    except AnnotationError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: damaged gzip file ({error}); download it again") from None
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such file") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def open_utf8(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """As :func:`open_bytes`, converted to UTF-8 without byte-order mark, for texts too large for memory.

    UTF-8 itself is not checked here; a broken UTF-16 is an AnnotationError.
    """
    with open_bytes(path) as file:
        encoding, skip = split_mark(file.read(4))
        file.seek(skip)
        try:
            yield file if encoding == "utf-8" else codecs.EncodedFile(file, "utf-8", encoding)
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{path}: not {encoding.upper()} text ({error.reason}); copy it again") from None


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file, unpacked if it is gzip, at most ``max_bytes`` of it.

    Raises AnnotationError as :func:`open_bytes`, and for a file that holds more.
    """
    if "\0" in os.fspath(path):
        raise AnnotationError(f"{path!r}: a file's name has no zero byte")
    with open_bytes(path) as file:
        parts, left = [], max_bytes + 1
        while part := file.read(min(left, _AT_ONCE)):  # read(max_bytes) would allocate that much for every file
            parts.append(part)
            left -= len(part)
    content = b"".join(parts)
    if len(content) > max_bytes:
        raise AnnotationError(f"{path}: more than {max_bytes:,} bytes of content; it is not such a file")
    return content


def split_mark(content: bytes) -> tuple[str, int]:
    """(encoding, bytes of the byte-order mark) of the beginning of a text; UTF-8 where there is no mark."""
    return next(((name, len(mark)) for mark, name in _MARKS if content.startswith(mark)), ("utf-8", 0))


def decode(content: bytes, name: str | os.PathLike[str]) -> str:
    """Text from UTF-8, or from UTF-16 or UTF-32 with a byte-order mark (removed).

    ``name`` and the line stand in the AnnotationError.
    """
    encoding, skip = split_mark(content)
    return decode_as(encoding, content[skip:], name)


def decode_as(encoding: str, content: bytes, name: str | os.PathLike[str], *, first_line: int = 1) -> str:
    """As :func:`decode`, of an encoding that is known and a content without mark that begins with ``first_line``."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        binary = any(byte < 9 for byte in content[:4096])
        remedy = "it is no text file" if binary else _FROM_WINDOWS
        what = f"not {encoding.upper()} text (byte 0x{content[error.start]:02x})"
        raise AnnotationError(f"{name}: line {line}: {what}; {remedy}") from None
    if "\0" in text:
        line = first_line + text.count("\n", 0, text.index("\0"))
        raise AnnotationError(
            f"{name}: line {line}: a zero byte, so it is no text, or UTF-16 without its mark: "
            "iconv -f UTF-16LE -t UTF-8 IN > OUT"
        )
    return text


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
    encoding, skip = split_mark(content)
    content = content[skip:] if encoding == "utf-8" else decode(content, name).encode()
    try:
        # jiter, pydantic's parser: faster than json.loads, limits the depth. A repeated key would otherwise silently
        # lose its first value.
        return jiter.from_json(content, catch_duplicate_keys=True)
    except ValueError as error:
        decode_as("utf-8", content, name)  # raises, with the remedy, if the encoding is the problem
        if "surrogate" in str(error):
            return _with_surrogates(content, name)
        raise AnnotationError(f"{name}: malformed JSON, {error}") from None


def _with_surrogates(content: bytes, name: str | os.PathLike[str]) -> Any:
    """JSON with lone surrogates, which jiter refuses: Python writes file names that are not UTF-8 so."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
            raise ValueError(f"Detected duplicate key {twice!r}")
        return found

    try:
        return json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{name}: malformed JSON, {error}") from None


def delimiter_of(line: str) -> str:
    """The most frequent of comma, semicolon and tab in a line; comma if there is none."""
    return max(DELIMITERS, key=line.count)


def read_csv(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of a plain or gzipped CSV file: (line from 1, fields without outer blanks); empty lines are left out.

    The first line determines the delimiter, see :func:`delimiter_of`. Raises AnnotationError for text that is
    no CSV (an open quote, a field above 128 kB).
    """
    text = read_text(path)
    delimiter = delimiter_of(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            if any(fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise AnnotationError(f"{path}: line {reader.line_num}: not valid CSV ({error}); correct the line") from None


def read_table(
    path: str | os.PathLike[str], columns: Iterable[str], *, remedy: str = "copy the file again"
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file whose first line names its columns: (line from 1, field by column).

    Empty columns after the last named one, which spreadsheets leave, are ignored. AnnotationError with file, line
    and ``remedy`` for an absent or repeated column and for a row that has not one field per column.
    """
    rows = read_csv(path)
    line, names = next(rows, (1, []))
    while names and not names[-1]:
        names = names[:-1]
    absent = [column for column in columns if column not in names]
    twice = [name for name in names if names.count(name) > 1]
    if absent or twice:
        what = f"no column {', '.join(absent)}" if absent else f"the column {twice[0]!r} twice"
        found = ", ".join(names) or "nothing"
        found = found if len(found) <= 80 else found[:77] + "..."
        raise AnnotationError(f"{path}: line {line}: {what}, found {found!r}; {remedy}")
    for line, fields in rows:
        if len(fields) < len(names) or any(fields[len(names) :]):
            raise AnnotationError(
                f"{path}: line {line}: {len(fields)} fields, not {len(names)}: {','.join(fields)[:80]!r}; correct it"
            )
        yield line, dict(zip(names, fields, strict=False))
