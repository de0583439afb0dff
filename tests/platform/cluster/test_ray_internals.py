"""What is taken from inside Ray: all of it is there, and a part that is gone is told."""

import pytest
from ray.train.torch import TorchTrainer

from bsp_platform.work.cluster import ray_internals
from bsp_platform.work.cluster.ray_internals import OwnPolicies, RayMoved, data_context, need_private
from bsp_platform.work.elastic import ElasticTrainer


def test_the_installed_ray_has_every_part():
    for name in ray_internals._PARTS:
        assert getattr(ray_internals, name) is not None
    assert issubclass(ElasticTrainer, TorchTrainer)
    with data_context(read_buffer_blocks=7) as context:
        assert context._max_num_blocks_in_streaming_gen_buffer == 7


def test_a_part_that_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(ray_internals._PARTS, "Gone", "ray.data._internal")
    monkeypatch.setitem(ray_internals._PARTS, "Lost", "ray.no_such_module")
    for name, part in (("Gone", r"ray\.data\._internal\.Gone"), ("Lost", r"ray\.no_such_module\.Lost")):
        with pytest.raises(RayMoved, match=rf"Ray [\d.]+ has no {part} where Ray 2\.60\.0 has it; install ray==2\.60"):
            getattr(ray_internals, name)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = ray_internals.other


def test_a_private_method_that_would_be_overridden_in_vain_is_named():
    with pytest.raises(RayMoved, match=r"Trainer\._initialize_and_run_controller"):
        type("Own", (OwnPolicies, type("Trainer", (), {})), {})
    with pytest.raises(RayMoved, match=r"builtins\.dict\._private"):
        need_private({}, "_private")
