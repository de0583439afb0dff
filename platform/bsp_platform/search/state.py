"""The state of a running search, in the driver: what is to be run, what has become of it. No Ray in here."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Literal

from bsp_platform.plan.options import Options
from bsp_platform.plan.recipes import FeatureRecipe
from bsp_platform.plan.sources import Sources
from bsp_platform.search.proposals import Halving, Ledger, Proposals, Trial, compared_with, rung_steps
from bsp_platform.search.space import Setting, Space, TrialPlan, all_settings, plan_trial
from bsp_platform.storage.stages import StageStore, as_plain, recipe_hash
from bsp_platform.work.probe import ProbeSettings

METRIC = "mAP_avg"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search does; all but ``trials`` names it, so that the same command with more trials extends it."""

    name: str  # of the script, the results folder and the MLflow experiment
    space: Space
    search: Literal["grid", "random", "optuna"]
    trials: int | None  # None: the whole grid; 12 otherwise
    proxy: Literal["asha", "none"]  # none: the probe is recorded, no trial is stopped
    eta: int
    search_seed: int
    clips: int | None  # of the searched encoders' training; None = the profile's
    probe: ProbeSettings


def plan_of(setting: Setting, seed: int, spec: SearchOptions, options: Options, sources: Sources) -> TrialPlan:
    return plan_trial(setting, seed, options.profile, sources, options.workers, spec.clips)


def searched_features(plan: TrialPlan) -> FeatureRecipe:
    return next(recipe for _, recipe in plan.recipes.features() if recipe.encoder == plan.searched)


def rungs_of(plan: TrialPlan, spec: SearchOptions) -> tuple[int, ...]:
    train = plan.searched.train
    return rung_steps(train.steps, train.checkpoint_every_steps, spec.eta)


class Search:
    """The state of a running search, in the driver: Tune's searcher, scheduler and callback all talk to it."""

    def __init__(self, spec: SearchOptions, options: Options, sources: Sources, store: StageStore):
        self.spec, self.options, self.sources, self.store = spec, options, sources, store
        settings = as_plain(replace(options.profile, resources=None, encoders={}))
        names = {k: v for k, v in asdict(spec).items() if k not in ("trials", "name")}
        prints = [sources.trimmed_print, dict(sources.videos_prints), dict(sources.labels_prints)]
        given = {name: file.sha256 for name, file in sources.class_scores.items()}
        given |= {f"vanilla {encoder.name}": file.sha256 for encoder, file in sources.vanilla_weights.items()}
        seeds = {"seeds": options.seeds, "workers": options.workers}
        self.key = recipe_hash({"profile": settings, "search": names, "data": prints, "given": given, **seeds})
        self.ledger = Ledger(store, f"searches/{self.key}/trials.json")
        self.halving = Halving(eta=spec.eta)
        size = len(list(all_settings(spec.space, options.profile.clips))) if spec.search == "grid" else None
        if size is not None and spec.trials is not None and spec.trials < size:
            raise ValueError(f"--trials {spec.trials}: the grid has {size} settings; use --search random or optuna")
        self.total = size if size is not None else spec.trials or 12
        if not self.total:
            raise ValueError("the space holds no possible setting; epsilon and min_segment lie at most at tau")

    def plans(self, setting: Setting) -> list[TrialPlan]:
        seeds = range(self.options.seeds)
        return [plan_of(setting, seed, self.spec, self.options, self.sources) for seed in seeds]

    def prepare(self) -> None:
        """Reopen what was interrupted, has failed, or lost its stages; then propose from what is known."""
        for trial in self.ledger.trials:
            missing = trial.status == "finished" and self.scores(trial) is None
            if trial.status == "failed" or missing:
                trial.status, trial.reason, trial.value = "open", "", None
        self.ledger.save()
        arguments = (self.spec.search, self.spec.space, self.options.profile.clips, self.spec.search_seed)
        self.proposals = Proposals(*arguments, self.ledger)
        self.waiting = [trial for trial in self.ledger.trials if trial.status == "open"]
        self.began: dict[int, float] = {}

    @property
    def missing(self) -> int:
        """Trials to run."""
        return len(self.waiting) + max(0, self.total - len(self.ledger.trials))

    def next_trial(self) -> Trial | None:
        if self.waiting:
            trial = self.waiting.pop(0)
        elif len(self.ledger.trials) >= self.total or (setting := self.proposals.next()) is None:
            return None
        else:
            trial = self.ledger.add(setting)
        self.began[trial.number] = time.time()
        return trial

    def trial(self, number: int) -> Trial:
        return self.ledger.trials[number - 1]

    def probed(self, number: int, step: int, score: float) -> bool:
        """Record a probe score; whether the trial is to stop."""
        trial = self.trial(number)
        rung = rungs_of(self.plans(trial.setting)[0], self.spec).index(step)
        stop = self.halving.stops(score, compared_with(trial, rung, self.ledger.trials))
        trial.probes[rung] = score
        if stop and self.spec.proxy == "asha":
            trial.stopped_at = step
        self.ledger.save()
        return trial.stopped_at is not None

    def close(self, number: int, failure: str = "") -> Trial:
        """A trial has ended: finished, stopped or failed."""
        trial = self.trial(number)
        trial.seconds += time.time() - self.began.pop(number, time.time())
        scores = self.scores(trial)
        if trial.stopped_at is not None:
            trial.status = "stopped"
        elif failure or scores is None:
            trial.status, trial.reason = "failed", failure or "ended without scores"
        else:
            trial.status, trial.value = "finished", statistics.fmean(s[METRIC] for s in scores)
        self.ledger.save()
        self.proposals.tell(trial)
        return trial

    def scores(self, trial: Trial) -> list[dict[str, float]] | None:
        """Of all seeds, in percent; None if one is missing."""
        found = [plan.recipes.scores(self.store) for plan in self.plans(trial.setting)]
        return None if None in found else found
