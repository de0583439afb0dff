"""Network of LGI, Local-Global video-text Interactions (Mun, Cho and Han, CVPR 2020), the anchor-free grounding head.

A BiLSTM reads the sentence, sequential query attention (SQAN) turns it into a few phrases, each phrase is
multiplied into every video segment, and attention over the segments regresses start and end.

Letters: B queries of a batch, T segments, D feature width, H hidden width, L words, N phrases.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LSTM_LAYERS = 2
MASKED = -1e9  # score of padding before a softmax; its weight is then exactly 0


@dataclass(frozen=True, kw_only=True)
class LGISettings:
    """Settings of the head; the defaults are those of its Charades-STA release."""

    feature_width: int  # D, width of the snippet features, at least 1
    segments: int = 128  # T, rows that every video is padded or sampled to, at least 2
    hidden: int = 512  # H, width of words, phrases and segments; even, a multiple of heads
    max_words: int = 10  # later words of a sentence are cut off, at least 1
    phrases: int = 3  # N, steps of the query attention, at least 1
    attention: int = 256  # hidden width of the three additive attentions, at least 1
    kernel: int = 15  # width of the local convolutions, segments, odd
    blocks: int = 2  # non-local blocks, 0 = off
    heads: int = 4  # of a non-local block, at least 1
    dropout: float = 0.5  # of segments, positions and between LSTM layers, [0, 1), 0 = off
    guidance_weight: float = 1.0  # weight of the temporal attention guidance loss, 0 = off
    distinct_weight: float = 1.0  # weight of the distinct query attention loss, 0 = off
    distinct_lambda: float = 0.3  # how much of a word one phrase may hold, [0, 1]
    output: Literal["relu", "sigmoid"] = "relu"  # last activation; the ActivityNet release has the sigmoid
    learning_rate: float = 4e-4  # Adam, above 0
    batch_size: int = 100  # queries
    epochs: int = 500  # at least 1

    def __post_init__(self) -> None:
        counts = "feature_width hidden max_words phrases attention kernel heads batch_size epochs"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.segments < 2:
            raise ValueError(f"segments must be at least 2, got {self.segments}")
        if self.blocks < 0:
            raise ValueError(f"blocks must be 0 or more, got {self.blocks}")
        if self.hidden % 2 or self.hidden % self.heads:
            raise ValueError(f"hidden must be even and a multiple of heads ({self.heads}), got {self.hidden}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.distinct_lambda <= 1:
            raise ValueError(f"distinct_lambda must be in [0, 1], got {self.distinct_lambda}")
        for name in ("guidance_weight", "distinct_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.output not in ("relu", "sigmoid"):
            raise ValueError(f"output must be 'relu' or 'sigmoid', got {self.output!r}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


class LGIOutputs(NamedTuple):
    """Outputs of the network for a batch of queries."""

    moments_B2: Tensor  # start and end, fractions of the duration; end may be below start
    segment_weights_BT: Tensor  # temporal attention, sums to 1 over the real segments, 0 on padding
    word_weights_BNL: Tensor  # query attention, sums to 1 over the real words, 0 on padding


class AdditiveAttention(nn.Module):
    """Softmax of u^T tanh(W x) over the rows, without biases: [B, R, H] -> weights [B, R]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.inner = nn.Linear(width, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x_BRH: Tensor, mask_BR: Tensor | None = None) -> Tensor:
        """Weights [B, R] that sum to 1 over the rows where ``mask_BR`` (None: all); 0 elsewhere."""
        score_BR = self.score(self.inner(x_BRH).tanh())[:, :, 0]
        if mask_BR is not None:
            score_BR = score_BR.masked_fill(~mask_BR, MASKED)
        return score_BR.softmax(1)


class SentenceEncoder(nn.Module):
    """Word rows -> word features [B, L, H] and sentence feature [B, H] by a packed two-layer BiLSTM."""

    def __init__(self, table_VW: Tensor, trainable: bool, hidden: int, dropout: float):
        super().__init__()
        self.words = nn.Embedding.from_pretrained(table_VW.clone(), freeze=not trainable)
        self.lstm = nn.LSTM(
            table_VW.shape[1], hidden // 2, LSTM_LAYERS, batch_first=True, bidirectional=True, dropout=dropout
        )

    def forward(self, tokens_BL: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int64 [B, L], padded, and their numbers [B] -> words [B, L, H], sentence [B, H]."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(tokens_BL), lengths_B.cpu(), batch_first=True, enforce_sorted=False
        )
        words_BLH, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=tokens_BL.shape[1]
        )
        half = words_BLH.shape[2] // 2
        row = torch.arange(len(tokens_BL), device=tokens_BL.device)
        sentence_BH = torch.cat([words_BLH[row, lengths_B - 1, :half], words_BLH[:, 0, half:]], 1)
        return words_BLH, sentence_BH


class SequentialQueryAttention(nn.Module):
    """SQAN: N phrases of a sentence, one after the other; each step gets the previous phrase.

    Words [B, L, H], sentence [B, H], mask [B, L] (true at real words) -> phrases [B, N, H], word weights [B, N, L].
    """

    def __init__(self, hidden: int, attention: int, steps: int):
        super().__init__()
        self.query = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(steps))  # W_k
        self.guide = nn.Linear(2 * hidden, hidden)  # W_g
        self.guide_inner = nn.Linear(hidden, attention)  # W_1
        self.word_inner = nn.Linear(hidden, attention)  # W_2
        self.score = nn.Linear(attention, 1)  # u

    def forward(self, words_BLH: Tensor, sentence_BH: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Words, sentence and which words are real -> phrases [B, N, H], word weights [B, N, L]."""
        inner_BLA = self.word_inner(words_BLH)
        phrase_BH = torch.zeros_like(sentence_BH)
        phrases, weights = [], []
        for query in self.query:
            guide_BH = self.guide(torch.cat([query(sentence_BH), phrase_BH], 1)).relu()
            score_BL = self.score((self.guide_inner(guide_BH)[:, None] + inner_BLA).tanh())[:, :, 0]
            weight_BL = score_BL.masked_fill(~mask_BL, MASKED).softmax(1)
            phrase_BH = (weight_BL[:, :, None] * words_BLH).sum(1)
            phrases.append(phrase_BH)
            weights.append(weight_BL)
        return torch.stack(phrases, 1), torch.stack(weights, 1)


class PhraseInteraction(nn.Module):
    """One phrase multiplied into every segment, then a residual convolution block: [B, T, H], [B, H] -> [B, T, H].

    The block is not masked, as published: rows of padding are not 0 after the fusion (it has biases), so they
    reach real segments within the kernel's half width and the statistics of batch norm. They are the same
    whatever the padded features were.
    """

    def __init__(self, hidden: int, kernel: int):
        super().__init__()
        self.segment, self.phrase, self.fused = (nn.Linear(hidden, hidden) for _ in range(3))  # W_a, W_b, W_c
        self.conv_in = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, bias=False)
        self.norm_in = nn.BatchNorm1d(hidden)
        self.conv_out = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, bias=False)
        self.norm_out = nn.BatchNorm1d(hidden)

    def forward(self, segment_BTH: Tensor, phrase_BH: Tensor) -> Tensor:
        """Segments [B, T, H] under one phrase [B, H] -> [B, T, H]."""
        product_BTH = self.segment(segment_BTH).relu() * self.phrase(phrase_BH).relu()[:, None]
        fused_BHT = self.fused(product_BTH).relu().transpose(1, 2)
        local_BHT = self.norm_in(self.conv_in(fused_BHT)).relu()
        local_BHT = self.norm_out(self.conv_out(local_BHT))
        return (fused_BHT + local_BHT).relu().transpose(1, 2)


class NonLocalBlock(nn.Module):
    """x + multi-head self-attention(x), no output projection and no norm; keys of padding are masked."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))

    def forward(self, x_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T, H], of which the rows ``mask_BT`` are real -> the same shape."""
        split = (*x_BTH.shape[:2], self.heads, -1)
        query, key, value = (f(x_BTH).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        score = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])  # [B, heads, T, T]
        weight = score.masked_fill(~mask_BT[:, None, None], MASKED).softmax(3)
        return x_BTH + (weight @ value).transpose(1, 2).flatten(2)


class LGI(nn.Module):
    """The head: segments and words -> LGIOutputs. Made by :func:`bsp.localization.grounding.lgi.build_lgi`."""

    def __init__(self, settings: LGISettings, table_VW: Tensor, trainable_words: bool):
        super().__init__()
        self.settings = settings
        hidden, attention = settings.hidden, settings.attention
        self.sentence = SentenceEncoder(table_VW, trainable_words, hidden, settings.dropout)
        self.sqan = SequentialQueryAttention(hidden, attention, settings.phrases)
        self.video = nn.Linear(settings.feature_width, hidden)
        self.position = nn.Embedding(settings.segments, hidden)
        first = PhraseInteraction(hidden, settings.kernel)
        self.phrases = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(settings.phrases - 1))])
        self.phrase_attention = AdditiveAttention(hidden, attention)
        self.blocks = nn.ModuleList(NonLocalBlock(hidden, settings.heads) for _ in range(settings.blocks))
        self.segment_attention = AdditiveAttention(hidden, attention)
        # Choice: with bias, PyTorch's default (unknown for the published network)
        self.pooled = nn.Linear(hidden, hidden)
        inner, last = nn.Linear(hidden, hidden), nn.Linear(hidden, 2)  # in this order: their weights are drawn
        self.regressor = nn.Sequential(inner, nn.ReLU(), last)
        if settings.output == "relu":
            # Choice: the last biases start at 0.5. With PyTorch's default, near 0, an output is negative for every
            # query at more than half of the seeds; the last ReLU then has no gradient and the output may stay 0
            nn.init.constant_(last.bias, 0.5)

    def _segments(self, rows_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Segment embedding plus position embedding [B, T, H], 0 on padding."""
        dropout, real_BT1 = self.settings.dropout, mask_BT[:, :, None]
        video_BTH = F.dropout(self.video(rows_BTD).relu(), dropout, self.training)
        position_BTH = self.position.weight.relu().expand_as(video_BTH)
        # Choice: each query of a batch draws its own dropout of the positions (as for the segments)
        return (video_BTH + F.dropout(position_BTH, dropout, self.training)) * real_BT1

    def forward(self, rows_BTD: Tensor, mask_BT: Tensor, tokens_BL: Tensor, lengths_B: Tensor) -> LGIOutputs:
        """Features float32, mask bool (true at real rows, at least one), tokens int64, lengths int64 in 1..L."""
        words_BLH, sentence_BH = self.sentence(tokens_BL, lengths_B)
        real_words_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < lengths_B[:, None]
        phrases_BNH, word_weights_BNL = self.sqan(words_BLH, sentence_BH, real_words_BL)

        segment_BTH = self._segments(rows_BTD, mask_BT)
        phrase_weights_BN = self.phrase_attention(phrases_BNH)
        x_BTH = torch.zeros_like(segment_BTH)
        for n, interact in enumerate(self.phrases):
            x_BTH = x_BTH + phrase_weights_BN[:, n, None, None] * interact(segment_BTH, phrases_BNH[:, n])
        for block in self.blocks:
            x_BTH = block(x_BTH, mask_BT)

        weights_BT = self.segment_attention(x_BTH, mask_BT)
        moments_B2 = self.regressor(self.pooled((weights_BT[:, None] @ x_BTH)[:, 0]))
        moments_B2 = moments_B2.relu() if self.settings.output == "relu" else moments_B2.sigmoid()
        return LGIOutputs(moments_B2, weights_BT, word_weights_BNL)
