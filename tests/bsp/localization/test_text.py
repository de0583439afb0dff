"""Text of grounding: tokens by hand, real and malformed GloVe files, word tables, sentence code."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import bsp.localization.grounding.words
from bsp.errors import AnnotationError
from bsp.localization.grounding.words import SentenceLSTM, WordVectors, build_words, load_glove, tokenise

# Words that hold a space, a no-break space, a next-line character, or look like a number or a comment.
AWKWARD = (
    "the 0.5 -1 2e-3\n, 1 2 3\n. . . 4 5 6\nat name@domain.com 7 8 9\na\xa0b 10 11 12\n\x85 13 14 15\n# 16 17 18\n"
    '12.5 19 20 21\n" 22 23 24\nÜber 25 26 27\nnan 28 29 30\n'
)
AWKWARD_WORDS = (
    "the", ",", ". . .", "at name@domain.com", "a\xa0b", "\x85", "#", "12.5", '"', "Über", "nan",
)  # fmt: skip
AWKWARD_VECTORS = np.array([[0.5, -1, 2e-3], *np.arange(1, 31).reshape(10, 3)], np.float32)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(glove, words, vectors):
    assert glove.words == tuple(words)
    assert glove.vectors.dtype == np.float32
    np.testing.assert_array_equal(glove.vectors, np.asarray(vectors, np.float32))


# -- tokens --


@pytest.mark.parametrize(
    ("sentence", "of_2dtan", "of_lgi"),
    [
        ("A person opens the Door.", ["a", "person", "opens", "the", "door"], ["a", "person", "opens", "the", "door"]),
        ("person, runs.", ["person,", "runs"], ["person", "runs"]),
        ("door.the man's", ["door.the", "man's"], ["doorthe", "mans"]),
        ("he  waits..", ["he", "waits."], ["he", "waits"]),
        ("\tlook up . \n", ["look", "up"], ["look", "up"]),
        ("off - on.", ["off", "-", "on"], ["off", "on"]),
        ("Café_bar!", ["café_bar!"], ["cafébar"]),
    ],
)
def test_tokens(sentence, of_2dtan, of_lgi):
    assert tokenise(sentence, "2dtan") == of_2dtan
    assert tokenise(sentence, "lgi") == of_lgi


@pytest.mark.parametrize(("sentence", "rule"), [("", "2dtan"), (" . ", "2dtan"), ("", "lgi"), ("?! -", "lgi")])
def test_a_sentence_without_a_word(sentence, rule):
    with pytest.raises(ValueError, match="has no word"):
        tokenise(sentence, rule)


def test_unknown_rule():
    with pytest.raises(ValueError, match="'bert'"):
        tokenise("a door", "bert")


# -- GloVe files --


@pytest.mark.parametrize("change", ["plain", "gzip", "windows", "mark", "no end"])
@pytest.mark.parametrize("bytes_at_once", [1, 5, 64, 1 << 20])
def test_awkward_words_in_any_packing(tmp_path, monkeypatch, change, bytes_at_once):
    """Small reads cut lines, line ends and characters of several bytes in two."""
    monkeypatch.setattr(bsp.localization.grounding.words, "_BYTES_AT_ONCE", bytes_at_once)
    data = AWKWARD.encode()
    data = {
        "plain": data,
        "gzip": gzip.compress(data),
        "windows": data.replace(b"\n", b"\r\n"),
        "mark": b"\xef\xbb\xbf" + data,
        "no end": data[:-1],
    }[change]
    glove = load_glove(write(tmp_path / "tiny.txt", data))
    same(glove, AWKWARD_WORDS, AWKWARD_VECTORS)
    assert (glove.name, glove.sha256) == ("tiny.txt", hashlib.sha256(data).hexdigest())


def test_numbers_are_the_nearest_float32(tmp_path):
    rng = np.random.default_rng(0)
    texts = [[f"{x:.5g}" for x in row] for row in rng.normal(0, 0.4, (300, 7))]
    texts[3][2:5] = ["1.5e-07", "-0", "+.25"]
    path = write(tmp_path / "g.txt", "".join(f"w{i} {' '.join(row)}\n" for i, row in enumerate(texts)))
    same(load_glove(path), [f"w{i}" for i in range(300)], [[np.float32(float(x)) for x in row] for row in texts])


def test_of_a_repeated_word_the_first_stays(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "g.txt", "a 1 2\nb 3 4\na 5 6\nc 7 8\nb 9 9\n")
    for bytes_at_once in (6, 1 << 20):  # the repetition is in another part, or in the same
        monkeypatch.setattr(bsp.localization.grounding.words, "_BYTES_AT_ONCE", bytes_at_once)
        caplog.clear()
        same(load_glove(path), "abc", [[1, 2], [3, 4], [7, 8]])
        assert "2 repeated words" in caplog.text


def test_one_number_per_word(tmp_path):
    same(load_glove(write(tmp_path / "g.txt", "12 3\n13 4\n")), ["12", "13"], [[3], [4]])
    same(load_glove(write(tmp_path / "g.txt", "a 3")), ["a"], [[3]])


GOOD = "a 1 2\nb 3 4\n"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("3 2\n" + GOOD, 1, "word2vec header; delete this line"),
        ("400000 300\n", 1, "word2vec header"),
        ("alone\n", 1, "'alone' has no number"),
        ("\n" + GOOD, 1, "has no number"),
        ("just some text\n", 1, "'some' is not a finite number"),
        (GOOD + "c 5\n", 3, "'c 5' has 1 fields after the word, the first line has 2"),
        (GOOD + "c 5 6 7\n", 3, "'c 5 6 7' has 3 fields after the word, the first line has 2"),
        (GOOD + "two words 5\n", 3, "'words' is not a finite number"),
        (GOOD + "c\n", 3, "'c' has 0 fields"),
        (GOOD + "\nc 5 6\n", 3, "an empty line"),
        (GOOD + "c 5 6\n\n", 4, "an empty line"),
        (GOOD + " 5 6\n", 3, "has no word"),
        (GOOD + "c 5  6\n", 3, "'c 5  6' has 3 fields"),
        (GOOD + "c\t5 6\n", 3, "has 1 fields"),
        (GOOD + "c 5 x6\n", 3, "'x6' is not a finite number"),
        (GOOD + "c 5 6,1\n", 3, "'6,1' is not a finite number"),
        (GOOD + "c 1.0-2.0 6\n", 3, "'1.0-2.0' is not a finite number"),
        (GOOD + "c nan 6\n", 3, "'nan' is not a finite number"),
        (GOOD + "c 5 -inf\n", 3, "'-inf' is not a finite number"),
        (GOOD + "c 5 1e39\n", 3, "'1e39' is not a finite number"),  # more than a float32 holds
        (GOOD + "c 5 #6\n", 3, "'#6' is not a finite number"),
        (GOOD + "c  6\n", 3, "'' is not a finite number"),
        ("a 1\n\nb 2\n", 2, "an empty line"),
        (GOOD.encode() + b"\xff\xfe 5 6\n", 3, "not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("bytes_at_once", [1, 1 << 20])
def test_broken_lines(tmp_path, monkeypatch, content, line, message, bytes_at_once):
    monkeypatch.setattr(bsp.localization.grounding.words, "_BYTES_AT_ONCE", bytes_at_once)
    path = write(tmp_path / "broken.txt", content)
    with pytest.raises(AnnotationError) as error:
        load_glove(path, cache_dir=tmp_path / "cache")
    assert str(error.value).startswith(f"{path}: line {line}: ")
    assert message in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_empty_damaged_and_absent_files(tmp_path):
    with pytest.raises(AnnotationError, match=r"empty.txt: the file is empty; download"):
        load_glove(write(tmp_path / "empty.txt", ""))
    packed = gzip.compress(AWKWARD.encode())
    for content in (packed[:-12], packed[:30] + b"\x00\x00\x00\x00" + packed[34:]):
        with pytest.raises(AnnotationError, match=r"cut.gz: damaged gzip file"):
            load_glove(write(tmp_path / "cut.gz", content))
    with pytest.raises(FileNotFoundError, match="absent"):
        load_glove(tmp_path / "absent.txt")


# -- cache --


@pytest.fixture
def cached(tmp_path):
    path, folder = write(tmp_path / "g.txt", AWKWARD), tmp_path / "deep" / "cache"
    load_glove(path, cache_dir=folder)
    return path, folder


def test_the_cache_is_used(cached, monkeypatch):
    path, folder = cached
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".npy"]  # and nothing partial
    monkeypatch.setattr(
        bsp.localization.grounding.words, "_parse_glove", lambda path: pytest.fail("the text was read again")
    )
    glove = load_glove(path, cache_dir=folder)
    same(glove, AWKWARD_WORDS, AWKWARD_VECTORS)
    assert (glove.name, glove.sha256) == ("g.txt", hashlib.sha256(AWKWARD.encode()).hexdigest())


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_cache_is_made_again(cached, caplog, suffix, damage):
    path, folder = cached
    (victim,) = folder.glob(f"*{suffix}")
    whole = victim.read_bytes()
    place = whole.index(b"domain") if suffix == ".json" else len(whole) - 2
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    foreign = b"[1, 2]" if suffix == ".json" else b"\x80\x04K\x01."
    victim.write_bytes({"cut": whole[:-5], "flipped": flipped, "empty": b"", "foreign": foreign}[damage])
    same(load_glove(path, cache_dir=folder), AWKWARD_WORDS, AWKWARD_VECTORS)
    assert "damaged cache" in caplog.text
    assert victim.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_half_a_cache_is_none(cached, suffix):
    path, folder = cached
    (victim,) = folder.glob(f"*{suffix}")
    victim.unlink()
    same(load_glove(path, cache_dir=folder), AWKWARD_WORDS, AWKWARD_VECTORS)
    assert victim.exists()


def test_a_changed_file_is_read_again(cached):
    path, folder = cached
    same(load_glove(write(path, "a 1\n"), cache_dir=folder), "a", [[1]])
    other = write(path.parent / "h.txt", AWKWARD)
    assert load_glove(other, cache_dir=folder).name == "h.txt"


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(tmp_path, caplog):
    path, folder = write(tmp_path / "g.txt", AWKWARD), write(tmp_path / "a_file", "")
    same(load_glove(path, cache_dir=folder), AWKWARD_WORDS, AWKWARD_VECTORS)
    assert "could not be written" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a_file", "g.txt"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, caplog, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    same(load_glove(write(tmp_path / "g.txt", AWKWARD), cache_dir=tmp_path / "c"), AWKWARD_WORDS, AWKWARD_VECTORS)
    assert "No space left" in caplog.text
    assert list((tmp_path / "c").iterdir()) == []


# -- tables --

TRAIN = ["A man opens the door.", "the man, sits."]
OTHER = ["The zebra sits."]


@pytest.fixture
def glove():
    words = ("the", "door", "zebra", "man", "unused", "sits", "a")
    vectors = np.arange(21, dtype=np.float32).reshape(7, 3) + 1
    return WordVectors(words=words, vectors=vectors, name="tiny.3d.txt", sha256="0" * 64)


def test_words_with_glove(glove):
    words = build_words(TRAIN, rule="2dtan", glove=glove, width=99, seed=0, other_sentences=OTHER)
    assert words.words == ("a", "door", "man", "sits", "the", "zebra")
    expected = np.zeros((10, 3), np.float32)
    for row, position in zip(range(4, 10), (6, 1, 3, 5, 0, 2), strict=True):
        expected[row] = 3 * position + np.array([1, 2, 3])
    np.testing.assert_array_equal(words.table, expected)
    assert words.table.dtype == np.float32
    assert not words.trainable
    assert words.source == "GloVe tiny.3d.txt, 3-d, frozen"
    np.testing.assert_array_equal(words.encode("The zebra opens a Door."), [8, 9, 1, 4, 5])
    assert words.encode("the").dtype == np.int64
    assert words.known("the man, opens the door.") == 3  # "man," keeps its comma by this rule
    assert build_words(TRAIN, rule="lgi", glove=glove, width=9, seed=0).known("the man, opens the door.") == 4


def test_words_without_glove():
    def build(seed, other=()):
        return build_words(TRAIN, rule="lgi", glove=None, width=50, seed=seed, other_sentences=other)

    words = build(0)
    assert words.words == ("a", "door", "man", "opens", "sits", "the")
    assert (words.table.shape, words.table.dtype) == ((10, 50), np.float32)
    assert words.trainable
    assert words.source == "learnt from scratch, 50-d (no GloVe file given)"
    assert not words.table[0].any()
    drawn = words.table[1:]
    assert abs(drawn.mean()) < 0.2  # N(0, 1): standard error 0.05
    assert abs(drawn.std() - 1) < 0.15
    assert drawn[0].any()  # the unknown word
    np.testing.assert_array_equal(words.encode("The zebra, opens"), [9, 1, 7])
    np.testing.assert_array_equal(build(0, OTHER).table, words.table)
    assert (build(1).table != words.table).any()


def test_tables_need_no_global_random_state():
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    build_words(TRAIN, rule="lgi", glove=None, width=4, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_wrong_word_lists(glove):
    with pytest.raises(ValueError, match="is empty"):
        build_words([], rule="lgi", glove=None, width=4, seed=0)
    with pytest.raises(ValueError, match=r"'\.' has no word"):
        build_words(["a door.", "."], rule="lgi", glove=None, width=4, seed=0)
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        build_words(TRAIN, rule="lgi", glove=None, width=0, seed=0)
    with pytest.raises(AnnotationError, match=r"tiny.3d.txt: has none of the 2 words of the data set \(such as 'eine'"):
        build_words(["Eine Tür"], rule="lgi", glove=glove, width=4, seed=0)


# -- sentence code --


def numpy_lstm(inputs_LW, weights):
    """One layer by its equations; gates in torch's order: input, forget, cell, output."""
    w_in, w_hidden, b_in, b_hidden = (weight.detach().numpy().astype(float) for weight in weights)
    hidden = cell = np.zeros(w_hidden.shape[1])
    outputs = []
    for inputs in inputs_LW:
        i, f, g, o = np.split(w_in @ inputs + b_in + w_hidden @ hidden + b_hidden, 4)
        cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        hidden = np.tanh(cell) / (1 + np.exp(-o))
        outputs.append(hidden)
    return np.array(outputs)


@pytest.fixture
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SentenceLSTM(5, 4)


@pytest.fixture
def batch():
    emb_BLW = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(1))
    return emb_BLW, torch.tensor([6, 1, 4])


def test_code_is_the_top_output_at_the_last_word(encoder, batch):
    emb_BLW, lengths_B = batch
    with torch.no_grad():
        code_BH = encoder(emb_BLW, lengths_B).numpy()
    assert encoder.lstm.num_layers == 3
    for code, emb_LW, length in zip(code_BH, emb_BLW.numpy(), lengths_B.tolist(), strict=True):
        outputs = emb_LW[:length]
        for weights in encoder.lstm.all_weights:
            outputs = numpy_lstm(outputs, weights)
        np.testing.assert_allclose(code, outputs[-1], atol=1e-6)


def test_padding_is_never_read_and_packing_changes_nothing(encoder, batch):
    emb_BLW, lengths_B = batch
    with torch.no_grad():
        code_BH = encoder(emb_BLW, lengths_B)
        other = emb_BLW.clone()
        other[1, 1:], other[2, 4:] = 7, torch.nan
        assert torch.equal(encoder(other, lengths_B), code_BH)
        packed = pack_padded_sequence(emb_BLW, lengths_B, batch_first=True, enforce_sorted=False)
        torch.testing.assert_close(encoder.lstm(packed)[1][0][-1], code_BH)


def test_gradient_reaches_real_words_only(encoder, batch):
    emb_BLW, lengths_B = batch
    emb_BLW.requires_grad_()
    encoder(emb_BLW, lengths_B).sum().backward()
    reached_BL = emb_BLW.grad.abs().sum(2) > 0
    assert torch.equal(reached_BL, torch.arange(6) < lengths_B[:, None])


@pytest.mark.parametrize("lengths", [[6, 0, 4], [6, 1, 7], [6, 1]])
def test_wrong_lengths(encoder, batch, lengths):
    with pytest.raises(ValueError, match=r"lengths must be in 1\.\.6|expected \[B, L, W\]"):
        encoder(batch[0], torch.tensor(lengths))


def test_cache_story_is_readable(cached):
    (story,) = cached[1].glob("*.json")
    document = json.loads(story.read_text())
    assert document["sha256"] == hashlib.sha256(AWKWARD.encode()).hexdigest()
    assert document["identity"]["name"] == "g.txt"
    assert (
        logging.getLogger("bsp.localization.grounding.words").level == logging.NOTSET
    )  # the module leaves logging to the program
