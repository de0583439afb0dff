"""Names in two files that mean the same and are spelt differently: video ids with and without ``v_``, labels with
underscores. Used for hints to the user, and to find a video's features and labels where there are none of its own id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable

from bsp.files.text import VIDEO_EXTENSIONS

_FILE_ENDINGS = (*VIDEO_EXTENSIONS, ".npy", ".json", ".h5", ".csv")
_CLIP_TIMES = re.compile(r"_\d{6}_\d{6}$")


def _bare(name: str) -> str:
    name = name.replace("\\", "/").rpartition("/")[2]
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in _FILE_ENDINGS else name


def _bare_id(name: str) -> str:
    return _CLIP_TIMES.sub("", _bare(name).removeprefix("v_")).casefold()


def other_v(video_id: str) -> str:
    """The id without the ``v_`` in front or, if it has none, with it: ActivityNet's annotations leave out the ``v_`` of
    its files."""
    return video_id.removeprefix("v_") if video_id.startswith("v_") else f"v_{video_id}"


# (difference between two spellings, function that removes it), simplest first.
_ID_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ('one side has "v_" in front', lambda name: name.removeprefix("v_")),
    ("one side has a folder or file ending", _bare),
    ("upper and lower case differ", str.casefold),
    ('one side has a clip\'s times, such as "_000010_000020"', lambda name: _CLIP_TIMES.sub("", _bare(name))),
    ("several of v_, folder, file ending, case and times differ", _bare_id),
)  # fmt: skip
_LABEL_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("upper and lower case differ", str.casefold),
    ("underscores and blanks differ", lambda name: " ".join(name.replace("_", " ").split())),
    ("blanks, underscores, punctuation or case differ", lambda name: re.sub(r"[\W_]+", "", name).casefold()),
)


def name_remark(unknown: Iterable[str], known: Collection[str], *, labels: bool = False) -> str:
    """How one of the ``unknown`` names is probably spelt among the ``known`` ones: "'A_b' is probably 'A b' (...)".

    "" if no rule makes any of them equal. ``labels``: they are class names or sentences, else video ids.
    """
    unknown = list(dict.fromkeys(unknown))
    for difference, rule in _LABEL_RULES if labels else _ID_RULES:
        known_by_key = {rule(name): name for name in known}
        hit = next((name for name in unknown if rule(name) in known_by_key), None)
        if hit is not None:
            return f"{hit!r} is probably {known_by_key[rule(hit)]!r} ({difference})"
    if labels and unknown and all(name.strip().isdecimal() for name in unknown):
        return f"{unknown[0]!r} is a number where a name such as {next(iter(known), '')!r} is expected"
    return ""
