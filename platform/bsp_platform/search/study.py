"""The trials of a search as a study of Optuna in the storage, so that the same command continues it.

An interrupted or failed setting is tried again: a trial is all attempts at one setting. Grid and random
searches put their settings into the study's queue; Optuna's tree-structured Parzen estimator (TPE) proposes its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bsp.clips.plan import ClipSettings
from bsp.errors import needs_extra
from bsp_platform.search.proposals import Kind, Status, Trial, sequence
from bsp_platform.search.space import Setting, Space, make_setting, shown
from bsp_platform.storage.stages import StageStore

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal import BaseJournalBackend
    from optuna.trial import FrozenTrial
else:
    BaseJournalBackend = object  # Optuna is an extra; it only calls the two methods

_SETTING = "setting"  # attribute of an attempt; a proposal without it was impossible, or its setting known
_PROPOSALS = 20  # Choice: proposals of TPE in a row that are impossible or known, before a random setting is taken
_STATUS: dict[str, Status] = {  # by name of Optuna's state
    "WAITING": "open", "RUNNING": "open", "COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed",
}  # fmt: skip


class _Journal(BaseJournalBackend):
    """Optuna's journal in a note of the storage, a folder or S3: JSON lines as in Optuna's own journal files.

    Without Optuna's snapshots, which are pickles.
    """

    def __init__(self, store: StageStore, name: str, content: bytes):
        self.store, self.name = store, name
        self.logs: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def save(self) -> None:
        """Write the complete journal; a search has one driver (StageStore.only_one)."""
        self.store.write_note(self.name, "".join(f"{json.dumps(log)}\n" for log in self.logs).encode())


class SearchStudy:
    """The known trials, and the next one. Each method writes its changes to the storage before it returns."""

    def __init__(self, store: StageStore, name: str, *, kind: Kind, space: Space, base: ClipSettings, seed: int):
        """Open or create the note ``name``. ValueError, naming it, if it is damaged."""
        with needs_extra("search"):
            import optuna
            from optuna.distributions import CategoricalDistribution
            from optuna.storages import JournalStorage

        self.kind, self.space, self.base, self.seed = kind, space, base, seed
        self.states = optuna.trial.TrialState
        self.texts = {name: {shown(value): value for value in values} for name, values in space.items()}
        self.options: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(texts)) for name, texts in self.texts.items()
        }
        self.running: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        content = store.read_note(name) or b""
        try:
            self.journal = _Journal(store, name, content)
            sampler = optuna.samplers.TPESampler(
                seed=seed + len(self.journal.logs),  # a continued search must not repeat its first draws
                n_startup_trials=5,  # Choice: half of Optuna's 10, as a search here has a dozen trials or two
                constant_liar=True,  # trials that are running count as poor, so that they are not proposed again
            )
            self.study = optuna.create_study(
                storage=JournalStorage(self.journal), study_name="search", sampler=sampler, direction="maximize",
                load_if_exists=True,
            )  # fmt: skip
            self.trials()
        except Exception as error:  # of any type, from Optuna
            what = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{store.where(name)} is damaged ({what}); remove it: stages that were made are found again"
            ) from None

    def trials(self) -> list[Trial]:
        """A trial per setting, in the order in which they were first tried."""
        attempts: dict[Setting, list[FrozenTrial]] = {}
        for attempt in self.study.get_trials(deepcopy=False):
            if _SETTING in attempt.user_attrs:
                attempts.setdefault(Setting.from_plain(attempt.user_attrs[_SETTING]), []).append(attempt)
        return [_trial(number, setting, found) for number, (setting, found) in enumerate(attempts.items(), 1)]

    def reopen(self, lost: Callable[[Trial], bool]) -> None:
        """Queue trials to be tried again: those interrupted, failed, or finished but ``lost``."""
        for attempt in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self.study.tell(attempt.number, state=self.states.FAIL)
        for trial in self.trials():
            if trial.status == "failed" or (trial.status == "finished" and lost(trial)):
                self._enqueue(trial.setting)
        self.journal.save()

    def begin(self, total: int) -> Trial | None:
        """The next trial to run; None if none waits and ``total`` are known, or no setting is left."""
        attempt = self._ask(total)
        if attempt is None:
            return None
        self.journal.save()
        setting = Setting.from_plain(attempt.user_attrs[_SETTING])
        trial = next(trial for trial in self.trials() if trial.setting == setting)
        self.running[trial.number] = attempt
        return trial

    def probed(self, number: int, rung: int, score: float) -> None:
        """A probe score (percent) of a running trial."""
        self.running[number].report(score, rung)
        self.journal.save()

    def set_fact(self, number: int, fact: str, value: float) -> None:
        """Set a field of a running :class:`Trial`; with ``stopped_at`` it ends as stopped."""
        self.running[number].set_user_attr(fact, value)

    def end(self, number: int, value: float | None, failure: str = "") -> None:
        """A running trial has ended: stopped, with a ``value`` finished, or failed."""
        attempt = self.running.pop(number)
        if "stopped_at" in attempt.user_attrs:
            self.study.tell(attempt, state=self.states.PRUNED)
        elif value is not None and not failure:
            self.study.tell(attempt, value)
        else:
            attempt.set_user_attr("reason", failure or "ended without scores")
            self.study.tell(attempt, state=self.states.FAIL)
        self.journal.save()

    def _ask(self, total: int) -> optuna.Trial | None:
        if self.study.get_trials(deepcopy=False, states=(self.states.WAITING,)):
            return self.study.ask(self.options)
        known = {trial.setting: trial.value for trial in self.trials()}
        if len(known) >= total:
            return None
        for _ in range(_PROPOSALS if self.kind == "optuna" else 0):
            attempt = self.study.ask(self.options)
            values = {name: self.texts[name][text] for name, text in attempt.params.items()}
            setting = make_setting(values, self.base)
            if setting is not None and setting not in known:
                attempt.set_user_attr(_SETTING, asdict(setting))
                return attempt
            # Told to Optuna: an impossible proposal as failed, a decided one with its value.
            value = known.get(setting) if setting is not None else None
            self.study.tell(attempt, value, state=self.states.FAIL if value is None else self.states.COMPLETE)
        settings = sequence(self.kind, self.space, self.base, self.seed)
        setting = next((setting for setting in settings if setting not in known), None)
        if setting is None:
            return None
        self._enqueue(setting)
        return self.study.ask(self.options)

    def _enqueue(self, setting: Setting) -> None:
        # A parameter without effect (None) gets its first option, as Optuna needs a value.
        params = {
            name: shown(value) if (value := getattr(setting, name)) is not None else next(iter(texts))
            for name, texts in self.texts.items()
        }
        self.study.enqueue_trial(params, user_attrs={_SETTING: asdict(setting)})


def _trial(number: int, setting: Setting, attempts: list[FrozenTrial]) -> Trial:
    """The trial of a setting's attempts: status and value of the last one, probes and time of all."""
    *_, last = attempts
    return Trial(
        number=number,
        setting=setting,
        status=_STATUS[last.state.name],
        probes={rung: score for attempt in attempts for rung, score in attempt.intermediate_values.items()},
        value=last.value if last.state.name == "COMPLETE" else None,
        last_probe=last.user_attrs.get("last_probe"),
        stopped_at=last.user_attrs.get("stopped_at"),
        reason=last.user_attrs.get("reason", ""),
        seconds=sum(attempt.duration.total_seconds() for attempt in attempts if attempt.duration is not None),
    )
