"""``somaseg demo``: the whole way on synthetic micrographs, in a few minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from somaseg.instances import Instances

_IMAGES = 6  # annotated images of each of the three kinds
_STEPS = 120


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all that it makes.")] = Path(
        "somaseg-demo"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each fold.")] = _STEPS,
) -> None:
    """Make synthetic micrographs, train on them, score, and segment new ones.

    Needs neither network nor images; takes a few minutes on two cores. The commands that do the
    same with your own images are printed on the way.
    """
    from somaseg.cli.progress import FoldBars
    from somaseg.cli.scores import print_run_scores
    from somaseg.data import load_dataset
    from somaseg.data.formats.results import read_results
    from somaseg.data.synthetic import write_dataset
    from somaseg.folders import RESULTS
    from somaseg.models.registry import Preset, load_preset
    from somaseg.predict.load import load_segmenter
    from somaseg.predict.outputs import segment_samples
    from somaseg.runs.cross_validate import train_run
    from somaseg.runs.execute import default_jobs
    from somaseg.runs.run import RunConfig
    from somaseg.runs.sources import DataConfig

    data, new, masks = out / "data", out / "data" / "test", out / "masks"
    typer.echo(f"1. three kinds of synthetic cells; look at them with: somaseg data info {data}")
    if not (data / "train.csv").exists():  # written last
        write_dataset(data, n_per_class=_IMAGES, n_test=1)

    typer.echo(f"2. train, score unseen folds, as: somaseg train {data} --out {out / 'run'}")
    # Less than any real training: the synthetic cells are many and alike.
    training = {"steps": steps, "batch": 4, "crop": 192, "average": 0.97, "rate": 2e-3}
    preset = Preset(model=load_preset("flow_lite").model, training=training)
    config = RunConfig.make(DataConfig.at(data), loaded=preset, folds=2, log=("tensorboard",))
    with FoldBars() as report:
        run, scores = train_run(out / "run", config, default_jobs(), report)
    print_run_scores(scores, str(run.folder))

    typer.echo(
        f"3. segment new images, as: somaseg predict {new} --model {run.folder} --out {masks}"
    )
    samples = load_dataset(new).samples
    segment_samples(load_segmenter(run.folder), samples, masks)
    _draw(out / "demo.png", read_results(masks / RESULTS))
    typer.echo(f"4. what it found, missed and made up: {out / 'demo.png'}")


def _draw(path: Path, found: "dict[str, Instances]") -> None:
    """Draw truth and prediction of the test images side by side."""
    from somaseg.data.synthetic import make_samples
    from somaseg.report.overlays import contact_sheet, side_by_side, write_png

    # The test images continue the series that the training images began.
    truth = {sample.id: sample for sample in make_samples(_IMAGES + 1)}
    pictures = [
        side_by_side(truth[name].image, truth[name].instances, cells, scale=2)
        for name, cells in found.items()
        if name in truth
    ]
    write_png(path, contact_sheet(pictures, list(found), columns=1))
