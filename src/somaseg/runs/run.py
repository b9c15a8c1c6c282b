"""A run: a folder that anyone can read.

::

    RUN/config.yaml          what was asked for: data, folds, model, training
    RUN/folds.json           fold of each image
    RUN/fold0/               metrics.csv, model.safetensors, predictions.npz (raw, out of fold),
                             precision.json (scores in lower precision, where they can be measured)
    RUN/all/                 the same for a model of all images, without predictions
    RUN/settle.json          tuned settings by class
    RUN/rescore.json         learned scores and the settings tuned for them, if they help
    RUN/scores.json          out-of-fold scores
    RUN/model.safetensors    what predicts new images, once scored: models, views, settings
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

from somaseg.data import Dataset, Sample, load_folds, make_folds, save_folds
from somaseg.data.leaks import keep_together
from somaseg.errors import SomasegError
from somaseg.files import is_there, read_json, read_yaml, write_json, write_text
from somaseg.folders import (
    CONFIG,
    FOLDS,
    MODEL,
    PREDICTIONS,
    RESCORER,
    SCORES,
    is_ours,
    model_files,
    part_of_run,
)
from somaseg.instances import Instances
from somaseg.models.registry import Preset, check_channels, load_preset, parse_config, validate
from somaseg.models.training.settings import TrainSettings
from somaseg.predict.store import load_predictions
from somaseg.runs.sources import DataConfig, learn_from, load_annotated


class RunConfig(BaseModel):
    """All that decides a run's outcome."""

    model_config = ConfigDict(extra="forbid")

    data: DataConfig
    folds: int = Field(3, ge=2, description="folds of the cross-validation")
    seed: int = Field(0, description="of the folds; training has its own")
    preset: str = Field("", description="name of the preset that the model came from")
    model: dict[str, Any]
    training: TrainSettings = TrainSettings()
    start_from: str | None = Field(
        None, description="model file whose weights training starts from"
    )
    train_on: DataConfig | None = Field(
        None, description="other annotations of the same images to learn from, as a mended copy"
    )
    views: Literal["none", "flips", "all", "scales", "flips+scales"] = Field(
        "none", description="test-time views of out-of-fold prediction"
    )
    log: tuple[str, ...] = Field((), description="trackers besides the CSV")

    @classmethod
    def make(
        cls,
        data: DataConfig,
        preset: str = "flow_lite",
        *,
        loaded: Preset | None = None,
        seed: int = 0,
        steps: int | None = None,
        changes: Mapping[str, Any] | None = None,
        start_from: str | Path | None = None,
        **fields: Any,
    ) -> Self:
        """Put a config together of a preset and what is asked for besides.

        Args:
            data: the annotated images.
            preset: name of a preset, or path of a YAML file of one.
            loaded: what is taken instead of what is found under that name.
            seed: of the folds, and of the training unless the preset has one.
            steps: of the training, instead of the preset's.
            changes: values by dotted name, such as ``training.batch`` or ``model.diameter``.
            start_from: model file whose weights the training starts from.
            fields: others, as they are called here.

        Raises:
            SomasegError: no such preset, or a field that is wrong; it is named.
        """
        loaded = load_preset(preset) if loaded is None else loaded
        training = {"seed": seed, **loaded.training} | ({} if steps is None else {"steps": steps})
        given = {"data": data, "preset": preset, "seed": seed, "model": loaded.model, **fields}
        given["training"] = training
        given["start_from"] = None if start_from is None else str(Path(start_from).resolve())
        config = validate(cls, changed(given, changes or {}, "--set"), "settings")
        check_channels(parse_config(config.model, "model"), config.data.channels)
        return config


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Put values into nested settings by their dotted names; nothing given is changed itself.

    Raises:
        SomasegError: a name that is not below ``model`` or ``training``; ``where`` begins it.
    """
    out = {key: copy.deepcopy(v) if isinstance(v, dict) else v for key, v in fields.items()}
    for name, value in changes.items():
        *parents, key = name.split(".")
        if not parents or parents[0] not in ("model", "training"):
            raise SomasegError(f"{where}: {name}: write it as training.FIELD or model.FIELD")
        at = out
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise SomasegError(f"{where}: {name}: {parent} has no fields")
        at[key] = copy.deepcopy(value)
    return out


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    folder: Path
    config: RunConfig

    @classmethod
    def create(cls, folder: str | Path, config: RunConfig) -> "Run":
        """Make the folder, or take up the one that was made with the same config.

        Raises:
            SomasegError: it holds a run of another config (the fields that differ are named), or
                other files.
        """
        folder = Path(folder)
        path = folder / CONFIG
        parse_config(config.model)
        if path.exists():
            run = cls.open(folder)
            differing = _differences(
                run.config.model_dump(mode="json"), config.model_dump(mode="json")
            )
            if set(differing) <= {"data.path", "data.images"} and run.moved:
                return run.repoint(config.data)
            if differing:
                raise SomasegError(
                    f"{folder}: holds a run that differs in {', '.join(differing)}; "
                    "give another --out, or the same options to go on with it"
                )
            return run
        if folder.exists() and not _unused(folder):
            raise SomasegError(f"{folder}: exists and is no run; give another --out")
        dataset = load_annotated(config.data)
        if config.train_on is not None:
            learn_from(dataset, config.train_on)  # what is wrong with it is told now
        folds = make_folds(keep_together(dataset, config.folds), config.folds, config.seed)
        save_folds(folder / FOLDS, folds)
        # The config is written last: a folder with it is a whole run.
        write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        return cls(folder, config)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open a run.

        Raises:
            SomasegError: not a run, or its config is broken.
        """
        folder = Path(folder)
        path = folder / CONFIG
        if not path.exists():
            raise SomasegError(f"{folder}: not a run (it has no {CONFIG})")
        fields = read_yaml(path)
        return cls(
            folder, validate(RunConfig, fields if isinstance(fields, dict) else {}, str(path))
        )

    @property
    def moved(self) -> bool:
        """Whether its data set is no longer where it was."""
        return not is_there(self.config.data.path)

    def dataset(self) -> Dataset:
        """Load the run's annotated images.

        Raises:
            SomasegError: they cannot be read, or are no longer there.
        """
        if self.moved:
            raise SomasegError(
                f"{self.config.data.path}: no such file or folder, where {self.folder} has its "
                f"images from; if they were moved: somaseg tune {self.folder} --data FOLDER"
            )
        return load_annotated(self.config.data)

    def repoint(self, data: DataConfig) -> "Run":
        """Note where the data set lies now.

        Raises:
            SomasegError: it has other images than those that the run was made with.
        """
        self.folds(load_annotated(data))
        config = self.config.model_copy(update={"data": data})
        write_text(
            self.folder / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        )
        return Run(self.folder, config)

    def folds(self, dataset: Dataset) -> dict[str, int]:
        """Load the fold of each image.

        Raises:
            SomasegError: the data set has changed since.
        """
        return load_folds(self.folder / FOLDS, dataset)

    def training_samples(self, dataset: Dataset, fold: int | None) -> list[Sample]:
        """Images that the model of a fold (none: of all images) learns from.

        Raises:
            SomasegError: the data set, or that of other annotations, has changed since.
        """
        folds = self.folds(dataset)
        if self.config.train_on is not None:
            dataset = learn_from(dataset, self.config.train_on)
        return [sample for sample in dataset if folds[sample.id] != fold]

    def part(self, fold: int | None) -> Path:
        """Folder of a fold, or of the model of all images (none)."""
        return part_of_run(self.folder, fold)

    def model_path(self, fold: int | None) -> Path:
        """Model file of a fold, or of all images."""
        return self.part(fold) / MODEL

    def predictions_path(self, fold: int) -> Path:
        """Raw out-of-fold predictions of a fold."""
        return self.part(fold) / PREDICTIONS

    @property
    def rescorer_path(self) -> Path:
        """Learned scores, if there are any."""
        return self.folder / RESCORER

    def finished(self, fold: int | None) -> bool:
        """Whether a fold's training, and prediction if it has one, is done."""
        last = self.model_path(None) if fold is None else self.predictions_path(fold)
        return last.exists()

    def model_paths(self) -> list[Path]:
        """The models to predict new images with: that of all images, or else those of the folds.

        Raises:
            SomasegError: training is not finished.
        """
        return model_files(self.folder)

    def finished_folds(self) -> list[int]:
        """Folds that are trained and predicted.

        Raises:
            SomasegError: none is.
        """
        folds = [fold for fold in range(self.config.folds) if self.finished(fold)]
        if not folds:
            raise SomasegError(
                f"{self.folder}: no fold is finished; run the same `somaseg train` again"
            )
        return folds

    def raw_predictions(self) -> dict[str, Instances]:
        """Load the raw out-of-fold predictions of the images of all finished folds.

        Raises:
            SomasegError: no fold is finished.
        """
        out: dict[str, Instances] = {}
        for fold in self.finished_folds():
            out |= load_predictions(self.predictions_path(fold))
        return out

    def save_scores(self, scores: dict[str, Any]) -> None:
        """Write ``scores.json``."""
        write_json(self.folder / SCORES, scores)

    def scores(self) -> dict[str, Any]:
        """Read ``scores.json``."""
        scores: dict[str, Any] = read_json(self.folder / SCORES)
        return scores


def _unused(folder: Path) -> bool:
    """Whether a folder is empty, or a run's that was killed before its config was written."""
    return folder.is_dir() and all(path.name == FOLDS or is_ours(path) for path in folder.iterdir())


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the fields in which nested dicts differ."""
    out: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}")
    return out
