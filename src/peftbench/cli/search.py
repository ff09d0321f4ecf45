"""A sweeper that asks Optuna which runs to try next. It goes on where it was stopped, and looks at no test image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError, nearest
from peftbench.results import results_of_task

_SAMPLERS = ("tpe", "random")


class Search(Sweeper):
    """Searches over `key=choice(a,b)`, `key=range(1,9)` and `key=interval(1e-5,1e-1)`.

    An interval with `tag(log, …)` is searched on a logarithmic scale. Every other override is the same in all runs.
    """

    launcher: Any
    config: Any
    hydra_context: Any

    def __init__(self, trials: int, jobs: int, sampler: str, seed: int, study: str | None, storage: str | None) -> None:
        self.trials, self.jobs, self.sampler, self.seed = trials, jobs, sampler, seed
        self.study, self.storage = study, storage

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's sweepers do."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs what is left of the trials, some at a time, and says which was best.

        Raises:
            UserError: Optuna is not installed, or nothing to search is given.
        """
        self._refuse_values()
        optuna = _import_optuna()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        searched = {o.get_key_element(): o for o in overrides if o.is_sweep_override() and not _has_one_value(o)}
        fixed = [f"{o.get_key_element()}={_fixed_value(o)}" for o in overrides if o.get_key_element() not in searched]
        if not searched:
            raise UserError(
                "hydra/sweeper=optuna: nothing to search; give choices, ranges or intervals, such as "
                "'optimizer.lr=tag(log, interval(1e-5, 1e-1))'."
            )
        for word in fixed:
            if word.startswith(("sweep.together=", "protocol=")) and word not in ("sweep.together=1", "protocol=none"):
                raise UserError(f"{word}: hydra/sweeper=optuna chooses by itself; leave one of them out.")
            if word.lower() == "optimizer.find_lr=true" and "optimizer.lr" in searched:
                raise UserError(
                    "optimizer.find_lr=true: each trial would look for its own optimizer.lr; leave one of them out."
                )
        if not any(f.startswith("data.stage=") for f in fixed):
            fixed.append("data.stage=tune")  # test images are for the chosen setting
        study = self._open_study(optuna, fixed, searched)
        space = {key: _distribution(optuna, key, o) for key, o in searched.items()}
        done = len([t for t in study.trials if t.state.is_finished()])
        if done:
            print(f"study {study.study_name}: goes on after {done} of {plural(self.trials, 'trial')}", flush=True)
        while done < self.trials:
            asked = [study.ask(space) for _ in range(min(self.jobs, self.trials - done))]
            words = [[*fixed, *(f"{k}={_as_word(v)}" for k, v in trial.params.items())] for trial in asked]
            self.validate_batch_is_legal(words)
            for trial, returned in zip(asked, self.launcher.launch(words, initial_job_idx=done), strict=True):
                _refuse_other_metric(study, returned.cfg)
                value = float(returned.return_value)
                if math.isfinite(value):
                    study.tell(trial, value)
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
            done += len(asked)
        _print_best(optuna, study)

    def _refuse_values(self) -> None:
        for key, value in {"trials": self.trials, "jobs": self.jobs}.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"hydra.sweeper.{key}={value}: expected a whole number, at least 1.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise UserError(f"hydra.sweeper.seed={self.seed}: expected a whole number from 0 to {2**32 - 1}.")
        if self.sampler not in _SAMPLERS:
            hint = nearest(self.sampler, _SAMPLERS)
            raise UserError(f"hydra.sweeper.sampler={self.sampler}: expected tpe or random{hint}.")

    def _open_study(self, optuna: Any, fixed: Sequence[str], searched: Mapping[str, Override]) -> Any:
        """The study, with the trials it already has."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        about = sorted([*fixed, *(str(o.input_line) for o in searched.values())])
        name = self.study or f"search-{hashlib.sha256(' '.join(about).encode()).hexdigest()[:10]}"
        storage = self.storage
        if storage is None or "://" not in storage:
            file = Path(storage or Path(str(self.config.output_dir)).expanduser() / ".optuna" / f"{name}.log")
            file.parent.mkdir(parents=True, exist_ok=True)
            backend = optuna.storages.journal.JournalFileBackend(str(file))
            storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        seed = self.seed + len(study.trials)  # a sampler that starts anew must not draw the same again
        study.sampler = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        }[self.sampler]()
        for trial in study.trials:  # stopped in its midst: what it ran is found again by its run's id
            if not trial.state.is_finished():
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study


def _refuse_other_metric(study: Any, config: Any) -> None:
    """Values are compared in one study only where they are of one metric. Raises UserError."""
    metric = results_of_task(str(config.task.name), str(config.task.get("path", ""))).metric
    before = study.user_attrs.get("metric")
    if before is None:
        study.set_user_attr("metric", metric)
    elif metric != before:
        raise UserError(f"hydra/sweeper=optuna: {metric} and {before} are no one scale; search over data of one task.")


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("hydra/sweeper=optuna: needs Optuna; pip install 'peftbench[optuna]'.") from None
    return optuna


def _has_one_value(override: Override) -> bool:
    value = override.value()
    return isinstance(value, ChoiceSweep) and len(value.list) == 1


def _fixed_value(override: Override) -> str:
    value: Any = override.value()
    return _as_word(value.list[0]) if _has_one_value(override) else str(override.get_value_element_as_str())


def _distribution(optuna: Any, key: str, override: Override) -> Any:
    value: Any = override.value()
    kinds = optuna.distributions
    if isinstance(value, ChoiceSweep):
        return kinds.CategoricalDistribution([_as_word(v) for v in value.list])
    log = "log" in value.tags
    if isinstance(value, RangeSweep):
        bounds: Any = value
        start, stop, step = bounds.start or 0, bounds.stop, bounds.step
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return kinds.IntDistribution(start, stop - 1, log=log, step=1 if log else step)
        return kinds.FloatDistribution(float(start), float(stop), step=float(step))
    if isinstance(value, IntervalSweep):
        interval: Any = value
        low, high = interval.start, interval.end
        if isinstance(low, int) and isinstance(high, int):
            return kinds.IntDistribution(low, high, log=log)
        return kinds.FloatDistribution(float(low), float(high), log=log)
    raise UserError(f"{key}={override.get_value_element_as_str()}: expected choice(), range() or interval().")


def _as_word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_best(optuna: Any, study: Any) -> None:
    good = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if good:
        best = max(good, key=lambda t: t.value)
        setting = " ".join(f"{k}={_as_word(v)}" for k, v in best.params.items())
        metric = study.user_attrs.get("metric", "accuracy")
        trials = plural(len(study.trials), "trial")
        print(f"best of {trials}, by validation {metric}: {100 * best.value:.1f} % with {setting}")
        print(f"test it: the same command without hydra/sweeper=optuna, with {setting}", flush=True)
