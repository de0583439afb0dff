"""2D-TAN and LGI on new videos and sentences: what is kept of a trained network and its vocabulary, and its use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bsp.features.record import duration_share
from bsp.localization.grounding.lgi import build_lgi, ground_lgi_by_attention
from bsp.localization.grounding.lgi_network import LGI
from bsp.localization.grounding.queries import Query
from bsp.localization.grounding.tan2d import TAN2D, TAN2DSettings, build_tan2d, ground_tan2d
from bsp.localization.grounding.words import UNKNOWN_ROW, Words, tokenise
from bsp.tasks.found import Segment
from bsp.tasks.grounding import Grounder, GroundingInputs
from bsp.tasks.head import Applied, Kept, VideoPart
from bsp.tasks.long_videos import hard_merged

# Choice: of LGI, which gives one moment a window; 2D-TAN has these two as settings.
_LGI_TIOU, _LGI_MOMENTS = 0.5, 5


def keep_grounder(inputs: GroundingInputs, trained: Grounder) -> Kept:
    """The trained network, which holds the word vectors, and the vocabulary."""
    words = trained.words
    return Kept(
        settings=trained.network.settings,
        tensors=trained.network.state_dict(),
        facts={
            "rule": words.rule,
            "words": list(words.words),
            "word_source": words.source,
            "blind": inputs.sentences.blind,
        },
    )


def apply_grounder(kept: Kept, device: str) -> Applied:
    """Moments of a sentence, as scoring makes them, within the video and with the start before the end.

    LGI gives no score of its own; see :func:`~bsp.localization.grounding.lgi.ground_lgi_by_attention`.
    """
    is_tan2d = isinstance(kept.settings, TAN2DSettings)
    table = kept.tensors["words.weight" if is_tan2d else "sentence.words.weight"].numpy()
    words = Words(
        rule=kept.facts["rule"], words=tuple(kept.facts["words"]), table=table, trainable=False,
        source=kept.facts["word_source"],
    )  # fmt: skip
    blind = kept.facts["blind"]
    network = (build_tan2d if is_tan2d else build_lgi)(kept.settings, table, False, 0)
    network.load_state_dict(kept.tensors)
    network.to(device).eval()

    def ground(part: VideoPart, sentence: str) -> list[Segment]:
        tokens = np.array([UNKNOWN_ROW])
        if blind != "text":
            unknown_words(words, sentence)
            tokens = words.encode(sentence)
        feat_SD = np.ones_like(part.feat_SD) if blind == "video" else part.feat_SD
        moments_K3 = _moments(network, feat_SD, Query(video=0, tokens=tokens, start=0.0, end=1.0), device)
        times_K2 = duration_share(part.info, moments_K3[:, :2], part.duration_s) * part.duration_s
        times_K2 = np.sort(np.clip(times_K2, 0.0, part.duration_s), axis=1)
        rows = zip(times_K2.tolist(), moments_K3[:, 2].tolist(), strict=True)
        return [Segment(label=sentence, start_s=a, end_s=b, score=score) for (a, b), score in rows]

    return Applied(ground=ground, unknown_words=lambda sentence: unknown_words(words, sentence), merge=_merge(network))


def unknown_words(words: Words, sentence: str) -> list[str]:
    """The words of a sentence that the vocabulary lacks. ValueError, naming them, if these are all of its words."""
    known = set(words.words)
    said = tokenise(sentence, words.rule)
    unknown = [word for word in said if word not in known]
    if len(unknown) == len(said):
        raise ValueError(
            f"{sentence!r:.200}: the model knows none of its words; it knows {len(words.words)} "
            f"({words.source}), such as {', '.join(words.words[:: max(1, len(words.words) // 8)][:8])}"
        )
    return unknown


@torch.no_grad()
def _moments(network: TAN2D | LGI, feat_SD: np.ndarray, query: Query, device: str) -> np.ndarray:
    """Float64 [K, 3]: start and end as fractions of the video, and score."""
    if isinstance(network, TAN2D):
        return ground_tan2d(network, [feat_SD], [query], device=device)[0]
    return ground_lgi_by_attention(network, feat_SD, query, device=device)


def _merge(network: TAN2D | LGI) -> Callable[[list[Segment], int], list[Segment]]:
    """The best moments of all windows."""
    tiou, most = _LGI_TIOU, _LGI_MOMENTS
    if isinstance(network, TAN2D):
        tiou, most = network.settings.nms_threshold, network.settings.moments
    return lambda segments, windows: hard_merged(segments, tiou=tiou, most=most)
