"""Ray Data's settings, the same for every data set of ours and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext


@contextmanager
def data_context() -> Iterator[DataContext]:
    """A context for the data sets that are made inside; the one of the process stays as it is.

    No progress bars, and an error of a function that Ray Data calls arrives as itself: a full disk is known by its
    number, and a failed row tells the error's own words.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.raise_original_map_exception = True
    with DataContext.current(context):
        yield context
