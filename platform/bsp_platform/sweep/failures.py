"""Why a row failed: the message of the original error, taken out of Ray's wrappers, with file and remedy.

Ray Core, Data, Train and Tune each wrap an error, some as text only. Messages of errors of this project and of the
system are complete; to any other (a KeyError) the place in the code where it was raised is added.
"""

from __future__ import annotations

import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bsp_platform.storage.errors import StageDamaged, StorageFull, StorageUnavailable, causes, is_disk_full

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

log = logging.getLogger(__name__)
# Ray Data appends advice about its own settings to a message; in the repr of a key the line end is escaped.
_ADVICE = "Failed to apply UDF transform after "
_ADVICE_TO_END = re.compile(rf"(?:\n|\\n){_ADVICE}.*?(?=['\"]?\Z)", re.DOTALL)
_COMPLETE_MESSAGES = (ValueError, RuntimeError, OSError)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_LAST = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?\Z", re.DOTALL | re.MULTILINE)
NO_ROOM = (OSError, EOFError, StorageFull)  # errors of a full disk; EOFError: of a file of which only half was written
_KILLED = "the system ended a process of this row, most often for lack of memory"
# What Ray or Python says without a remedy, by the name of the error.
_REMEDIES = {
    "OutOfMemoryError": "give it more memory, or run fewer rows at a time (--cpus)",
    "MemoryError": "give it more memory, or run fewer rows at a time (--cpus)",
    "ActorDiedError": f"{_KILLED}; the same command continues where it was",
    "WorkerCrashedError": f"{_KILLED}; the same command continues where it was",
    "OwnerDiedError": f"{_KILLED}; the same command continues where it was",
    "NodeDiedError": "a machine is gone; the same command continues where it was",
}


def reason(error: BaseException) -> str:
    """The message of the error that the work itself raised, without Ray's wrappers."""
    chain = list(causes(error))
    own = next((e for e in chain if type(e) in (StorageFull, StorageUnavailable, StageDamaged)), None)
    # In ``raise X from Y`` X names the file and the remedy, so the outermost error counts that is no wrapper.
    error = own or next((e for e in chain if not _is_wrapper(e)), chain[-1])
    text = _without_advice(str(error))
    is_complete, where = isinstance(error, _COMPLETE_MESSAGES), ""
    written = next((text for text in map(_without_advice, map(str, chain)) if _is_traceback(text)), None)
    if isinstance(error, OSError) and str(error.filename).startswith(_ADVICE):  # the advice has replaced the file name
        text = _reason_in_traceback(written) if written else f"[Errno {error.errno}] {error.strerror}"
    elif _is_traceback(text) or (written and not is_complete and not error.__traceback__):  # the text has the place
        return _reason_in_traceback(written or text)
    elif not is_complete:
        where = _place(_frames(error))
    if is_disk_full(error) and not isinstance(error, StorageFull):
        text += "; free some space and run the same command again: what is finished is kept"
    return _format_reason(type(error).__name__, text, is_complete, where)


def _is_traceback(text: str) -> bool:
    return "Traceback (most recent call last)" in text or re.search(r"^ray::", text, re.MULTILINE) is not None


def _without_advice(text: str) -> str:
    return _ADVICE_TO_END.sub("", _COLOURS.sub("", text).strip()).strip()


def _format_reason(name: str, text: str, is_complete: bool, where: str = "") -> str:
    remedy = f"; {_REMEDIES[name]}" if name in _REMEDIES else ""
    if not text:
        return f"{name}{remedy}{where}"
    return f"{text}{remedy}" if is_complete else f"{name}: {text}{remedy}{where}"


def _is_wrapper(error: BaseException) -> bool:
    """Whether the error is one of Ray's that only carries another one, in one of these fields."""
    fields = ("worker_failures", "controller_failure", "cause")
    return any(getattr(error, field, None) for field in fields) or type(error).__name__ == "UserCodeException"


def _reason_in_traceback(text: str) -> str:
    """The last error in the text of a traceback, with all lines of its message."""
    last = text.rpartition("Traceback (most recent call last)")[2]
    frames = list(_FRAME.finditer(last))
    # After the last frame come its code and marks, indented; then the error, whose message may have any form.
    rest = last[frames[-1].end() :].partition("\n")[2] if frames else last
    lines = rest.splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith((" ", ":"))):
        lines.pop(0)
    found = _LAST.match("\n".join(lines).strip())
    if found is None:
        return lines[-1] if lines else text.splitlines()[-1]
    name = found["name"].rpartition(".")[2]
    import builtins

    kind = getattr(builtins, name, None)
    is_ours = found["name"].startswith("bsp")
    is_complete = is_ours or (isinstance(kind, type) and issubclass(kind, _COMPLETE_MESSAGES))
    where = _place([(m["file"], int(m["line"])) for m in frames])
    return _format_reason(name, (found["text"] or "").strip(), is_complete, where)


def _frames(error: BaseException) -> list[tuple[str, int]]:
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _place(frames: list[tuple[str, int]]) -> str:
    """Where an error was raised, in our own code if it passed there: " (bsp/x.py, line 3)"."""
    ours = [frame for frame in frames if "/bsp/" in frame[0] or "/bsp_platform/" in frame[0]] or frames
    if not ours:
        return ""
    file, line = ours[-1]
    return f" ({'/'.join(Path(file).parts[-2:])}, line {line})"


def reason_of_trial(trial: Trial) -> str:
    """Why a trial of Tune has failed, from the file that Tune wrote; on a full disk that may be incomplete."""
    try:
        if trial.pickled_error_file:
            return reason(pickle.loads(Path(trial.pickled_error_file).read_bytes()))
        if trial.error_file:
            return _reason_in_traceback(Path(trial.error_file).read_text("utf-8", "replace").strip())
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, AttributeError, ImportError) as error:
        what = f"{type(error).__name__}: {error}"
        return f"failed, and its error could not be written or read ({what}): is the disk full, also Ray's in /tmp?"
    return "failed without an error; see the log"


@contextmanager
def collect_errors(
    troubles: list[str], what: str, only: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """An error inside is logged and added to ``troubles`` instead of raised, so that finished results are still shown.

    ``only`` errors of these kinds; by default all, as sqlite3's and MLflow's have no common type.
    """
    try:
        yield
    except only as error:
        log.warning("%s: %s", what, error, exc_info=not isinstance(error, _COMPLETE_MESSAGES))
        troubles.append(f"{what}: {reason(error)}")
