"""Whether a plan fits is decided by arithmetic, before anything starts."""

import pytest

from bsp_platform.plan.resources import Resources, laptop_resources


def test_a_row_needs_the_widest_of_its_stages():
    row = Resources(
        train_workers=2, cpus_per_worker=1, makers_per_worker=3, cpus_per_maker=0.5,
        extractors=2, cpus_per_extractor=1, cpus_per_head=4,
    )  # fmt: skip
    assert row.row_cpus == pytest.approx(0.01 + 2 * (1 + 1.5))
    assert row.rows_at_a_time(10.02) == 2
    assert row.rows_at_a_time(10.01) == 1


def test_two_rows_fit_two_cores_and_two_workers_fit_one_row():
    assert laptop_resources(1).rows_at_a_time(2) == 2
    assert laptop_resources(2).rows_at_a_time(2) == 1
    assert laptop_resources(1).rows_at_a_time(1) == 1


def test_a_plan_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"one row needs 0\.96 CPUs.*there are 0\.9 CPUs.*larger cluster"):
        laptop_resources(3).rows_at_a_time(0.9)


def test_a_row_that_is_too_wide_runs_on_fewer_processes():
    # 3 * 0.95 and 0.01 CPUs do not fit on 2, but a third of them does; then there is room for nothing else.
    assert laptop_resources(3).rows_at_a_time(2) == 1
    assert laptop_resources(3).rows_at_a_time(2.86) == 1
    assert laptop_resources(3).rows_at_a_time(5.73) == 2


def test_gpus_count_too():
    row = Resources(gpus_per_worker=1, gpus_per_extractor=1, decoders_per_extractor=1)
    assert row.rows_at_a_time(64, 4) == 4
    with pytest.raises(ValueError, match=r"1\.00 GPUs"):
        row.rows_at_a_time(64, 0)


@pytest.mark.parametrize("field", ["train_workers", "makers_per_worker", "extractors"])
def test_none_is_not_a_number_of_processes(field):
    with pytest.raises(ValueError, match="at least 1"):
        Resources(**{field: 0})
