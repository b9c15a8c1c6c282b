"""Search settings with Optuna: each trial is an ordinary run, pruned fold by fold.

::

    FOLDER/search.yaml   what was asked for: the base run, the space, weights, seed
    FOLDER/search.db     Optuna's study (SQLite): trials, their scores fold by fold
    FOLDER/trial0/       a run (see ``store``); its folds go on from their checkpoints
    FOLDER/best.yaml     a preset: the settings of the best trial
    FOLDER/model.safetensors   that trial's model

Workers are processes (``python -m somaseg.runs.search FOLDER TRIALS``) that share nothing
but the folder. A trial belongs to the worker that holds its lock; the lock goes with the process,
so that a killed search, started again, finishes the trials that were under way.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from somaseg.errors import SomasegError
from somaseg.files import DAMAGE, CannotWrite, atomic_path, read_yaml, write_text, writing
from somaseg.folders import MODEL, clear_leftovers, hold, is_ours
from somaseg.models.registry import Preset, parse_config, validate
from somaseg.runs.cross_validate import score_run
from somaseg.runs.execute import Execute, Report, execute
from somaseg.runs.machine import check_disk
from somaseg.runs.run import Run, RunConfig, changed
from somaseg.runs.space import Dimension
from somaseg.runs.tasks import as_task, run_fold

if TYPE_CHECKING:
    import optuna
    from filelock import BaseFileLock

Tell = Callable[[dict[str, Any]], None]

_FAILURES = 3  # with so many trials failed and none done, something else is wrong


class SearchConfig(BaseModel):
    """All that decides a search's outcome.

    Attributes:
        base: the run that every trial varies.
        space: by dotted field name, below ``model.`` or ``training.``.
        weights: weight of each class in the score, if it is to be weighted.
        seed: of the sampler.
        prune: whether trials that fall behind the median stop early.
    """

    model_config = ConfigDict(extra="forbid")

    base: RunConfig
    space: dict[str, Dimension] = Field(min_length=1)
    weights: dict[str, float] | None = None
    seed: int = 0
    prune: bool = True

    def trial_config(self, values: Mapping[str, Any]) -> RunConfig:
        """Put values into the base's config.

        Raises:
            SomasegError: an unknown field, or a value that it does not take.
        """
        fields = changed(self.base.model_dump(mode="json"), values, "space")
        where = f"space: {', '.join(f'{n}={v}' for n, v in values.items())}"
        config = validate(RunConfig, fields, where)
        parse_config(config.model, where)
        return config


@dataclass(frozen=True)
class Search:
    """An opened search folder."""

    folder: Path
    config: SearchConfig

    @classmethod
    def create(cls, folder: str | Path, config: SearchConfig) -> "Search":
        """Make the folder, or take up the one that was made with the same config.

        Raises:
            SomasegError: it holds another search, or other files, or the space has a field or a
                value that the base does not take.
        """
        folder = Path(folder)
        for name, choice in config.space.items():
            for value in choice.ends():
                config.trial_config({name: value})
        path = folder / "search.yaml"
        # A search that was killed before search.yaml was written has left its own alone.
        unused = not folder.exists() or (folder.is_dir() and all(map(is_ours, folder.iterdir())))
        if not unused and not path.exists():
            raise SomasegError(f"{folder}: exists and is no search; give another --out")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with cls(folder, config)._lock("best"):  # held by whoever writes to the folder itself
            clear_leftovers(folder)
            if not path.exists():
                write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        search = cls.open(folder)
        one, other = (c.model_dump(mode="json") for c in (search.config, config))
        differing = [name for name in one if one[name] != other[name]]
        if differing:
            raise SomasegError(
                f"{folder}: holds a search with another {', '.join(differing)}; "
                "give another --out, or the same options to go on with it"
            )
        return search

    @classmethod
    def open(cls, folder: str | Path) -> "Search":
        """Open a search.

        Raises:
            SomasegError: not a search, or its config is broken.
        """
        path = Path(folder) / "search.yaml"
        if not path.exists():
            raise SomasegError(f"{folder}: not a search (it has no search.yaml)")
        return cls(Path(folder), validate(SearchConfig, read_yaml(path), str(path)))

    def study(self) -> "optuna.Study":
        """Open Optuna's study.

        Raises:
            SomasegError: Optuna is not installed, or the database cannot be opened.
        """
        try:
            import optuna
        except ImportError as error:
            raise SomasegError("search: run `pip install 'somaseg[search]'` first") from error
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = self.folder / "search.db"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
        with self._lock("study"):
            try:
                study = optuna.create_study(
                    # Several processes write: wait for each other rather than give up.
                    storage=optuna.storages.RDBStorage(
                        f"sqlite:///{path.resolve()}",
                        engine_kwargs={"connect_args": {"timeout": 60}},
                    ),
                    study_name="somaseg",
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruner if self.config.prune else optuna.pruners.NopPruner(),
                )
                study.get_trials(deepcopy=False)  # a damaged table shows when it is read
            except (SQLAlchemyError, StorageInternalError, *DAMAGE) as error:
                reason = " ".join(str(error).split())[:200]
                raise SomasegError(
                    f"{path}: cannot be opened ({reason}); copy it again, or give another --out"
                ) from error
        return study

    def work(self, trials: int, report: Tell) -> None:
        """Run trials until there are ``trials`` in all; other processes may do the same.

        Raises:
            SomasegError: the disk is full, or trial after trial fails.
        """
        study = self.study()
        from optuna.exceptions import StorageInternalError

        try:
            while (found := self._next(study, trials)) is not None:
                trial, lock = found
                try:
                    self._run(study, trial, report)
                finally:
                    lock.release()
        except StorageInternalError as error:
            reason = " ".join(str(error).split())[:200]
            raise CannotWrite(
                f"{self.folder / 'search.db'}: cannot be written ({reason})"
            ) from error

    def _next(
        self, study: "optuna.Study", trials: int
    ) -> "tuple[optuna.Trial, BaseFileLock] | None":
        """Take a trial that a killed process has left, or else a new one."""
        import optuna
        from filelock import FileLock, Timeout

        with self._lock("next"):
            known = study.get_trials(deepcopy=False)
            begun = [one for one in known if one.state == optuna.trial.TrialState.RUNNING]
            for number in [*(one.number for one in begun), len(known)]:
                if number >= trials:
                    return None
                # Beside the run's folder, which a run wants to make itself.
                lock = FileLock(self.folder / f".trial{number}.lock", blocking=False)
                try:
                    lock.acquire()
                except Timeout:
                    continue  # another worker is at it
                new = number == len(known)
                if not new and _state(study, number) != optuna.trial.TrialState.RUNNING:
                    lock.release()
                    continue  # its worker has ended it just now
                # Seeded for each: a search that was interrupted asks what it would have asked.
                seed = self.config.seed * 100_003 + number
                study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                trial = study.ask() if new else optuna.Trial(study, known[number]._trial_id)
                for name, choice in self.config.space.items():
                    choice.suggest(trial, name)
                return trial, lock
            return None

    def _run(self, study: "optuna.Study", trial: "optuna.Trial", report: Tell) -> None:
        from optuna.trial import TrialState

        values = {name: choice.suggest(trial, name) for name, choice in self.config.space.items()}
        label = f"trial {trial.number}"
        try:
            # Its last worker, if the command was killed, ends by itself within this time.
            with hold(self.folder / f"trial{trial.number}", wait=10):
                score = self._train(study, trial, self.config.trial_config(values), report)
        except CannotWrite:
            raise  # no fault of the trial's: it goes on when there is space
        except SomasegError as error:
            study.tell(trial, state=TrialState.FAIL)
            report({"note": f"{label} failed: {error}"})
            states = [one.state for one in study.get_trials(deepcopy=False)]
            if TrialState.COMPLETE not in states and states.count(TrialState.FAIL) >= _FAILURES:
                raise
            return
        setting = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        if score is None:
            report({"note": f"{label}: pruned ({setting})"})
            return
        with self._lock("best"):
            study.tell(trial, score)
            self._write_best(study)
        report({"note": f"{label}: {score:.4f} ({setting})"})

    def _train(
        self, study: "optuna.Study", trial: "optuna.Trial", config: RunConfig, report: Tell
    ) -> float | None:
        """Train fold after fold; return the score, or none if the trial was pruned."""
        from optuna.trial import TrialState

        run = Run.create(self.folder / f"trial{trial.number}", config)
        check_disk([(run, fold) for fold in range(config.folds) if not run.finished(fold)], 1)
        dataset = run.dataset()
        score = 0.0
        for fold in range(config.folds):
            label = f"trial {trial.number} fold {fold}"
            run_fold(
                run,
                fold,
                lambda event, label=label: report(  # type: ignore[misc]
                    event | {"label": f"{label} {event['stage']}"} if "stage" in event else event
                ),
            )
            last = fold == config.folds - 1
            nested = score_run(run, dataset, self.config.weights).nested
            score = nested.map if nested.weighted is None else nested.weighted
            if not last:
                trial.report(score, fold)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    return None
        return score

    def _write_best(self, study: "optuna.Study") -> None:
        best = study.best_trial
        config = self.config.trial_config(best.params)
        training = config.training.model_dump(mode="json", exclude_defaults=True, exclude={"seed"})
        count = len(study.get_trials(deepcopy=False))
        preset = Preset(
            about=f"Best of {count} trials (trial {best.number}, {best.value:.4f} out of fold).",
            model=config.model,
            training=training,
        )
        write_text(
            self.folder / "best.yaml",
            yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False),
        )
        with atomic_path(self.folder / MODEL) as temporary:
            shutil.copyfile(self.folder / f"trial{best.number}" / MODEL, temporary)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        from filelock import FileLock

        with FileLock(self.folder / f".{name}.lock"):
            yield


def run_search(
    search: Search, trials: int, jobs: int, report: Report, execute: Execute = execute
) -> None:
    """Run trials in ``jobs`` processes until there are ``trials`` in all.

    Args:
        search: the search; trials that are done stay, begun ones go on.
        trials: number in all, over all sittings.
        jobs: trials at a time.
        report: told what the workers tell.
        execute: runs the processes; by default on this machine.

    Raises:
        SomasegError: a worker failed.
    """
    from optuna.trial import TrialState

    states = [one.state for one in search.study().get_trials(deepcopy=False)]
    left = trials - sum(state != TrialState.RUNNING for state in states)
    words = [str(search.folder.resolve()), str(trials)]
    workers = [(f"worker {k}", words) for k in range(min(jobs, left))]
    if workers:
        execute(workers, jobs, report, "somaseg.runs.search", of=trials)


def _state(study: "optuna.Study", number: int) -> "optuna.trial.TrialState":
    return study.get_trials(deepcopy=False)[number].state


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """Work on a search; the exit code is 2 after an error that the user can mend."""
    folder, trials = arguments
    return as_task(lambda report: Search.open(folder).work(int(trials), report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
