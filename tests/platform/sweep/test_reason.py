"""What a failed row says: the message of the error that a user can act on, out of Ray's wrappers."""

import pickle
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsp.errors import AnnotationError
from bsp_platform.storage.errors import StorageFull
from bsp_platform.sweep.failures import collect_errors, reason, reason_of_trial
from bsp_platform.work.cluster.ray_internals import data_context


def fails(batch):
    try:
        raise KeyError("unseen")
    except KeyError as error:
        raise ValueError(f"features of {len(batch)} column do not fit\n    a.npy\nremove them") from error


def forgets(batch):
    return {"x": [{}["a.npy"]]}


def fills_the_disk(batch):
    raise OSError(28, "No space left on device", "/data/a.npy")


class NeedsMore(Exception):
    """Cannot be pickled back, as its pickle has one argument."""

    def __init__(self, file: str, remedy: str):
        super().__init__(f"{file}: {remedy}")


def cannot_travel(batch):
    raise NeedsMore("a.npy", "extract it again")


KINDS = {
    fails: "features of 1 column do not fit\n    a.npy\nremove them",
    forgets: "KeyError: 'a.npy'",
    fills_the_disk: "[Errno 28] No space left on device: '/data/a.npy'; free some space and run",
    cannot_travel: "a.npy: extract it again",
}


@pytest.mark.ray
@pytest.mark.parametrize("function", KINDS)
def test_an_error_in_a_function_of_ray_data_is_told_with_its_message(ray_session, function):
    with data_context():
        rows = ray_session.data.range(3).map_batches(function, num_cpus=0.1)

    @ray_session.remote(num_cpus=0)
    def below_a_task():
        return rows.materialize().count()

    @ray_session.remote(num_cpus=0)
    def in_a_task():
        return function({"id": [0]})

    for run in (
        rows.materialize,
        lambda: ray_session.get(below_a_task.remote()),
        lambda: ray_session.get(in_a_task.remote()),
    ):
        with pytest.raises(Exception, match=r".") as found:  # Ray's, of many kinds
            run()
        told = reason(found.value)
        assert KINDS[function] in told
        assert "Traceback" not in told
        assert "\x1b" not in told
        if function is forgets:
            assert told.endswith("line 24)"), "the place in the code is missing"
            assert "test_reason.py" in told
        if function is fails:
            assert told == KINDS[fails]


def test_an_error_of_ours_is_told_wherever_it_stands_in_the_chain():
    full = StorageFull("no space left under /storage")
    full.__cause__ = OSError(28, "No space left on device")
    outer = RuntimeError("a worker failed")
    outer.__cause__ = full
    assert reason(outer) == "no space left under /storage"
    assert reason(ValueError()) == "ValueError"
    assert reason(KeyError("unseen")) == "KeyError: 'unseen'"
    assert reason(RuntimeError("Traceback (most recent call last):\n  File x\nOSError: gone")) == "gone"


def test_the_error_that_names_the_file_counts_and_not_what_it_was_made_of():
    error = AnnotationError("a.json: database.x.duration: is missing; add it")
    error.__cause__ = KeyError("duration")
    assert reason(error) == "a.json: database.x.duration: is missing; add it"


def raises(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a.npy: two\nlines\n\n  and a remedy"), "a.npy: two\nlines\n\n  and a remedy"),
        (AnnotationError("a.json: wrong: field: x"), "a.json: wrong: field: x"),
        (KeyError("x"), "KeyError: 'x' (sweep/test_reason.py, line {line})"),
        (FileNotFoundError(2, "No such file or directory", "a.npy"), "[Errno 2] No such file or directory: 'a.npy'"),
        (MemoryError(), "MemoryError; give it more memory, or run fewer rows at a time (--cpus)"),
    ],
)
def test_a_traceback_that_is_text_only(error, expected):
    """As Tune keeps errors that it cannot pickle; the last one counts, with all of its lines."""
    try:
        try:
            raise RuntimeError("an earlier one")
        except RuntimeError:
            raises(error)
    except BaseException:
        text = traceback.format_exc()
    line = raises.__code__.co_firstlineno + 1
    assert reason(RuntimeError(text)).startswith(expected.format(line=line))


def test_what_ray_makes_of_an_error_that_cannot_travel():
    """Only text is left then, with a line of Ray's for every process instead of Python's own."""
    text = (
        '\x1b[36mray::outer()\x1b[39m (pid=1, ip=127.0.0.1)\n  File "/x/bsp/a.py", line 3, in f\n    g()\n'
        '    ^^^\n\x1b[36mray::inner()\x1b[39m (pid=2, ip=127.0.0.1)\n  File "/x/bsp/b.py", line 7, in g\n'
        "    raise NeedsMore(file)\nlib.NeedsMore: a.npy: damaged\nextract it again"
    )
    assert reason(RuntimeError(text)) == "NeedsMore: a.npy: damaged\nextract it again (bsp/b.py, line 7)"


def test_the_error_file_of_a_trial_may_be_half_written(tmp_path):
    whole, half, text = tmp_path / "whole.pkl", tmp_path / "half.pkl", tmp_path / "error.txt"
    whole.write_bytes(pickle.dumps(ValueError("a.npy: damaged; delete it")))
    half.write_bytes(b"")
    text.write_text(
        "Failure # 1\nTraceback (most recent call last):\n  File \"x.py\", line 3, in f\n    g()\nKeyError: 'a'\n"
    )
    trial = SimpleNamespace(pickled_error_file=str(whole), error_file=None)
    assert reason_of_trial(trial) == "a.npy: damaged; delete it"
    trial.pickled_error_file = str(half)
    assert "is the disk full" in reason_of_trial(trial)
    trial.pickled_error_file, trial.error_file = None, str(text)
    assert reason_of_trial(trial) == "KeyError: 'a' (x.py, line 3)"
    trial.error_file = None
    assert reason_of_trial(trial)


def test_troubles_are_remembered(tmp_path):
    troubles: list[str] = []
    with collect_errors(troubles, "the tables"):
        Path(tmp_path / "absent" / "x").write_text("")
    with pytest.raises(KeyError), collect_errors(troubles, "the rows", OSError):
        raise KeyError("a bug")
    (line,) = troubles
    assert line.startswith("the tables: [Errno 2] No such file or directory: ")


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
