"""Why a row failed, as its user can act on it: our own message out of Ray's wrappers, with file and remedy.

Ray Core, Data, Train and Tune each wrap an error, some as text only. Errors of this project and of the system speak
for themselves; any other (a KeyError) gets the place in the code where it was raised.
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
# Ray Data appends advice about its own settings to a message; in the repr of a key the line end is spelt out.
_ADVICE = "Failed to apply UDF transform after "
_POSTSCRIPT = re.compile(rf"(?:\n|\\n){_ADVICE}.*?(?=['\"]?\Z)", re.DOTALL)
_SPEAK_FOR_THEMSELVES = (ValueError, RuntimeError, OSError)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_LAST = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?\Z", re.DOTALL | re.MULTILINE)
NO_ROOM = (OSError, EOFError, StorageFull)  # what a full disk brings; EOFError: somebody wrote half a file
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
    """What a user can act on, out of Ray's wrappers: the message of the error that the work itself raised."""
    chain = list(causes(error))
    own = next((e for e in chain if type(e) in (StorageFull, StorageUnavailable, StageDamaged)), None)
    # ``raise X from Y`` is done where X knows more than Y (the file and the remedy), so the outermost one counts.
    error = own or next((e for e in chain if not _wraps(e)), chain[-1])
    text = _without_advice(str(error))
    speaks, where = isinstance(error, _SPEAK_FOR_THEMSELVES), ""
    written = next((text for text in map(_without_advice, map(str, chain)) if _is_traceback(text)), None)
    if isinstance(error, OSError) and str(error.filename).startswith(_ADVICE):  # which stands in the file's place
        text = _out_of_traceback(written) if written else f"[Errno {error.errno}] {error.strerror}"
    elif _is_traceback(text) or (written and not speaks and not error.__traceback__):  # it came without its place
        return _out_of_traceback(written or text)
    elif not speaks:
        where = _place(_frames(error))
    if is_disk_full(error) and not isinstance(error, StorageFull):
        text += "; free some space and run the same command again: what is finished is kept"
    return _told(type(error).__name__, text, speaks, where)


def _is_traceback(text: str) -> bool:
    return "Traceback (most recent call last)" in text or re.search(r"^ray::", text, re.MULTILINE) is not None


def _without_advice(text: str) -> str:
    return _POSTSCRIPT.sub("", _COLOURS.sub("", text).strip()).strip()


def _told(name: str, text: str, speaks: bool, where: str = "") -> str:
    remedy = f"; {_REMEDIES[name]}" if name in _REMEDIES else ""
    if not text:
        return f"{name}{remedy}{where}"
    return f"{text}{remedy}" if speaks else f"{name}: {text}{remedy}{where}"


def _wraps(error: BaseException) -> bool:
    """Whether the error only carries another one: Ray's, which have it in a field, however they are called."""
    fields = ("worker_failures", "controller_failure", "cause")
    return any(getattr(error, field, None) for field in fields) or type(error).__name__ == "UserCodeException"


def _out_of_traceback(text: str) -> str:
    """The last error of a traceback that is there as text only, with all lines of its message."""
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
    speaks = is_ours or (isinstance(kind, type) and issubclass(kind, _SPEAK_FOR_THEMSELVES))
    return _told(name, (found["text"] or "").strip(), speaks, _place([(m["file"], int(m["line"])) for m in frames]))


def _frames(error: BaseException) -> list[tuple[str, int]]:
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _place(frames: list[tuple[str, int]]) -> str:
    """Where in our code, if it is there, an error was raised: " (bsp/x.py, line 3)"."""
    ours = [frame for frame in frames if "/bsp/" in frame[0] or "/bsp_platform/" in frame[0]] or frames
    if not ours:
        return ""
    file, line = ours[-1]
    return f" ({'/'.join(Path(file).parts[-2:])}, line {line})"


def reason_of_trial(trial: Trial) -> str:
    """Why a trial of Tune has failed, from what Tune wrote; a full disk may have kept it from writing that."""
    try:
        if trial.pickled_error_file:
            return reason(pickle.loads(Path(trial.pickled_error_file).read_bytes()))
        if trial.error_file:
            return _out_of_traceback(Path(trial.error_file).read_text("utf-8", "replace").strip())
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, AttributeError, ImportError) as error:
        what = f"{type(error).__name__}: {error}"
        return f"failed, and its error could not be written or read ({what}): is the disk full, also Ray's in /tmp?"
    return "failed without an error; see the log"


@contextmanager
def remembered(
    troubles: list[str], what: str, only: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """What goes wrong inside must not keep the user from seeing what is finished: it is logged and put on the list.

    ``only`` errors of these kinds; by default all, as sqlite3's and MLflow's have no common type.
    """
    try:
        yield
    except only as error:
        log.warning("%s: %s", what, error, exc_info=not isinstance(error, _SPEAK_FOR_THEMSELVES))
        troubles.append(f"{what}: {reason(error)}")
