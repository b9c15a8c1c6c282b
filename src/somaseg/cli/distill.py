"""``somaseg distill``: one fast network taught by an ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from somaseg.cli.options import (
    AUTO,
    DeviceOption,
    EngineOption,
    FormatOption,
    FromOption,
    ImagesOption,
    PrecisionOption,
    StepsOption,
)


def distill(
    model: Annotated[
        Path,
        typer.Argument(
            help="The teacher: a model file, or the folder of a run, fit or ensemble.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            help="Images, two of them annotated at least. Annotated ones keep their cells, others "
            "get the teacher's.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write.")] = Path(
        "student.safetensors"
    ),
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="Folder of further images; they get the teacher's cells.", show_default=False
        ),
    ] = None,
    student: Annotated[
        str,
        typer.Option(help="Preset of the student, by name or file (`somaseg models` lists them)."),
    ] = "flow_lite",
    steps: StepsOption = None,
    start_from: FromOption = None,
    format: FormatOption = AUTO,
    images: ImagesOption = None,
    device: DeviceOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Teach one network what an ensemble finds: nearly as good, and far faster.

    The teacher segments all images that are not annotated; the student is trained on those cells
    and on the annotations. One annotated image in five is kept from it, to tune its settings and to
    score it. After a stop the same command goes on.

    `somaseg predict --fast` takes the student of a model MODEL.safetensors if it lies beside it as
    MODEL-fast.safetensors.
    """
    from rich.progress import TaskID

    from somaseg.cli.progress import Bars
    from somaseg.data.load import load_dataset
    from somaseg.files import check_apart
    from somaseg.predict.load import find_model
    from somaseg.runs.distilling import Lesson, distill
    from somaseg.runs.members import load_images

    teacher = find_model(model)
    read = [path for path in (teacher, data, unlabelled, start_from) if path is not None]
    check_apart(read, [out, out.with_suffix(".part")])
    lesson = Lesson(
        teacher=teacher,
        data=load_dataset(data, str(format), images),
        unlabelled=load_images(unlabelled) if unlabelled is not None else None,
        preset=student,
        steps=steps,
        start=start_from,
    )
    tasks: dict[str, TaskID] = {}
    with Bars() as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        decision = distill(lesson, out, report)
    typer.echo(f"{out}: mAP {decision.nested.map:.4f} on {len(decision.found)} images kept from it")
