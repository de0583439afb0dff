"""Sentences of Pantomime grounding: each is parsed anew and must be true of exactly one moment of its video."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bsp.datasets.pantomime.grounding_plan import GroundingWorldSettings, plan_video
from bsp.datasets.pantomime.sentences import vocabulary, write_sentences

# What the words mean, defined independently: the checker does not use the grammar that wrote them.
NOUNS = {"child": "child", "kid": "child", "giant": "giant", "titan": "giant", "wizard": "wizard", "magician": "wizard"}
VERBS = {
    "circles both arms": "arm circles", "circles arms": "arm circles", "bows": "bow", "takes a bow": "bow",
    "boxes": "box", "throws punches": "box", "jumps": "jump", "jumps up": "jump",
    "does jumping jacks": "jumping jack", "kicks": "kick", "does kicks": "kick", "squats": "squat",
    "does squats": "squat", "walks": "walk", "walks along": "walk", "waves": "wave", "waves a hand": "wave",
    "windmills": "windmill", "does windmills": "windmill",
}  # fmt: skip
AGAIN = {" for the first time": 0, " for the second time": 1, " again": 1, " once more": 1}
ORDER = {" before ": -1, " earlier than ": -1, " after ": 1, " later than ": 1}


def event(clause):
    """(actor, action) of "a giant throws punches"."""
    words = clause.split()
    if words[0] in ("the", "a"):
        words = words[1:]
    return NOUNS[words[0]], VERBS[" ".join(words[1:])]


def true_of(sentence, moments):
    """The moments, numbered by time, that the sentence is true of; one that happens twice is no reference."""
    assert sentence.endswith(".")
    text = sentence[:-1]
    for ending, position in AGAIN.items():
        if text.endswith(ending):
            same = [k for k, other in enumerate(moments) if other == event(text.removesuffix(ending))]
            return same[position : position + 1]
    for word, sign in ORDER.items():
        if word in text:
            what, reference = (event(clause) for clause in text.split(word))
            places = [k for k, other in enumerate(moments) if other == reference]
            assert len(places) == 1, f"{sentence}: the reference happens {len(places)} times"
            return [k for k, other in enumerate(moments) if other == what and (k - places[0]) * sign > 0]
    return [k for k, other in enumerate(moments) if other == event(text)]


def test_the_checker_on_a_story_by_hand():
    story = [("giant", "wave"), ("child", "squat"), ("giant", "wave"), ("child", "wave")]
    assert true_of("a titan waves a hand.", story) == [0, 2]  # not unique
    assert true_of("kid waves.", story) == [3]
    assert true_of("the giant waves for the first time.", story) == [0]
    assert true_of("the giant waves once more.", story) == [2]
    assert true_of("giant waves after the child does squats.", story) == [2]
    assert true_of("giant waves before the child waves.", story) == [0, 2]
    assert true_of("a wizard bows.", story) == []
    with pytest.raises(AssertionError, match="happens 2 times"):
        true_of("child squats before the giant waves.", story)


def test_all_that_can_be_said_of_a_story_by_hand():
    """Nothing more and nothing less: "child squats" has no rival, "giant waves before child waves" is not unique."""
    story = [("giant", "wave"), ("child", "squat"), ("giant", "wave"), ("child", "wave")]
    meanings = set()
    for seed in range(40):
        for sentence in write_sentences(story, 9, np.random.default_rng(seed)):
            meanings.add((sentence.kind, sentence.needs, sentence.moment, sentence.time, sentence.reference))
    assert meanings == {
        ("plain", "actor", 3, "", None),
        ("again", "order", 0, "first", None),
        ("again", "order", 2, "second", None),
        ("order", "order", 0, "before", 1),
        ("order", "order", 2, "after", 1),
        ("order", "actor", 3, "after", 1),
    }


def test_a_story_without_rivals_gets_no_sentence():
    assert write_sentences([("giant", "wave"), ("child", "squat"), ("giant", "bow")], 5, np.random.default_rng(0)) == ()


def test_three_times_is_no_second_time():
    story = [("giant", "wave"), ("child", "squat"), ("giant", "wave"), ("giant", "wave")]
    kinds = {sentence.kind for seed in range(20) for sentence in write_sentences(story, 5, np.random.default_rng(seed))}
    assert kinds == {"order"}  # only the first is the one before the squat


@pytest.fixture(scope="module")
def written():
    """(plan, story, sentence) of all sentences of the default data set."""
    settings = GroundingWorldSettings()
    plans = [plan_video(settings, split, k) for split in ("train", "test") for k in range(150)]
    return [
        (plan, [(plan.actors[m.actor], m.action) for m in plan.moments], sentence)
        for plan in plans
        for sentence in plan.sentences
    ]


def test_every_sentence_is_true_of_its_moment_alone(written):
    assert len(written) > 1000
    for _, story, sentence in written:
        assert true_of(sentence.text, story) == [sentence.moment], sentence


def test_every_sentence_has_a_moment_to_be_taken_for(written):
    for _, story, sentence in written:
        actor, action = story[sentence.moment]
        rest = story[: sentence.moment] + story[sentence.moment + 1 :]
        if sentence.needs == "order":
            assert (actor, action) in rest
        else:
            assert (actor, action) not in rest
            assert action in [what for who, what in rest if who != actor]


def test_kinds_and_needs_are_balanced(written):
    kinds = Counter(sentence.kind for _, _, sentence in written)
    assert set(kinds) == {"plain", "again", "order"}
    assert max(kinds.values()) < 1.3 * min(kinds.values())
    times = Counter(sentence.time for _, _, sentence in written if sentence.time)
    assert max(times.values()) < 1.3 * min(times.values())
    for _, _, sentence in written:
        assert (sentence.time == "") == (sentence.kind == "plain")
        assert (sentence.reference is not None) == (sentence.kind == "order")
    decided_by_order = [sentence.needs == "order" for _, _, sentence in written if sentence.kind == "order"]
    assert 0.6 < np.mean(decided_by_order) < 0.9


def test_sentences_are_short_and_of_few_words(written):
    words = {split: set() for split in ("train", "test")}
    for plan, _, sentence in written:
        text = sentence.text.removesuffix(".")
        assert text == text.lower()
        assert 2 <= len(text.split()) <= 10  # the longest of Charades-STA
        words[plan.split] |= set(text.split())
    assert words["test"] <= words["train"]
    known = vocabulary(["child", "giant", "wizard"], sorted(set(VERBS.values())))
    assert words["train"] == set(known)
    assert 35 <= len(known) <= 60
    assert known == sorted(known)


def test_no_video_says_the_same_twice(written):
    meanings = Counter((plan.video_id, sentence.kind, sentence.moment) for plan, _, sentence in written)
    assert max(meanings.values()) == 1
    per_video = Counter(plan.video_id for plan, _, _ in written)
    assert set(per_video.values()) == {3, 4, 5}
