"""Where a training's numbers go: TensorBoard always, W&B or MLflow when asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from somaseg.errors import SomasegError

Progress = Callable[[int, int, float | None], None]
"""Called as ``progress(steps done, steps in all, loss or none)``."""

KINDS = ("tensorboard", "wandb", "mlflow")


class Loggers:
    """Writes scalars to the trackers of one training.

    Args:
        folder: the fold's folder; trackers write below it.
        name: of the run, as the trackers show it.
        config: nested settings, shown beside the curves.
        kinds: any of ``tensorboard``, ``wandb``, ``mlflow``.

    Raises:
        SomasegError: unknown kind, or its package is not installed.
    """

    def __init__(
        self, folder: str | Path, name: str, config: dict[str, Any], kinds: Sequence[str]
    ) -> None:
        self._sinks: list[tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]] = []
        folder = Path(folder)
        for kind in kinds:
            if kind not in KINDS:
                raise SomasegError(f"--log {kind}: not one of {', '.join(KINDS)}")
            opened = getattr(self, f"_{kind}")(folder, name, config)
            self._sinks.append(opened)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record scalars of a step."""
        for write, _ in self._sinks:
            write(step, values)

    def close(self) -> None:
        """Flush and close all trackers."""
        for _, close in self._sinks:
            close()
        self._sinks = []

    @staticmethod
    def _tensorboard(folder: Path, name: str, config: dict[str, Any]) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def write(step: int, values: dict[str, float]) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        return write, writer.close

    @staticmethod
    def _wandb(folder: Path, name: str, config: dict[str, Any]) -> Any:
        try:
            import wandb
        except ImportError as error:
            raise SomasegError("--log wandb: run `pip install 'somaseg[wandb]'` first") from error
        # WANDB_MODE=offline (or no login) keeps everything in the folder.
        run = wandb.init(
            project="somaseg", name=name, dir=str(folder), config=config, reinit="create_new"
        )
        return (lambda step, values: run.log(values, step=step)), run.finish

    @staticmethod
    def _mlflow(folder: Path, name: str, config: dict[str, Any]) -> Any:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise SomasegError("--log mlflow: run `pip install 'somaseg[mlflow]'` first") from error
        import mlflow

        client = MlflowClient()
        experiment = mlflow.set_experiment("somaseg")
        run = client.create_run(experiment.experiment_id, run_name=name)
        for section, fields in config.items():
            for key, value in (fields if isinstance(fields, dict) else {"": fields}).items():
                client.log_param(run.info.run_id, f"{section}.{key}".strip("."), str(value)[:500])

        def write(step: int, values: dict[str, float]) -> None:
            for key, value in values.items():
                client.log_metric(run.info.run_id, key, value, step=step)

        return write, lambda: client.set_terminated(run.info.run_id)
