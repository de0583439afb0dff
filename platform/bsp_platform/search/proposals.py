"""What a search remembers and decides: which setting comes next, and which trial stops early. No Ray in here.

The ledger, a JSON file of the storage per search, is written by the driver after every piece of news. From it the same
command continues a search that was interrupted, and a larger ``--trials`` extends it: decided trials stay decided.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from bsp.clips.plan import ClipSettings
from bsp.errors import needs_extra
from bsp_platform.search.space import Setting, Space, all_settings, make_setting, shown
from bsp_platform.storage.stages import StageStore

Status = Literal["open", "finished", "stopped", "failed"]
_TRIES = 200  # proposals in a row that are impossible or known, after which a search has nothing new


@dataclass
class Trial:
    """One setting and what became of it."""

    number: int  # from 1
    setting: Setting
    status: Status = "open"
    probes: dict[int, float] = field(default_factory=dict)  # by rung, 0-based: probe score in percent
    last_probe: float | None = None  # of the finished encoder, from its features
    stopped_at: int | None = None  # step
    reason: str = ""  # of a failure
    value: float | None = None  # of a finished trial: mean mAP_avg over the seeds, percent
    seconds: float = 0.0  # of its stages when they were made, or of the work until it was stopped

    @property
    def name(self) -> str:
        return f"trial {self.number:02d}"


class Ledger:
    """The trials of one search, in a note of the storage."""

    def __init__(self, store: StageStore, name: str):
        self.store, self.name = store, name
        self.trials: list[Trial] = []
        text = store.read_note(name)
        if text is not None:
            try:
                for record in json.loads(text):
                    setting = Setting.from_plain(record.pop("setting"))
                    record["probes"] = {int(rung): score for rung, score in record["probes"].items()}
                    self.trials.append(Trial(setting=setting, **record))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ValueError(
                    f"{store.where(name)} is damaged ({error}); remove it: stages that were made are found again"
                ) from None

    def save(self) -> None:
        self.store.write_note(self.name, json.dumps([asdict(trial) for trial in self.trials], indent=1).encode())

    def add(self, setting: Setting) -> Trial:
        self.trials.append(Trial(number=len(self.trials) + 1, setting=setting))
        self.save()
        return self.trials[-1]


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Asynchronous successive halving (ASHA, Li et al., MLSys 2020) on the probe.

    A trial that reaches a rung goes on if its score is in the best 1/eta of those that reached it before.
    """

    eta: int = 2  # at least 2
    # Choice: 2, not ASHA's 4: a dozen trials would leave one or two finished, too few to see how the probe ranks.

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"eta must be at least 2, not {self.eta}")

    def stops(self, score: float, earlier: Sequence[float]) -> bool:
        """Whether a trial with this score stops at a rung that the trials with scores ``earlier`` reached before."""
        return bool(earlier) and score < float(np.percentile(list(earlier), (1 - 1 / self.eta) * 100))


def rung_steps(steps: int, every: int, eta: int) -> tuple[int, ...]:
    """Steps of the rungs, rising: about steps/eta, steps/eta^2, ..., rounded to the checkpoints ``every`` so many.

    Empty if no checkpoint lies before the end.
    """
    found: list[int] = []
    wanted = steps / eta
    while wanted >= every / 2 and len(found) < 4:  # Choice: four rungs; earlier scores are near chance
        step = max(every, round(wanted / every) * every)
        if step < steps and step not in found:
            found.append(step)
        wanted /= eta
    return tuple(sorted(found))


def compared_with(trial: Trial, rung: int, trials: Sequence[Trial]) -> list[float]:
    """Scores that trials of the same fusion method have at this rung.

    Choice: only the same method; the probe of a two-head or distilled encoder measures action features too.
    """
    return [
        other.probes[rung]
        for other in trials
        if other is not trial and rung in other.probes and other.setting.fusion == trial.setting.fusion
    ]


def sequence(search: str, space: Space, base: ClipSettings, seed: int) -> Iterator[Setting]:
    """All settings of a grid in order, or a random search's in the order of its draws, each once."""
    if search == "grid":
        yield from all_settings(space, base)
        return
    seen: set[Setting] = set()
    misses = 0
    for draw in itertools.count():
        # Counter-based: draw k is the same whatever was asked before.
        generator = np.random.Generator(np.random.Philox(key=np.array((seed, draw), np.uint64)))
        values = {name: options[int(generator.integers(len(options)))] for name, options in space.items()}
        setting = make_setting(values, base)
        if setting is None or setting in seen:
            misses += 1
            if misses == _TRIES:
                return
            continue
        misses = 0
        seen.add(setting)
        yield setting


class Proposals:
    """The next setting, by grid, at random, or by Optuna's tree-structured Parzen estimator (TPE)."""

    def __init__(self, search: str, space: Space, base: ClipSettings, seed: int, ledger: Ledger):
        self.search, self.space, self.base, self.ledger = search, space, base, ledger
        if search != "optuna":
            self.coming = sequence(search, space, base, seed)
            return
        with needs_extra("search"):
            import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna = optuna
        self.options = {
            name: optuna.distributions.CategoricalDistribution(list(map(shown, values)))
            for name, values in space.items()
            if len(values) > 1
        }
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(ledger.trials),  # a continued search must not repeat its first draws
            n_startup_trials=5,  # Choice: half of Optuna's 10, as a search here has a dozen trials or two
            constant_liar=True,  # trials that are running count as poor, so that they are not proposed again
        )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[int, Any] = {}
        for trial in ledger.trials:
            if trial.status != "open":
                self.study.add_trial(self._frozen(trial))

    def next(self) -> Setting | None:
        """A possible setting that the ledger does not hold; None when there is none left (or none is found)."""
        known = {trial.setting for trial in self.ledger.trials}
        if self.search != "optuna":
            return next((setting for setting in self.coming if setting not in known), None)
        for _ in range(_TRIES):
            asked = self.study.ask(self.options)
            setting = make_setting(self._values(asked.params), self.base)
            if setting is not None and setting not in known:
                self.asked[len(self.ledger.trials) + 1] = asked
                return setting
            self._tell_known(asked, setting)
        return next((s for s in sequence("random", self.space, self.base, len(known)) if s not in known), None)

    def tell(self, trial: Trial) -> None:
        """What became of a trial; TPE learns from finished, stopped and failed ones."""
        if self.search == "optuna":
            asked = self.asked.pop(trial.number, None)
            if asked is not None:
                self.study.tell(asked, state=self.optuna.trial.TrialState.FAIL)
            self.study.add_trial(self._frozen(trial))

    def _tell_known(self, asked: Any, setting: Setting | None) -> None:
        """An impossible proposal has failed; one that is decided has the value that is known."""
        states = self.optuna.trial.TrialState
        value = next((t.value for t in self.ledger.trials if t.setting == setting and t.status == "finished"), None)
        if value is None:
            self.study.tell(asked, state=states.FAIL)
        else:
            self.study.tell(asked, value)

    def _values(self, params: dict[str, str]) -> dict[str, Any]:
        return {
            name: next(v for v in values if shown(v) == params[name]) if name in params else values[0]
            for name, values in self.space.items()
        }

    def _frozen(self, trial: Trial) -> Any:
        """A decided trial as Optuna keeps it."""
        states = self.optuna.trial.TrialState
        state = {"finished": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}[trial.status]
        # What does not matter (None) takes the first option: Optuna wants a value.
        params = {
            name: shown(value) if (value := getattr(trial.setting, name)) is not None else options.choices[0]
            for name, options in self.options.items()
        }
        return self.optuna.trial.create_trial(
            state=state,
            params=params,
            distributions=self.options,
            value=trial.value if trial.status == "finished" else None,
            intermediate_values=dict(trial.probes),
        )
