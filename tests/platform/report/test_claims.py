"""Relations between rows: the rule by hand, and what becomes of rows that are missing."""

import pytest

from bsp_platform.plan.rows import Claim
from bsp_platform.report.claims import check_claims, claim_lines, verdict


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "not run"),
        ([0.5], "higher (one seed)"),
        ([0.0], "not higher (one seed)"),
        ([1.0, 2.0, 3.0], "appears"),  # mean 2 > standard deviation 1
        ([0.1, 0.2, 9.0], "within the noise"),  # every seed, but mean 3.1 < standard deviation 5.1
        ([2.0, 2.0, -0.1], "within the noise"),  # not every seed
        ([-1.0, -2.0, -3.0], "reversed"),
        ([0.0, 0.0], "within the noise"),
    ],
)
def test_the_rule(differences, expected):
    assert verdict(differences) == expected


def row(name: str, *seeds: float, paper: dict | None = None) -> dict:
    scores = {"AP": {"seeds": {str(k): v for k, v in enumerate(seeds)}}} if seeds else {}
    return {"name": name, "scores": scores, "paper": paper or {}}


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
    assert first["verdict"] == "appears"
    assert second["verdict"] == "not run"
    lines = claim_lines([first, second])
    assert lines[1] == ["a above b", "AP", "+1.50 ± 0.71", "+1.20", "appears"]
    assert lines[2][3] == "not in the paper"
