"""A search in the driver: its options, its trials, and their stages."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Literal

from bsp.errors import needs_extra
from bsp_platform.plan.options import Options
from bsp_platform.plan.sources import Sources
from bsp_platform.search.proposals import Kind, Trial, rung_steps
from bsp_platform.search.space import Setting, Space, TrialPlan, all_settings, plan_trial
from bsp_platform.search.study import SearchStudy
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.tracking import naming_settings
from bsp_platform.work.probe import ProbeSettings


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search; all but ``trials`` are in its key, so that the same command with more trials extends it."""

    name: str  # of the script, the results folder and the MLflow experiment
    space: Space
    search: Kind
    trials: int | None  # None: the whole grid; 12 otherwise
    proxy: Literal["asha", "none"]  # none: the probe is recorded, no trial is stopped
    eta: int  # of ASHA, at least 2: at a rung about 1/eta of the trials go on
    # Choice: 2, not ASHA's 4: a dozen trials would leave one or two finished, too few to see how the probe ranks.
    search_seed: int
    clips: int | None  # of the searched encoders' training; None = the profile's
    probe: ProbeSettings

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"eta must be at least 2, not {self.eta}")
        with needs_extra("search"):
            import optuna  # noqa: F401  # now, before any data are read


def trial_plans(setting: Setting, spec: SearchOptions, options: Options, sources: Sources) -> list[TrialPlan]:
    """The stages of a setting for each seed."""
    seeds = range(options.seeds)
    return [plan_trial(setting, seed, options.profile, sources, options.workers, spec.clips) for seed in seeds]


def rungs_of(plan: TrialPlan, spec: SearchOptions) -> tuple[int, ...]:
    """Steps at which the probe is computed."""
    return rung_steps(plan.train.steps, plan.train.checkpoint_every_steps, spec.eta)


class Search:
    """A search in the driver; Tune's searcher, scheduler and callback use it."""

    def __init__(self, spec: SearchOptions, options: Options, sources: Sources, store: StageStore):
        """Open its record in the store. ValueError for an empty space, a part of a grid or a damaged record."""
        self.spec, self.options, self.sources, self.store = spec, options, sources, store
        size = len(list(all_settings(spec.space, options.profile.clips))) if spec.search == "grid" else None
        if size is not None and spec.trials is not None and spec.trials < size:
            raise ValueError(f"--trials {spec.trials}: the grid has {size} settings; use --search random or optuna")
        self.total = size if size is not None else spec.trials or 12
        if not self.total:
            raise ValueError("the space holds no possible setting; epsilon and min_segment lie at most at tau")
        self.key = self._key()
        self.note = f"searches/{self.key}/study.jsonl"
        self.study = SearchStudy(
            store, self.note, kind=spec.search, space=spec.space, base=options.profile.clips, seed=spec.search_seed
        )
        self.study.reopen(lost=lambda trial: self.scores(trial) is None)

    def _key(self) -> str:
        """The search's name in the storage."""
        spec, options, sources = self.spec, self.options, self.sources
        names = {k: v for k, v in asdict(spec).items() if k not in ("trials", "name")}
        prints = [sources.trimmed_print, dict(sources.videos_prints), dict(sources.labels_prints)]
        given = {name: file.sha256 for name, file in sources.class_scores.items()}
        given |= {f"vanilla {encoder.name}": file.sha256 for encoder, file in sources.vanilla_weights.items()}
        profile, seeds = naming_settings(options.profile), {"seeds": options.seeds, "workers": options.workers}
        return recipe_hash({"profile": profile, "search": names, "data": prints, "given": given, **seeds})

    def trials(self) -> list[Trial]:
        """The known trials, in order."""
        return self.study.trials()

    def trial(self, number: int) -> Trial:
        """A trial by its number, from 1."""
        return self.trials()[number - 1]

    def to_run(self) -> list[int]:
        """Numbers of the open trials and of the future ones."""
        trials = self.trials()
        return [t.number for t in trials if t.status == "open"] + list(range(len(trials) + 1, self.total + 1))

    def plans(self, setting: Setting) -> list[TrialPlan]:
        """The stages of a setting for each seed."""
        return trial_plans(setting, self.spec, self.options, self.sources)

    def scores(self, trial: Trial) -> list[dict[str, float]] | None:
        """Scores of all seeds, in percent; None if one is missing."""
        found = [plan.recipes.scores(self.store) for plan in self.plans(trial.setting)]
        return [scores for scores in found if scores is not None] if None not in found else None

    def close(self, number: int, failure: str = "") -> Trial:
        """Record the end of a trial: finished, stopped or failed."""
        scores = self.scores(self.trial(number))
        self.study.end(number, statistics.fmean(s["mAP_avg"] for s in scores) if scores else None, failure)
        return self.trial(number)
