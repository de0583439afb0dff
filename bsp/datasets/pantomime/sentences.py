"""Sentences for the moments of a Pantomime grounding video: a small grammar over actor, action and order.

Every sentence is true of exactly one moment of its video, and another moment of the video shares its action
(and even its actor) so that part of the words is not enough. Three kinds:

    plain   the giant waves                           that actor does that action once; the other actor too
    again   the giant waves for the second time       the same actor does it twice
    order   the giant waves before the child squats   the reference (child, squat) happens once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

KINDS = ("plain", "again", "order")
# Choice: at most 10 words, as in Charades-STA; LGI reads no more.
MAX_WORDS = 10
# Choice: where possible, this share of order sentences is about an action that the actor does twice, so that order and
# not the actor identifies the moment.
_ORDER_NEEDED_SHARE = 0.75

_ARTICLES = ("the {}", "a {}", "{}")
_ACTORS = {
    "child": ("child", "kid"),
    "giant": ("giant", "titan"),
    "wizard": ("wizard", "magician"),
}
_ACTIONS = {
    "arm circles": ("circles both arms", "circles arms"),
    "bow": ("bows", "takes a bow"),
    "box": ("boxes", "throws punches"),
    "jump": ("jumps", "jumps up"),
    "jumping jack": ("does jumping jacks",),
    "kick": ("kicks", "does kicks"),
    "squat": ("squats", "does squats"),
    "walk": ("walks", "walks along"),
    "wave": ("waves", "waves a hand"),
    "windmill": ("windmills", "does windmills"),
}
_TIMES = {
    "first": ("for the first time",),
    "second": ("for the second time", "again", "once more"),
    "before": ("before", "earlier than"),
    "after": ("after", "later than"),
}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence and what it means; moments are numbered in the order of time."""

    text: str  # lower case, at most MAX_WORDS words, with a final period
    kind: str  # one of KINDS
    needs: str  # "actor" or "order": what distinguishes its moment from others with the same action
    moment: int  # the moment described
    time: str  # "" (plain) or a key of _TIMES
    reference: int | None  # the moment that comes after it ("before") or before it ("after")


Meaning = tuple[str, str, int, str, int | None]  # kind, needs, moment, time, reference


def write_sentences(moments: Sequence[tuple[str, str]], count: int, rng: np.random.Generator) -> tuple[Sentence, ...]:
    """Up to ``count`` sentences about ``moments``, (actor, action) in the order of time, kinds in turn.

    No moment gets two sentences of one kind. Fewer than ``count`` only where no further one is unique.
    """
    open_ones: dict[str, list[Meaning]] = {kind: [] for kind in KINDS}
    for meaning in _meanings(moments):
        open_ones[meaning[0]].append(meaning)
    sentences: list[Sentence] = []
    kinds: list[str] = []
    while len(sentences) < count and any(open_ones.values()):
        kinds = kinds or [KINDS[k] for k in rng.permutation(len(KINDS))]
        kind = kinds.pop()
        if not open_ones[kind]:
            continue
        chosen = _draw(open_ones[kind], len(moments), rng)
        open_ones[kind] = [other for other in open_ones[kind] if other[2] != chosen[2]]
        texts = _texts(moments, chosen)
        _, needs, moment, time, reference = chosen
        text = texts[int(rng.integers(len(texts)))]
        sentences.append(Sentence(text=text, kind=kind, needs=needs, moment=moment, time=time, reference=reference))
    return tuple(sentences)


def _meanings(moments: Sequence[tuple[str, str]]) -> list[Meaning]:
    """All meanings that fit exactly one moment, while another moment shares a part of it."""
    found: list[Meaning] = []
    for moment, (actor, action) in enumerate(moments):
        same = [k for k, other in enumerate(moments) if other == (actor, action)]
        others_too = any(other != actor and what == action for other, what in moments)
        if len(same) == 1 and others_too:
            found.append(("plain", "actor", moment, "", None))
        if len(same) == 2:
            found.append(("again", "order", moment, "first" if moment == same[0] else "second", None))
        for reference, event in enumerate(moments):
            if event == (actor, action) or moments.count(event) > 1 or not (len(same) > 1 or others_too):
                continue
            time = "before" if moment < reference else "after"
            if [k for k in same if (k < reference) == (moment < reference)] == [moment]:
                found.append(("order", "order" if len(same) > 1 else "actor", moment, time, reference))
    return [meaning for meaning in found if _texts(moments, meaning)]


def _draw(meanings: list[Meaning], count: int, rng: np.random.Generator) -> Meaning:
    """Draw one of the ``meanings`` of a video of ``count`` moments.

    A moment's probability depends on its place, not on its number of meanings.
    """
    needing = [meaning for meaning in meanings if meaning[1] == "order"]
    if 0 < len(needing) < len(meanings):
        rest = [meaning for meaning in meanings if meaning[1] != "order"]
        meanings = needing if rng.random() < _ORDER_NEEDED_SHARE else rest
    choices = sorted({(moment, time) for _, _, moment, time, _ in meanings})
    # Choice: "first" and "before" prefer late moments, "second" and "after" early ones; otherwise these words
    # alone would say when. Plain sentences prefer the ends of the video, which the others leave out.
    late, early = ("first", "before"), ("second", "after")
    weight = np.array(
        [
            k + 1.0 if time in late else count - k if time in early else 0.5 + abs(k - (count - 1) / 2)
            for k, time in choices
        ]
    )
    weight = weight**2 / (weight**2).sum()
    moment, time = choices[int(rng.choice(len(choices), p=weight))]
    meanings = [meaning for meaning in meanings if meaning[2:4] == (moment, time)]
    return meanings[int(rng.integers(len(meanings)))]


def _texts(moments: Sequence[tuple[str, str]], meaning: Meaning) -> list[str]:
    """All wordings of a meaning with at most MAX_WORDS words."""
    _, _, moment, time, reference = meaning
    parts: list[Sequence[str]] = [_clauses(*moments[moment])]
    if time:
        parts.append(_TIMES[time])
    if reference is not None:
        parts.append(_clauses(*moments[reference]))
    texts = [" ".join(words) for words in product(*parts)]
    return [f"{text}." for text in texts if len(text.split()) <= MAX_WORDS]


def _clauses(actor: str, action: str) -> list[str]:
    return [
        f"{article.format(noun)} {words}"
        for article, noun, words in product(_ARTICLES, _ACTORS[actor], _ACTIONS[action])
    ]


def vocabulary(actors: Sequence[str], actions: Sequence[str]) -> list[str]:
    """All words that sentences about these can hold, sorted."""
    phrases = list(_ARTICLES)
    phrases += [noun for actor in actors for noun in _ACTORS[actor]]
    phrases += [phrase for action in actions for phrase in _ACTIONS[action]]
    phrases += [phrase for options in _TIMES.values() for phrase in options]
    return sorted({word for phrase in phrases for word in phrase.split()} - {"{}"})
