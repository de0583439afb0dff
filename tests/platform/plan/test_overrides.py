"""``--set``: every field by its dotted name, by its type and by the dataclass's own rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from bsp.clips.plan import BoundaryKind
from bsp_platform.plan.overrides import apply_overrides, as_lines
from bsp_platform.plan.profiles import PROFILES, mini

KINDS = BoundaryKind


class Colour(Enum):
    RED = "r"
    GREEN = "g"


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: int = 1
    high: int = 2
    rate: float = 0.1

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True, kw_only=True)
class Other:
    depth: int = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    either: Inner | Other = field(default_factory=Other)
    maybe: Inner | None = None
    on: bool = False
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow", 3] = "fast"
    pairs: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    place: Path = Path("a/b")
    note: str | None = None
    texts: tuple[str, ...] = ()


@pytest.mark.parametrize("name", PROFILES)
def test_every_field_can_be_set_to_its_own_printed_value(name):
    profile = PROFILES[name]()
    lines = as_lines(profile)
    assert len(lines) > 100
    for line in lines:
        assert apply_overrides(profile, [line]) == profile, line
    assert apply_overrides(profile, lines) == profile


def test_every_value_of_every_type_comes_back():
    changed = Outer(
        inner=Inner(low=5, high=7, rate=1e-7),
        either=Inner(rate=2.5e20),
        on=True,
        colour=Colour.GREEN,
        mode=3,
        pairs=((5, 6),),
        place=Path("x y/z"),
        note="a=b, c",
        texts=("one", "two"),
    )
    lines = as_lines(changed)
    assert apply_overrides(Outer(either=Inner()), lines) == changed
    assert as_lines(apply_overrides(changed, ["texts=()", "pairs=[]"]))[-4:] == [
        "pairs = ()",
        "place = x y/z",
        "note = a=b, c",
        "texts = ()",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("clips.kinds=dc,ss", (KINDS.DIFF_CLASS, KINDS.SAME_SPEED)),
        ("clips.kinds=(DIFF_SPEED)", (KINDS.DIFF_SPEED,)),
        ("clips.kinds=[ds, same_class]", (KINDS.DIFF_SPEED, KINDS.SAME_CLASS)),
        ("clips.gammas=0.5", (0.5,)),
        ("clips.gammas=0.5, 2", (0.5, 2.0)),
        ("clips.change_point=3", 3),
        ("clips.change_point=none", None),
        ("train.clips=51_200", 51200),
        ("train.learning_rate = 1e-2", 0.01),
        ("peaks.measure=cosine", "cosine"),
        ("tan2d.normalise=no", False),
        ("encoder.width=32", 32),
    ],
)
def test_a_text_is_read_by_its_annotation(text, value):
    changed = apply_overrides(mini(), [text])
    parent, _, name = text.partition("=")[0].strip().partition(".")
    assert getattr(getattr(changed, parent), name) == value


def test_nothing_else_changes():
    before, after = as_lines(mini()), as_lines(apply_overrides(mini(), ["train.clips=3200"]), mini())
    assert set(after) - set(before) == {"train.clips = 3200  (changed; was 25600)"}
    assert set(before) - set(after) == {"train.clips = 25600"}
    assert before.index("train.clips = 25600") == after.index("train.clips = 3200  (changed; was 25600)")


def test_fields_that_depend_on_each_other_change_together():
    settings = ["train.clips=4848", "train.batch_size=48"]  # 25600 is no multiple of 48, 4848 none of 32
    assert apply_overrides(mini(), settings).train.steps == 101
    with pytest.raises(ValueError, match=r"^--set train.batch_size=48: train: clips 25600 must be .* batch_size 48$"):
        apply_overrides(mini(), settings[1:])


def test_the_present_class_of_a_union_says_which_fields_there_are():
    assert apply_overrides(Outer(), ["either.depth=5"]).either == Other(depth=5)
    assert apply_overrides(Outer(either=Inner()), ["either.high=5"]).either == Inner(high=5)
    with pytest.raises(ValueError, match=r"there is no either\.depth"):
        apply_overrides(Outer(either=Inner()), ["either.depth=5"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["train.clip=64"], "--set train.clip=64: there is no train.clip; did you mean train.clips"),
        (["learning_rate=1"], "there is no learning_rate; did you mean train.learning_rate, "),
        (["train.batchsize=1"], "did you mean train.batch_size"),
        (["zzz=1"], "there is no zzz; there are name, about, "),
        (["train=5"], "--set train=5: train has fields of its own: train.clips, train.batch_size"),
        (["train.clips"], "--set train.clips: expected NAME=VALUE"),
        (["=5"], "expected NAME=VALUE"),
        (["train.clips=many"], "--set train.clips=many: a whole number is expected, not 'many'"),
        (["train.clips=1.5"], "a whole number is expected"),
        (["train.clips="], "a whole number is expected, not ''"),
        (["train.learning_rate=nan"], "a finite number is expected, not 'nan'"),
        (["clips.change_point=x"], "a whole number is expected, not 'x'; or none is expected"),
        (["clips.kinds=dc,sx"], "dc, sc, ds, ss is expected, not 'sx'"),
        (["peaks.measure=cosin"], "l1 or l2 or cosine is expected, not 'cosin'; did you mean cosine?"),
        (["tan2d.normalise=maybe"], "true or false is expected, not 'maybe'"),
        (["stories.tempo=1"], "2 values with commas between them are expected, not 1"),
        (["resources=laptop"], "this field is not set by a text"),
        (["train.clips=64", "train.clips=96"], "train.clips is set twice, first by 'train.clips=64'"),
        (["train.threads=0"], "--set train.threads=0: train: log_every_steps, checkpoint_every_steps and threads"),
        (["clips.epsilon=9"], "--set clips.epsilon=9: clips: epsilon must lie in 0..4 frames"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(texts, message):
    with pytest.raises(ValueError, match="--set") as error:
        apply_overrides(mini(), texts)
    assert message in str(error.value)


def test_a_part_that_is_none_has_no_fields():
    with pytest.raises(ValueError, match=r"--set maybe.low=1: maybe is none here and has no fields"):
        apply_overrides(Outer(), ["maybe.low=1"])
    assert apply_overrides(Outer(maybe=Inner()), ["maybe=none"]).maybe is None
    with pytest.raises(ValueError, match=r"maybe itself is set by 'maybe=none'"):
        apply_overrides(Outer(maybe=Inner()), ["maybe=none", "maybe.low=1"])


def test_the_rules_of_the_outermost_are_reported_too():
    with pytest.raises(ValueError, match=r"^--set low=3: Inner: low 3 is above high 2$"):
        apply_overrides(Inner(), ["low=3"])
