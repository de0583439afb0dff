"""What a failed row says: the message of the error that a user can act on, out of Ray's wrappers."""

import pytest

from bsp_platform.data_context import data_context
from bsp_platform.row_runner import reason
from bsp_platform.storage_errors import StorageFull


def fails(batch):
    try:
        raise KeyError("unseen")
    except KeyError as error:
        raise ValueError(f"features of {len(batch)} column do not fit\n    a.npy\nremove them") from error


@pytest.mark.ray
def test_an_error_in_a_function_of_ray_data_is_told_with_its_message(ray_session):
    with data_context():
        rows = ray_session.data.range(3).map_batches(fails, num_cpus=0.1)

    @ray_session.remote(num_cpus=0)
    def below_a_task():
        return rows.materialize().count()

    for run in (rows.materialize, lambda: ray_session.get(below_a_task.remote())):
        with pytest.raises(Exception, match="do not fit") as found:
            run()
        assert reason(found.value) == "features of 1 column do not fit\n    a.npy\nremove them"


def test_an_error_of_ours_is_told_wherever_it_stands_in_the_chain():
    full = StorageFull("no space left under /storage")
    full.__cause__ = OSError(28, "No space left on device")
    outer = RuntimeError("a worker failed")
    outer.__cause__ = full
    assert reason(outer) == "no space left under /storage"
    assert reason(ValueError()) == "ValueError"
    assert reason(KeyError("unseen")) == "KeyError: 'unseen'"
    assert reason(RuntimeError("Traceback (most recent call last):\n  File x\nOSError: gone")) == "OSError: gone"


@pytest.mark.ray
def test_what_one_data_set_sets_does_not_reach_the_next(ray_session):
    before = ray_session.data.DataContext.get_current()
    with data_context() as context:
        context.execution_options.preserve_order = True
        assert ray_session.data.range(3).context.raise_original_map_exception
    after = ray_session.data.DataContext.get_current()
    assert after is before
    assert not after.raise_original_map_exception
    assert not after.execution_options.preserve_order
