"""Where a training's numbers and pictures go: TensorBoard always, W&B and MLflow when asked for.

All of them mirror the run's folder, which has the same in CSV and JSON and needs none of them.
"""

import contextlib
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from somaseg.errors import SomasegError
from somaseg.files import read_json, write_json

StepProgress = Callable[[int, int, float | None], None]
"""Called as ``progress(steps done, steps in all, loss or none)``."""

Row = tuple[int, dict[str, float]]
"""A step and its scalars."""

RGB = npt.NDArray[np.uint8]

_IDS = "trackers.json"


class Tracker(Protocol):
    """One place to log to. Opening it leaves there exactly the history that was given."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record scalars of a step."""

    def image(self, name: str, rgb: RGB) -> None:
        """Record a picture, uint8 (h, w, 3)."""

    def summary(self, values: dict[str, float]) -> None:
        """Record final figures."""

    def close(self) -> None:
        """Flush and close."""


class Loggers:
    """Writes to all trackers of one training, or of a run's scores.

    A tracker that fails while training goes on is told of and left alone: hours of work must not
    end because a server is away.

    Args:
        folder: the fold's folder, or the run's; trackers write below it.
        name: as the trackers show it.
        config: nested settings, shown beside the curves.
        kinds: any of ``wandb``, ``mlflow``; ``tensorboard`` is always there.
        run: the run's folder, if ``folder`` is that of a fold: its name groups what belongs
            together in W&B and MLflow.

    Raises:
        SomasegError: unknown kind, or its package is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        config: dict[str, Any],
        kinds: Sequence[str] = (),
        run: str | Path | None = None,
    ) -> None:
        self._kinds = tuple(dict.fromkeys(["tensorboard", *kinds]))
        check_kinds(self._kinds)
        self._arguments = (Path(folder), name, Path(run or folder).resolve(), config)
        self._trackers: dict[str, Tracker] = {}

    def begin(self, history: Sequence[Row] = ()) -> None:
        """Open the trackers.

        Args:
            history: what was logged before, as far as it counts: a training that goes on from a
                checkpoint does some steps again. No point is there twice, and none is lost.

        Raises:
            SomasegError: a tracker cannot be opened (no such server, say).
        """
        for kind in self._kinds:
            try:
                self._trackers[kind] = _KINDS[kind](*self._arguments, history)
            except Exception as error:
                raise SomasegError(f"--log {kind}: cannot log there ({_line(error)})") from error

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record scalars of a step."""
        self._each(lambda tracker: tracker.log(step, values))

    def image(self, name: str, rgb: RGB) -> None:
        """Record a picture, uint8 (h, w, 3) red green blue; one of the same name is replaced."""
        self._each(lambda tracker: tracker.image(name, rgb))

    def summary(self, values: dict[str, float]) -> None:
        """Record final figures, such as scores; those of the same name are replaced."""
        self._each(lambda tracker: tracker.summary(values))

    def close(self) -> None:
        """Flush and close all trackers."""
        self._each(lambda tracker: tracker.close())
        self._trackers = {}

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._trackers.items()):
            try:
                do(tracker)
            # Libraries of three vendors: there is no telling what they raise.
            except Exception as error:
                del self._trackers[kind]
                warnings.warn(
                    f"{kind} failed ({_line(error)}) and is not logged to any further; "
                    "metrics.csv has it all",
                    stacklevel=3,
                )


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed, before anything is trained.

    Raises:
        SomasegError: which, and what to do.
    """
    from importlib.util import find_spec

    for kind in kinds:
        if kind not in _KINDS:
            raise SomasegError(f"--log {kind}: not one of {', '.join(_KINDS)}")
        if find_spec(kind) is None:
            raise SomasegError(f"--log {kind}: run `pip install 'somaseg[{kind}]'` first")


class _TensorBoard:
    """Event files in ``folder/tensorboard``, written anew from the history at each opening."""

    def __init__(
        self, folder: Path, name: str, run: Path, config: dict[str, Any], history: Sequence[Row]
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        # Indented by four, Markdown shows it as it is.
        lines = yaml.safe_dump(config, sort_keys=False).splitlines()
        self._writer.add_text("config", "\n".join(f"    {line}" for line in lines))
        for step, values in history:
            self._add(step, values)
        self._writer.flush()

    def _add(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._add(step, values)
        self._writer.flush()

    def image(self, name: str, rgb: RGB) -> None:
        self._writer.add_image(name, rgb, 0, dataformats="HWC")

    def summary(self, values: dict[str, float]) -> None:
        self._add(0, values)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of W&B: online, or offline below ``folder/wandb`` for a later ``wandb sync``."""

    def __init__(
        self, folder: Path, name: str, run: Path, config: dict[str, Any], history: Sequence[Row]
    ) -> None:
        import wandb

        id = _known_id(folder, "wandb") or secrets.token_hex(4)
        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", "somaseg"),
            "name": name,
            "group": run.name,
            "id": id,
            "dir": str(folder),
            "config": config,
            "reinit": "create_new",
            "resume": "allow",
        }
        try:
            self._run = wandb.init(**options)
        except wandb.errors.UsageError:
            # No login, and nobody there to ask for one: keep it in the folder.
            self._run = wandb.init(**options, mode="offline")
        if self._run.offline:
            # An offline sitting cannot continue another's file. It writes the whole again.
            here = Path(self._run.dir).parent
            for old in (folder / "wandb").glob(f"offline-run-*-{id}"):
                if old.name != here.name:
                    shutil.rmtree(old)
        _keep_id(folder, "wandb", id)
        # Online, the run knows its step, and W&B itself leaves out those below.
        for step, values in history:
            if step >= self._run.step:
                self._run.log(values, step=step)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, name: str, rgb: RGB) -> None:
        import wandb

        self._run.log({name: wandb.Image(rgb)})

    def summary(self, values: dict[str, float]) -> None:
        self._run.summary.update(values)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow, at ``MLFLOW_TRACKING_URI`` or else in ``mlflow/`` of the somaseg run."""

    def __init__(
        self, folder: Path, name: str, run: Path, config: dict[str, Any], history: Sequence[Row]
    ) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        place: Path | None = None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # One store for all folds; MLflow 3 refuses new stores of plain files.
            place = run / "mlflow"
            place.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{place / 'mlflow.db'}"
        self._client = client = MlflowClient(uri)
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "somaseg")
        experiment = client.get_experiment_by_name(title)
        if experiment is None:
            artifacts = (place / "artifacts").as_uri() if place else None
            with contextlib.suppress(MlflowException):  # another fold was faster
                client.create_experiment(title, artifact_location=artifacts)
            experiment = client.get_experiment_by_name(title)
            if experiment is None:
                raise SomasegError(f"{uri} has no experiment {title!r} and takes none")
        self._last: dict[str, int] = {}
        self._id = _known_id(folder, "mlflow") or ""
        try:
            client.update_run(self._id, "RUNNING")
        except MlflowException:  # not begun, or in another store
            begun = client.create_run(experiment.experiment_id, run_name=name)
            self._id = begun.info.run_id
            client.set_tag(self._id, "somaseg.run", run.name)
            client.log_dict(self._id, config, "config.yaml")
            for key, value in flat_settings(config).items():
                client.log_param(self._id, key, str(value)[:500])
            _keep_id(folder, "mlflow", self._id)
        for step, values in history:
            self.log(step, values)

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            if key not in self._last:
                past = self._client.get_metric_history(self._id, key)
                self._last[key] = max((metric.step for metric in past), default=-1)
            # A step done again comes out the same: it is there already.
            if step > self._last[key]:
                self._client.log_metric(self._id, key, value, step=step)
                self._last[key] = step

    def image(self, name: str, rgb: RGB) -> None:
        self._client.log_image(self._id, rgb, artifact_file=f"{name}.png")

    def summary(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._client.log_metric(self._id, key, value)

    def close(self) -> None:
        self._client.set_terminated(self._id)


_KINDS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _known_id(folder: Path, kind: str) -> str | None:
    found = _ids(folder).get(kind)
    return found if isinstance(found, str) else None


def _keep_id(folder: Path, kind: str, id: str) -> None:
    write_json(folder / _IDS, {**_ids(folder), kind: id})


def _ids(folder: Path) -> dict[str, Any]:
    path = folder / _IDS
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise SomasegError(f"{path}: not ids by tracker; delete it to begin new ones")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def flat_settings(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    out: dict[str, Any] = {}
    for key, value in fields.items():
        name = f"{prefix}{key}"
        out |= flat_settings(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out
