"""The tables as data: every row's recipes in every profile, what tables share, and the paper's numbers."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.pretraining.fusion import FusionSettings
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.rows import row_recipes
from bsp_platform.plan.sources import GivenFile
from bsp_platform.storage.manifests import recipe_hash
from paper_tables import SOURCES, TABLES, load, recipes


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_row_has_recipes_of_its_own_in_every_profile(table, profile):
    rows = TABLES[table].rows
    assert len({row.name for row in rows}) == len(rows)
    hashes = [
        recipe_hash(head)
        for row in rows
        for seed in (0, 1)
        for head in row_recipes(row, seed, PROFILES[profile](), SOURCES, 1).heads.values()
    ]
    assert len(set(hashes)) == len(hashes)


def test_tables_share_encoders_features_and_heads():
    vanilla, bsp = recipes("table4", "vanilla"), recipes("table4", "cls-S")
    assert recipes("table5", "two-stream").encoders == vanilla.encoders + bsp.encoders
    assert recipes("table5", "vanilla-random").encoders == vanilla.encoders + recipes("table4", "random").encoders
    assert recipes("table5", "vanilla").heads["gtad"] == vanilla.heads["gtad"]
    assert recipes("table2", "2dtan-bsp").heads["2dtan"] == recipes("table5", "two-stream").heads["2dtan"]
    distilled = recipes("table5", "distillation", seed=2).encoders[0]
    assert distilled.teachers == recipes("table4", "vanilla", 2).encoders + recipes("table4", "cls-S", 2).encoders
    assert recipes("table5", "two-vanilla", 1).encoders == vanilla_of(1) + vanilla_of(2)


def vanilla_of(seed: int):
    return recipes("table4", "vanilla", seed).encoders


def test_further_tables_share_what_the_first_ones_made():
    assert recipes("table1", "r18-bsp").heads["gtad"] == recipes("table5", "two-stream").heads["gtad"]
    assert recipes("depth", "r50-vanilla").heads == recipes("table1", "r50-vanilla").heads
    assert (
        recipes("table1", "r50-vanilla", profile="paper").encoders
        == recipes("table4", "vanilla", profile="paper-r50").encoders
    )
    for table, row in (("table3", "bsp"), ("supplement", "thumos-bsp"), ("gebd", "head-two-stream")):
        assert recipes(table, row).encoders == recipes("table5", "two-stream").encoders
    peaks, head = (recipes("gebd", f"{way}-bsp").heads for way in ("peaks", "head"))
    assert peaks["boundary-peaks"].streams == head["boundary-head"].streams


def test_rivals_have_the_encoders_and_heads_of_tables_4_and_5_for_neighbours():
    for row in ("random", "cls-S", "image", "vanilla"):
        assert recipes("rivals", row, 1) == recipes("table4", row, 1)
    for row in ("two-stream", "two-vanilla"):
        assert recipes("rivals", row, 1).heads["gtad"] == recipes("table5", row, 1).heads["gtad"]
    for row in ("arrow", "speediness", "pace"):
        (alone,) = recipes("rivals", row).encoders
        assert recipes("rivals", f"vanilla-{row}").encoders == (*vanilla_of(0), alone)
        # But for the pretext all is as in Table 4, clips, augmentation and training included.
        vanilla = vanilla_of(0)[0]
        assert replace(alone, pretext=vanilla.pretext) == vanilla
        assert recipes("rivals", row).heads["gtad"].head == recipes("table4", row="vanilla").heads["gtad"].head


def test_lofis_numbers_are_not_among_the_papers():
    rivals = TABLES["rivals"]
    assert rivals.other_paper == "LoFi"
    assert {row.name: row.other.get("mAP_avg") for row in rivals.rows if row.other} == {
        "arrow": 28.82, "speediness": 29.39, "image": 32.16, "vanilla": 33.59, "vanilla-arrow": 33.72,
        "vanilla-speediness": 33.75,
    }  # fmt: skip
    assert [row.name for row in rivals.rows if row.paper] == ["random", "cls-S", "vanilla", "two-stream"]
    assert [(cited.other["mAP_avg"], cited.paper) for cited in rivals.references] == [
        (33.84, {}),
        (34.49, {}),
    ]
    gains = [row.other["mAP_avg"] - 33.59 for row in rivals.rows if row.name.startswith("vanilla-") and row.other]
    assert gains == pytest.approx([0.13, 0.16])
    assert rivals.rows[10].paper["mAP_avg"] - 33.59 == pytest.approx(0.37)
    assert [claim.text for claim in rivals.claims if "LoFi" in claim.text] == [
        "vanilla + arrow of time above vanilla (LoFi: +0.13)", "vanilla + speediness above vanilla (LoFi: +0.16)",
    ]  # fmt: skip


def test_depths_differ_in_the_encoder_only_and_share_the_class_scores():
    r18, r34, r50 = (recipes("depth", f"r{depth}-vanilla").heads["gtad"] for depth in (18, 34, 50))
    assert [head.features.encoder.encoder.depth for head in (r18, r34, r50)] == [18, 34, 50]
    assert r18.class_scores == r34.class_scores == r50.class_scores
    assert r18.head == r50.head


def test_given_weights_stand_for_the_vanilla_encoder_of_their_depth():
    given = replace(
        SOURCES, vanilla_weights={PROFILES["paper"]().encoders["r50"]: GivenFile(path="tsm.pth", sha256="abc")}
    )
    rows = {row.name: row for row in TABLES["table1"].rows}
    made = {name: row_recipes(row, 0, PROFILES["paper"](), given, 1).encoders for name, row in rows.items()}
    assert made["r50-vanilla"][0].weights == "abc"
    assert made["r50-vanilla"][0].pretext is None
    assert made["r50-bsp"][0] == made["r50-vanilla"][0]
    assert not made["r50-bsp"][1].weights
    assert made["r18-vanilla"] == recipes("table1", "r18-vanilla", profile="paper").encoders
    with pytest.raises(ValueError, match="taken as they are"):
        replace(recipes("table4", "vanilla").encoders[0], weights="abc")


def test_given_class_scores_replace_our_classifier():
    given = replace(SOURCES, class_scores={"thumos": GivenFile(path="uNet_test.npy", sha256="abc")})
    rows = {row.name: row for row in TABLES["supplement"].rows}
    thumos, hacs = (
        row_recipes(rows[name], 0, PROFILES["mini"](), given, 1).class_scores()[0]
        for name in ("thumos-bsp", "hacs-bsp")
    )
    assert thumos.sha256 == "abc"
    assert hacs == recipes("supplement", "hacs-bsp").class_scores()[0]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_claims_name_rows_and_columns_of_their_table(table):
    names = {row.name for row in TABLES[table].rows}
    for claim in TABLES[table].claims:
        assert {claim.higher, claim.lower} <= names
        assert claim.metric in TABLES[table].columns
        papers = [row.paper.get(claim.metric) for row in TABLES[table].rows if row.name in (claim.higher, claim.lower)]
        assert claim.paper or None in papers  # where the paper has both numbers, it states a relation


@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_papers_numbers_show_the_relations_that_we_ascribe_to_it(table):
    paper = {row.name: row.paper for row in TABLES[table].rows}
    for claim in TABLES[table].claims:
        high, low = (paper[name].get(claim.metric) for name in (claim.higher, claim.lower))
        if claim.paper and None not in (high, low):
            assert high > low, claim.text


def test_joint_encoders_are_single_and_mix_both_kinds_of_clips():
    for row in ("two-head", "distillation"):
        (encoder,) = recipes("table5", row).encoders
        assert isinstance(encoder.pretext, FusionSettings)
        assert encoder.clips.plain_clips == len(encoder.clips.kinds) == 4
        assert encoder.pretext.distils == (row == "distillation")


def test_old_hashes_still_hold():
    """Results of the first version are found: its recipes had no teachers, plain clips or further streams."""
    from bsp_platform.storage.manifests import as_plain

    plain = as_plain(recipes("table4", "cls-S").heads["gtad"])
    assert "more_streams" not in plain
    assert "teachers" not in plain["features"]["encoder"]
    assert "plain_clips" not in plain["features"]["encoder"]["clips"]
    assert "more_streams" in as_plain(recipes("table5", "two-stream").heads["gtad"])


def test_the_precision_of_features_is_part_of_a_recipe_and_follows_from_the_profile():
    """Not from the device: what a GPU machine made is found on a laptop, and float32 results of before as well."""
    from bsp_platform.storage.manifests import as_plain

    mini, paper = (recipes("table4", "vanilla", profile=name).heads["gtad"] for name in ("mini", "paper"))
    assert "precision" not in as_plain(mini)["features"]
    assert as_plain(paper)["features"]["precision"] == "bfloat16"
    assert recipe_hash(replace(paper, features=replace(paper.features, precision="float32"))) != recipe_hash(paper)


def test_the_papers_gains_follow_from_its_numbers():
    """Differences that the paper's text and fact sheets state, from the numbers that we print beside ours."""
    two, table5 = ({row.name: row.paper for row in TABLES[name].rows} for name in ("table2", "table5"))
    assert two["lgi-bsp"]["mIoU"] - two["lgi-vanilla"]["mIoU"] == pytest.approx(7.15)
    assert two["2dtan-bsp"]["R1@0.5"] - two["2dtan-vanilla"]["R1@0.5"] == pytest.approx(3.28)
    assert max(table5, key=lambda name: table5[name].get("mAP_avg", 0)) == "two-stream"
    assert max(table5, key=lambda name: table5[name].get("R1@0.5", 0)) == "distillation"
    assert not table5["two-vanilla"]
    assert "lgi-text-blind" in two


def test_probe_targets_by_hand():
    targets = load("probe_streams", "snippet_targets")
    # 40 frames are 5 snippets. The action of frames 6 to 29 covers snippets 1 and 2 whole, 0 and 3 in part.
    truth = {"boundaries": [6, 30], "cuts": [{"frame": 30}, {"frame": 16}], "instances": [[6, 30]]}
    expected = [[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(targets(truth, 5), np.array(expected, bool))


def test_probe_windows_by_hand():
    rows = load("probe_streams", "windows")(np.array([[1.0], [2.0], [4.0]]))
    np.testing.assert_array_equal(rows, [[1, 1, 2], [1, 2, 4], [2, 4, 4]])


def test_an_unknown_task_is_named_with_those_there_are():
    row = replace(TABLES["table4"].rows[0], heads=("actionformer",))
    with pytest.raises(ValueError, match=r"no task is called 'actionformer'; there are gtad, hacs"):
        row_recipes(row, 0, PROFILES["mini"](), SOURCES, 1)
