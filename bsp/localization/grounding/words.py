"""Text for video grounding: tokens, GloVe vectors, the vocabulary of a data set, and the sentence encoder.

The paper (section 4.1) lower-cases and tokenises a sentence, takes GloVe vectors of its words and reads them with
a three-layer LSTM, as 2D-TAN does; LGI tokenises differently and learns its word table. Both are implemented.
Letters: B sentences, L words of a sentence, V vectors or rows of a table, W width of a word vector.
"""

from __future__ import annotations

import hashlib
import json
import logging
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import nn

from bsp.errors import AnnotationError
from bsp.files.npy import read_npy
from bsp.files.text import decode_as, open_utf8, parse_json
from bsp.io import atomic_path, write_text

logger = logging.getLogger(__name__)

Rule = Literal["2dtan", "lgi"]
RULES: tuple[Rule, ...] = ("2dtan", "lgi")

UNKNOWN_ROW = 1  # row 0 is the padding
FIRST_WORD_ROW = 4  # rows 2 and 3 are LGI's unused start and end tokens

_BYTES_AT_ONCE = 4 << 20  # of a GloVe file
_CACHE_FORMAT = 1
_LARGEST = float(np.finfo(np.float32).max)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokenise(sentence: str, rule: Rule) -> list[str]:
    """The words of a sentence, at least one, in lower case.

    "2dtan" takes one final period off and splits on white space ("Door, the man's." gives "door,", "the", "man's");
    "lgi" deletes all ASCII punctuation and splits ("dont", "mans", "door.the" becomes "doorthe").
    Raises ValueError for a sentence without a word.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    text = sentence.lower()
    words = (text.strip().removesuffix(".") if rule == "2dtan" else text.translate(_NO_PUNCTUATION)).split()
    if not words:
        raise ValueError(f"the sentence {sentence!r} has no word by the rule {rule!r}; remove it from the list")
    return words


@dataclass(frozen=True, kw_only=True, eq=False)
class WordVectors:
    """The content of one file of word vectors; every word occurs once."""

    words: tuple[str, ...]  # V of them, in the order of the file
    vectors: np.ndarray  # float32 [V, W]
    name: str  # of the file, without its folder
    sha256: str  # of the file as it is on disk


def load_glove(path: str | Path, *, cache_dir: str | Path | None = None) -> WordVectors:
    """Read a file in GloVe's text format (also gzipped): a word and its numbers per line, single spaces, no header.

    The first line determines the width; a word may contain spaces (glove.840B has some), as the last W fields are the
    vector. Of a repeated word the first vector stays. cache_dir: a folder for a binary copy, which loads many times
    faster. It is keyed by the file's name, size and time of change, holds checksums of itself and of the file, and is
    rebuilt if damaged.
    Raises AnnotationError with file, line and what is wrong, also for a word2vec header; FileNotFoundError.
    """
    path = Path(path)
    status = path.stat()
    identity: dict[str, str | int] = {
        "format": _CACHE_FORMAT,
        "name": path.name,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    stem = None
    if cache_dir is not None:
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        stem = Path(cache_dir) / f"glove-{key}"
        cached = _read_cache(stem, identity)
        if cached is not None:
            return cached
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    words, vectors = _parse_glove(path)
    glove = WordVectors(words=words, vectors=vectors, name=path.name, sha256=sha256)
    if stem is not None:
        _write_cache(stem, identity, glove)
    return glove


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """A head's vocabulary and its table of vectors. The word ``words[i]`` has row ``FIRST_WORD_ROW + i``."""

    rule: Rule
    words: tuple[str, ...]  # sorted by code point
    table: np.ndarray  # float32 [4 + words, W]: row 0 padding (zeros), 1 unknown words, 2 and 3 unused
    trainable: bool  # whether the head learns the table (row 0 must stay zero)
    source: str  # where the vectors come from, for messages

    def encode(self, sentence: str) -> np.ndarray:
        """Rows of the table, int64 [L], one per word; 1 for an unknown word. ValueError if there is no word."""
        return np.array([self._rows.get(word, UNKNOWN_ROW) for word in tokenise(sentence, self.rule)], np.int64)

    def known(self, sentence: str) -> int:
        """Number of words of the sentence in the vocabulary (repeated ones count each time)."""
        return int((self.encode(sentence) != UNKNOWN_ROW).sum())

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words, FIRST_WORD_ROW)}


def build_words(
    train_sentences: Iterable[str],
    *,
    rule: Rule,
    glove: WordVectors | None,
    width: int,
    seed: int,
    other_sentences: Iterable[str] = (),
) -> Words:
    """Vocabulary of a data set and its vectors.

    With ``glove``: the words of both lists that it has, as wide as it is (``width`` and ``seed`` are not used);
    not to be trained; the vector of unknown words is zero, as in 2D-TAN.
    Without: the words of ``train_sentences`` only, drawn from N(0, 1) with ``seed``, the unknown word too; to be
    trained, as in LGI. ``other_sentences`` (of the test split) are not used then, as their words would not be trained.
    Raises ValueError for an empty list or a sentence without a word, AnnotationError if GloVe has none of the words.
    """
    train = {word for sentence in train_sentences for word in tokenise(sentence, rule)}
    if not train:
        raise ValueError("the list of training sentences is empty")
    if glove is None:
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}")
        words = tuple(sorted(train))
        # Choice: the padding row is zero, so that unmasked padding adds nothing.
        table = np.random.default_rng(seed).standard_normal((FIRST_WORD_ROW + len(words), width), np.float32)
        table[0] = 0
        source = f"learnt from scratch, {width}-d (no GloVe file given)"
        return Words(rule=rule, words=words, table=table, trainable=True, source=source)
    wanted = train.union(word for sentence in other_sentences for word in tokenise(sentence, rule))
    position = {word: index for index, word in enumerate(glove.words) if word in wanted}
    if not position:
        raise AnnotationError(
            f"{glove.name}: has none of the {len(wanted)} words of the data set (such as {min(wanted)!r});"
            " give a file of word vectors of the same language"
        )
    words = tuple(sorted(position))
    # Choice: only the words of the data set get a row (2D-TAN keeps all 400,000; no other row is ever read).
    width = glove.vectors.shape[1]
    table = np.zeros((FIRST_WORD_ROW + len(words), width), np.float32)
    table[FIRST_WORD_ROW:] = glove.vectors[[position[word] for word in words]]
    source = f"GloVe {glove.name}, {width}-d, frozen"
    return Words(rule=rule, words=words, table=table, trainable=False, source=source)


class SentenceLSTM(nn.Module):
    """One-directional LSTM over the words of a sentence; the sentence is the top layer's output at the last real word.

    Padding on the right is processed too, without packing: it cannot change the outputs of earlier words.
    No dropout (2D-TAN).
    """

    def __init__(self, width_in: int, hidden: int, layers: int = 3):
        super().__init__()
        self.lstm = nn.LSTM(width_in, hidden, num_layers=layers, batch_first=True)

    def forward(self, emb_BLW: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Float [B, L, W] word vectors and int64 [B] numbers of real words, each 1..L, to float [B, hidden]."""
        if emb_BLW.ndim != 3 or lengths_B.shape != emb_BLW.shape[:1]:
            raise ValueError(f"expected [B, L, W] and [B], not {tuple(emb_BLW.shape)} and {tuple(lengths_B.shape)}")
        shortest, longest = int(lengths_B.min()), int(lengths_B.max())
        if shortest < 1 or longest > emb_BLW.shape[1]:
            raise ValueError(f"lengths must be in 1..{emb_BLW.shape[1]}, not {shortest} to {longest}")
        out_BLH, _ = self.lstm(emb_BLW)
        rows = torch.arange(len(out_BLH), device=out_BLH.device)
        return out_BLH[rows, lengths_B.to(out_BLH.device) - 1]


def _parse_glove(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Words and float32 [V, W] of a file, repeated words left out."""
    rows: dict[str, int] = {}  # word -> its line, 0-based
    lines_before = repeated = width = 0
    vectors = np.empty((0, 0), np.float32)
    for lines in _lines(path):
        if not width:
            width = _width(lines, path)
            vectors = np.empty((0, width), np.float32)
        words, block = _parse_lines(lines, lines_before, width, path)
        new = np.fromiter((rows.setdefault(word, row) == row for row, word in enumerate(words, lines_before)), bool)
        repeated += len(new) - int(new.sum())
        block = block if new.all() else block[new]
        filled = len(vectors)
        vectors.resize((filled + len(block), width), refcheck=False)  # grows in place: no second copy of the table
        vectors[filled:] = block
        lines_before += len(lines)
    if not lines_before:
        raise AnnotationError(f"{path}: the file is empty; download the word vectors again")
    if repeated:
        logger.warning("%s: %d repeated words left out, the first vector of each stays", path, repeated)
    return tuple(rows), vectors


def _lines(path: Path) -> Iterator[list[str]]:
    """The lines of a plain or gzipped text file, some MB at a time."""
    rest, before = b"", 0
    with open_utf8(path) as file:
        while data := file.read(_BYTES_AT_ONCE):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                lines = _decoded(whole, before, path)
                yield lines
                before += len(lines)
    if rest:
        yield _decoded(rest, before, path)


def _decoded(data: bytes, before: int, path: Path) -> list[str]:
    text = decode_as("utf-8", data, path, first_line=before + 1)
    text = text.replace("\r\n", "\n").replace(" \n", "\n").removesuffix(" ")  # word2vec's program ends lines with " "
    return text.split("\n")  # not splitlines: some words are odd kinds of line ends


def _width(lines: list[str], path: Path) -> int:
    """How many numbers the first line has."""
    fields = lines[0].split(" ")
    if len(fields) < 2:
        _fail(path, 0, f"{_short(lines[0])!r} has no number", "give a file with lines of a word and its numbers")
    is_header = len(fields) == 2 and all(field.isdecimal() for field in fields)
    if is_header and (len(lines) < 2 or lines[1].count(" ") != 1):
        _fail(path, 0, f"{lines[0]!r} is a word2vec header", "delete this line: GloVe files have no header")
    return len(fields) - 1


def _parse_lines(lines: list[str], before: int, width: int, path: Path) -> tuple[list[str], np.ndarray]:
    """Words and float32 [lines, width]; ``before`` is the 0-based number of the first line in the file."""
    words, rests = [], []
    # Choice: every malformed line is an error (common loaders silently skip or misread it).
    for number, line in enumerate(lines, before):
        word, _, rest = line.partition(" ")  # only U+0020 separates: some words are other white space
        if rest.count(" ") != width - 1:
            word, rest = _split_odd_line(line, number, width, path)
        if not word or not rest:
            found = "an empty line" if not line else f"{_short(line)!r} has no {'number' if word else 'word'}"
            _fail(path, number, found, "delete the line or download the file again")
        words.append(word)
        rests.append(rest)
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which is checked below
            block = np.loadtxt(rests, np.float32, delimiter=" ", comments=None, ndmin=2)
        good = block.shape == (len(lines), width) and bool(np.isfinite(block).all())
    except ValueError:
        good = False
    if not good:
        _fail_at_number(rests, before, path)
    return words, block


def _split_odd_line(line: str, number: int, width: int, path: Path) -> tuple[str, str]:
    """Word and numbers of a line with another number of fields: a word with spaces, or an error."""
    word, *values = line.rsplit(" ", width)
    last = word.rpartition(" ")[2]
    if line and (len(values) < width or (_is_finite(last) and any(c.isdecimal() for c in last))):
        found = f"{_short(line)!r} has {line.count(' ')} fields after the word, the first line has {width}"
        _fail(path, number, found, "the file is cut off or mixed; download it again")
    return word, " ".join(values)


def _is_finite(field: str) -> bool:
    try:
        return abs(float(field)) <= _LARGEST  # false for nan
    except ValueError:
        return False


def _fail_at_number(rests: list[str], before: int, path: Path) -> NoReturn:
    """Name the first field that is no finite number."""
    for number, rest in enumerate(rests, before):
        for field in rest.split(" "):
            if not _is_finite(field):
                found = f"{_short(field)!r} is not a finite number"
                _fail(path, number, found, "correct the line or download the file again")
    _fail(path, before, f"these {len(rests)} lines are not plain decimal numbers", "download the file again")


def _fail(path: Path, line: int, found: str, remedy: str) -> NoReturn:
    raise AnnotationError(f"{path}: line {line + 1}: {found}; {remedy}")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _checksum(words: Iterable[str], vectors: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join(words).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()


def _read_cache(stem: Path, identity: dict[str, str | int]) -> WordVectors | None:
    """The cached vectors, or None if absent or damaged (logged)."""
    try:
        story = parse_json(stem.with_suffix(".json").read_bytes(), stem.with_suffix(".json"))
        vectors = read_npy(stem.with_suffix(".npy"))
        words, sha256 = tuple(story["words"]), story["sha256"]
        if story["identity"] != identity or vectors.dtype != np.float32 or len(words) != len(vectors):
            raise ValueError("the two files do not belong together")
        if _checksum(words, vectors) != story["checksum"]:
            raise ValueError("the checksum differs")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s.npy: damaged cache (%s), made again", stem, error)
        return None
    return WordVectors(words=words, vectors=vectors, name=str(identity["name"]), sha256=sha256)


def _write_cache(stem: Path, identity: dict[str, str | int], glove: WordVectors) -> None:
    """Write both files atomically, the one with the checksum last. Errors, such as a full disk, are only logged."""
    story = {"identity": identity, "sha256": glove.sha256, "checksum": _checksum(glove.words, glove.vectors)}
    story["words"] = glove.words
    try:
        with atomic_path(stem.with_suffix(".npy")) as partial, open(partial, "wb") as file:
            np.save(file, glove.vectors)
        write_text(stem.with_suffix(".json"), json.dumps(story))
    except OSError as error:
        logger.warning("%s: the cache could not be written (%s)", stem, error.strerror or error)
