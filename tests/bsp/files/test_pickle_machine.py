"""The stack machine under hostile pickles: bounded steps, depth, memory and time, and nothing but trees comes out."""

from __future__ import annotations

import pickle

import pytest

from bsp.files.pickle_machine import DEEPEST, Machine, Refused, check_tree


def nothing(module, name):
    raise Refused(f"{module}.{name}")


def load(content: bytes, **keywords):
    return Machine(content, nothing, **keywords).load()


DEEP = 300_000
LONG = (10**18).to_bytes(8, "little")


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02}" + b")" + b"\x85" * DEEP + b"K\x01s.", "a tuple as the key"),  # C recursion in hash()
        (b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".", f"more than {DEEPEST} containers"),
        (b"\x80\x02" + b")" + b"\x85" * DEEP + b".", f"more than {DEEPEST} containers"),
        (b"\x80\x02" + b"(" * DEEP + b".", "open marks"),
        (b"\x80\x02]q\x00h\x00a.", "holds itself"),
        # each list holds the one before twice: 2^40 lists when unfolded
        (b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(40)) + b".", "unfold to more"),
        (b"\x80\x02}\x8a\x20" + bytes(31) + b"\x01K\x01s.", "a int as the key"),  # 2^248: integers that collide
        (b"\x80\x02}(]K\x01u.", "a list as the key"),
        (b"\x80\x04\x8f(K\x01\x85\x90.", "a tuple as the key of a dict or in a set"),
        (b"\x80\x02\x8b" + (10**6).to_bytes(4, "little") + bytes(10**6) + b".", "an integer of 1000000 bytes"),
    ],
)
def test_what_ends_or_stops_other_readers_is_refused(content, reason):
    with pytest.raises(Refused, match=reason):
        load(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + LONG + b"abc.",  # BINBYTES8 of an exabyte
        b"\x80\x04\x8d" + LONG + b"abc.",  # BINUNICODE8
        b"\x80\x05\x96" + LONG + b"abc.",  # BYTEARRAY8
        b"\x80\x02\x8b\xff\xff\xff\xffabc.",  # LONG4 of -1 bytes
        b"\x80\x02T\xff\xff\xff\xffabc.",  # BINSTRING of -1 bytes
        b"I" + b"9" * 10_000 + b"\n.",
        b"L" + b"9" * 10_000 + b"L\n.",
        b"F" + b"9" * 10_000 + b"\n.",
        b"g" + b"9" * 10_000 + b"\n.",
        b"\x80\x02j\xff\xff\xff\xff.",  # the memo's place 4,294,967,295
        b"\x80\x02K\x01K\x01R.",  # a number is called
        b"\x80\x02K\x01}b.",  # a state for a number
        b"\x80\x02(K\x01K\x02K\x03d.",  # a key without a value
        b"\x80\x02U\x01xK\x01a.",
        b"t.",
        b"0.",
        b"\x85.",
        b".",
        b"",
        b"V\\ud800\n.",
    ],
)
def test_damaged_programs_end_in_an_error(content):
    with pytest.raises((Refused, ValueError, IndexError, KeyError, TypeError)):
        load(content)


def test_a_huge_place_in_the_memo_costs_nothing():
    assert load(b"\x80\x02]r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == []  # Python's own reader reserves 16 GiB for it


def test_steps_are_counted():
    content = pickle.dumps(list(range(1000)))
    assert load(content, steps=3000) == list(range(1000))
    with pytest.raises(Refused, match="more objects"):
        load(content, steps=500)


def test_shared_and_deep_but_within_bounds():
    row = [1.5, "x"]
    value = {"a": [row, row], "b": (row, {1, 2}, frozenset({3})), "c": None}
    assert load(pickle.dumps(value)) == value
    for _ in range(DEEPEST - 4):
        value = [value]
    assert load(pickle.dumps(value)) == value
    with pytest.raises(Refused, match="containers inside"):
        check_tree([[[[value]]]])
