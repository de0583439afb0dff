"""Relations between rows: verdicts, and what becomes of rows and predictions that are missing."""

import numpy as np
import pytest
from scipy import stats

from bsp_platform.plan.rows import Claim
from bsp_platform.report.claims import check_claims, claim_lines, holds, how_told, verdict_text
from bsp_platform.report.resampling import Samples

CLAIM = Claim(text="a above b", higher="a", lower="b", metric="AP")


def row(name: str, *seeds: float, paper: dict | None = None) -> dict:
    scores = {"AP": {"seeds": {str(k): v for k, v in enumerate(seeds)}}} if seeds else {}
    return {"name": name, "scores": scores, "paper": paper or {}}


def rows(*differences: float) -> list[dict]:
    return [row("a", *(40 + d for d in differences)), row("b", *[40.0] * len(differences))]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "not run"),
        ([0.5], "higher (one seed)"),
        ([0.0], "not higher (one seed)"),
        ([1.0, 2.0, 1.5], "appears"),  # 1.5 +- 0.29 * 4.30 = 0.26 to 2.74
        ([1.0, 2.0, 3.0], "no difference larger than 4.48"),  # 2 +- 4.303 / 3 ** 0.5
        ([-1.0, -2.0, -1.5], "reversed"),
        ([0.0, 0.0], "no difference larger than 0.00"),
    ],
)
def test_verdicts_of_seeds_alone(differences, expected):
    (claim,) = check_claims([CLAIM], rows(*differences))
    assert verdict_text(claim) == expected
    assert holds(claim) == (expected in ("appears", "higher (one seed)"))
    assert claim["videos"] == 0


def samples(centre: float, *offsets: float, videos: tuple[str, ...] = ("x", "y", "z")) -> dict[str, Samples]:
    return {"AP": Samples(videos, np.array([centre + offset for offset in offsets]))}


def test_samples_are_paired_by_video():
    """Both rows vary by 10 points from sample to sample, their difference by 0.1: the interval is of the difference."""
    resampled = {("a", 0): samples(41.0, 10.1, -10.1), ("b", 0): samples(40.0, 10.0, -10.0)}
    (claim,) = check_claims([CLAIM], rows(1.0), resampled)
    error = np.std([0.1, -0.1], ddof=1)
    assert claim["error_of_videos"] == pytest.approx(error)
    assert claim["low"] == pytest.approx(1 - stats.t.ppf(0.975, 2) * error)
    assert (claim["error_of_seeds"], claim["videos"], claim["verdict"]) == (None, 3, "appears (one seed)")
    assert holds(claim)
    assert "paired bootstrap of 3 test videos." in how_told([claim])
    wider = {("a", 0): samples(41.0, 11.0, -11.0), ("b", 0): samples(40.0, 10.0, -10.0)}
    (claim,) = check_claims([CLAIM], rows(1.0), wider)
    assert verdict_text(claim) == f"no difference larger than {claim['high']:.2f} (one seed)"
    assert not holds(claim)


def test_seeds_without_samples_and_other_videos_are_not_paired():
    resampled = {("a", 0): samples(41.0, 1, -1), ("b", 0): samples(40.0, 1, -1), ("a", 1): samples(42.0, 9, -9)}
    (claim,) = check_claims([CLAIM], rows(1.0, 2.0), resampled)  # b's predictions of seed 1 are gone
    assert claim["error_of_videos"] == 0.0
    assert claim["differences"] == [1.0, 2.0]
    other = {("a", 0): samples(41.0, 1, -1), ("b", 0): samples(40.0, 1, -1, videos=("x", "y", "w"))}
    (claim,) = check_claims([CLAIM], rows(1.0, 2.0), other)
    assert (claim["error_of_videos"], claim["videos"]) == (None, 0)
    assert how_told([claim]).startswith("Intervals: spread of the seeds.")


def test_seeds_are_paired_and_the_papers_difference_stands_beside_ours():
    rows = [row("a", 50.0, 52.0, 60.0, paper={"AP": 48.1}), row("b", 49.0, 50.0, paper={"AP": 46.9}), row("c")]
    claims = [
        Claim(text="a above b", higher="a", lower="b", metric="AP"),
        Claim(text="a above c", higher="a", lower="c", metric="AP", paper=False),
        Claim(text="a above d", higher="a", lower="d", metric="AP"),  # a row that was left out
    ]
    first, second = check_claims(claims, rows)
    assert first["differences"] == [1.0, 2.0]  # seed 2 has no partner
    assert first["paper_difference"] == pytest.approx(1.2)
    assert first["mean"] == 1.5
    assert second["verdict"] == "not run"
    lines = claim_lines([first, second])
    half = stats.t.ppf(0.975, 1) * 0.5  # 6.35
    assert lines[1][:4] == ["a above b", "AP", "+1.50 ± 0.71", f"{1.5 - half:+.2f} to {1.5 + half:+.2f}"]
    assert lines[1][5:] == ["+1.20", "no difference larger than 7.85"]
    assert lines[2][2:] == ["", "", "", "not in the paper", "not run"]
    assert how_told([second]) == ""


def test_relations_of_an_earlier_version_are_still_shown():
    old = {
        "text": "t", "metric": "AP", "mean": 1.0, "std": 2.0, "paper_difference": None, "stated_by_paper": True,
        "verdict": "within the noise",
    }  # fmt: skip
    assert claim_lines([old])[1] == ["t", "AP", "+1.00 ± 2.00", "", "", "", "within the noise"]
    assert how_told([old]) == ""
    assert not holds(old)
