"""The members of an ensemble: runs, models, and predictions from anywhere, as raw instances."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from somaseg import folders
from somaseg.data import load_dataset
from somaseg.data.folds import read_folds
from somaseg.data.types import Dataset, Sample
from somaseg.decide import MaskHead, has_one_class
from somaseg.errors import SomasegError
from somaseg.files import is_there
from somaseg.folders import FOLDS, PREDICTIONS
from somaseg.instances import Instances
from somaseg.predict.store import load_predictions
from somaseg.runs.run import Run
from somaseg.scoring.comparison import not_in_truth
from somaseg.scoring.inputs import is_results, read_predictions, read_truth

if TYPE_CHECKING:
    from somaseg.predict.predictor import Finder

Kind = Literal["run", "ensemble", "model", "predictions"]
MemberProgress = Callable[[str, int, int], None]
"""Called as ``progress(member, images done, images in all)``."""


@dataclass(frozen=True)
class Member:
    """One member, and what it found.

    Attributes:
        path: as the user gave it.
        kind: what lies there.
        ids: images that it has predicted, or will.
        load: reads or predicts its instances.
        folds: fold of each image, if these are out-of-fold predictions.
        predictor: of the images, if they are predicted here.
        one_class: whether the cells of an image are of one class, as far as it knows.
        names: class names that all members share, if they are known beforehand.
        silent: images that it says nothing of, in a format that cannot say "nothing found".
    """

    path: Path
    kind: Kind
    ids: tuple[str, ...]
    load: Callable[[], dict[str, Instances]]
    folds: dict[str, int] | None = None
    predictor: "Finder | None" = None
    one_class: bool = False
    names: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path, as the user gave it."""
        return str(self.path)

    @cached_property
    def raw(self) -> dict[str, Instances]:
        """Instances by image id. Models predict when this is first asked for."""
        return self.load()


def kind_of(path: str | Path) -> Kind:
    """Tell what a member is.

    Raises:
        SomasegError: nothing is there.
    """
    path = Path(path)
    if not is_there(path):
        raise SomasegError(f"{path}: no such run, model or predictions")
    kind = folders.kind_of(path)
    if kind == "run" or kind == "ensemble":
        return kind
    # A fit is read by its out-of-fold predictions, as an ensemble, unless there is to predict.
    if path.suffix == ".safetensors" or kind in ("fit", "search"):
        return "model"
    return "predictions"


def read_members(
    paths: Sequence[Path],
    truth: Dataset | None = None,
    images: Dataset | None = None,
    *,
    runs_predict: bool = True,
    views: str | None = None,
    tile: int = 1024,
    ignore_unknown: bool = False,
    progress: MemberProgress | None = None,
) -> list[Member]:
    """Read or predict what each member found.

    Args:
        paths: of runs, models (files, or folders that ``somaseg fit`` made), folders that
            ``somaseg ensemble`` wrote, or predictions: a ``.npz`` of raw ones, or anything that
            ``somaseg evaluate`` reads.
        truth: annotated images; gives ids, sizes and class names.
        images: images to predict with models.
        runs_predict: predict ``images`` with runs too; else they give their out-of-fold
            predictions.
        views: test-time views of the images predicted here.
        tile: larger images go through in tiles of this side.
        ignore_unknown: leave out images that ``truth`` or ``images`` does not have.
        progress: told after each image that is predicted.

    Raises:
        SomasegError: nothing readable; an unknown image, another size, a score outside of 0 … 1, a
            class that the truth lacks. The file is named.
    """
    if not paths:
        raise SomasegError("no member; name runs, models or predictions")
    kinds = [kind_of(path) for path in paths]
    if images is None:
        kinds = [
            "ensemble" if kind == "model" and (path / PREDICTIONS).is_file() else kind
            for path, kind in zip(paths, kinds, strict=True)
        ]
    reference = truth or images or _reference(paths, kinds)
    members = []
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "model" and images is None:
            raise SomasegError(f"{path}: a model; say what to predict with --images")
        if images is not None and (kind == "model" or (kind == "run" and runs_predict)):
            members.append(_predicting(path, kind, images, reference, views, tile, progress))
        else:
            members.append(_reading(path, kind, reference, ignore_unknown))
    spoken = dict.fromkeys(name for member in members for name in member.ids)
    return [
        _completed(member, spoken, reference)
        if member.kind == "predictions" and is_results(member.path)
        else member
        for member in members
    ]


def _completed(member: Member, spoken: Iterable[str], reference: Dataset) -> Member:
    """A member of a list of results: of what others speak and it does not, it found nothing."""
    silent = tuple(name for name in spoken if name not in member.raw or not len(member.raw[name]))
    empty = {name: Instances.empty(reference[name].size, reference.names) for name in silent}
    raw = member.raw | empty
    return replace(member, ids=tuple(raw), load=partial(dict, raw), silent=silent)


def common_ids(members: Sequence[Member], reference: Dataset | None = None) -> list[str]:
    """Images that all members have, in the order of ``reference`` or else of the first.

    Raises:
        SomasegError: there are none.
    """
    shared = set(members[0].ids).intersection(*(member.ids for member in members[1:]))
    if not shared:
        raise SomasegError(
            "the members share no image: "
            + ", ".join(f"{m.path} has {m.ids[0] if m.ids else 'none'!r}, …" for m in members)
        )
    order = members[0].ids if reference is None else reference.ids
    return [name for name in order if name in shared]


def shared_folds(members: Sequence[Member], ids: Sequence[str]) -> dict[str, int] | None:
    """Fold of each image, if all members predicted it out of the same fold."""
    found = [
        {name: member.folds[name] for name in ids} if member.folds else None for member in members
    ]
    return found[0] if all(one == found[0] for one in found[1:]) else None


def drawing_models(
    members: Sequence[Member], ids: Sequence[str]
) -> Iterator[tuple[list[str], list["MaskHead"], list[int]]]:
    """The models that draw masks in given boxes, for a second pass, loaded as they are needed.

    Yields:
        images, models that have not seen them, and the number of each model's member.
    """
    from somaseg.models.bundle import load_model

    runs = {m: Run.open(member.path) for m, member in enumerate(members) if member.kind == "run"}
    runs = {m: run for m, run in runs.items() if members[m].predictor is None}
    fixed = [
        (model, m)
        for m, member in enumerate(members)
        for model in getattr(member.predictor, "models", ())
        if isinstance(model, MaskHead)
    ]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in ids:
        key = tuple((members[m].folds or {})[name] for m in runs)
        groups.setdefault(key, []).append(name)
    for key, group in groups.items():
        loaded = [
            (load_model(run.model_path(fold)), m)
            for (m, run), fold in zip(runs.items(), key, strict=True)
        ]
        heads = [*fixed, *((model, m) for model, m in loaded if isinstance(model, MaskHead))]
        yield group, [model for model, _ in heads], [m for _, m in heads]


def _reference(paths: Sequence[Path], kinds: Sequence[Kind]) -> Dataset:
    """Images that the members speak of: those of a run, or all whose size one of them knows."""
    sizes: dict[str, tuple[int, int]] = {}
    sources, failures = [], []
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "run":
            return Run.open(path).dataset()
        if kind == "model":
            continue
        if kind == "ensemble" or path.suffix == ".npz":
            raw = _raw(path / PREDICTIONS if kind == "ensemble" else path)
            sizes |= {name: one.size for name, one in raw.items()}
        else:
            try:
                sizes |= {sample.id: sample.size for sample in read_truth(path)}
            except SomasegError as error:  # a table of runs does not know the sizes
                failures.append(error)
                continue
        sources.append(str(path))
    if failures and not sources:
        raise failures[0]
    samples = tuple(Sample(name, size) for name, size in sizes.items())
    return Dataset(samples, (), " and ".join(sources))


def _reading(path: Path, kind: Kind, reference: Dataset, ignore_unknown: bool) -> Member:
    """A member that has predicted already."""
    folds, one_class = None, False
    if kind == "run":
        run = Run.open(path)
        dataset = run.dataset()
        raw, folds = run.raw_predictions(), run.folds(dataset)
        one_class = has_one_class(dataset)
    elif kind == "ensemble":
        raw = _raw(path / PREDICTIONS)
        if (path / FOLDS).exists():
            folds = read_folds(path / FOLDS)
    elif path.suffix == ".npz":
        raw = _raw(path)
    else:
        raw = read_predictions(path, reference, ignore_unknown)
    raw = _checked(raw, path, reference, ignore_unknown)
    return Member(
        *(path, kind, tuple(raw), partial(dict, raw), folds),
        one_class=one_class,
        names=reference.names,
    )


def _raw(path: Path) -> dict[str, Instances]:
    try:
        return load_predictions(path)
    except SomasegError as error:
        named = str(error).startswith(str(path))
        raise error if named else SomasegError(f"{path}: {error}") from error


def _predicting(
    path: Path,
    kind: Kind,
    images: Dataset,
    reference: Dataset,
    views: str | None,
    tile: int,
    progress: MemberProgress | None,
) -> Member:
    """A member that predicts the images when its instances are asked for."""
    from somaseg.predict.load import load_segmenter

    # Without a word on views, a bundle has its own.
    segmenter = (
        load_segmenter(path, tile=tile)
        if views is None
        else load_segmenter(path, views=views, tile=tile)
    )
    if reference.names and (foreign := sorted(set(segmenter.names) - set(reference.names))):
        raise _foreign_class(f"{path}: knows", foreign[0], reference)

    def load() -> dict[str, Instances]:
        raw = {}
        for done, sample in enumerate(images, 1):
            raw[sample.id] = with_names(segmenter.predictor(sample.image()), reference.names)
            if progress:
                progress(str(path), done, len(images))
        return raw

    return Member(
        *(path, kind, tuple(images.ids), load),
        predictor=segmenter.predictor,
        one_class=segmenter.one_class,
        names=reference.names,
    )


def _checked(
    raw: dict[str, Instances], path: Path, reference: Dataset, ignore_unknown: bool
) -> dict[str, Instances]:
    """Predictions with the images, sizes and classes of the reference, or an error."""
    unknown = [name for name in raw if name not in reference]
    if unknown and not ignore_unknown:
        raise not_in_truth(unknown, str(path), reference.source)
    out = {}
    for name in (name for name in raw if name in reference):
        instances, size = raw[name], reference[name].size
        if instances.size != size:
            raise SomasegError(
                f"{path}: image {name!r} is {instances.size[1]}×{instances.size[0]} pixels, "
                f"but {size[1]}×{size[0]} in {reference.source}; predict the image as it is"
            )
        wrong = instances.scores[(instances.scores < 0) | (instances.scores > 1)]
        if len(wrong):
            raise SomasegError(
                f"{path}: image {name!r} has a score of {wrong[0]:g}; scores lie in 0 … 1"
            )
        used = {instances.names[k] for k in np.unique(instances.classes) if k >= 0}
        if reference.names and (foreign := sorted(used - set(reference.names))):
            raise _foreign_class(f"{path}: image {name!r} has", foreign[0], reference)
        out[name] = with_names(instances, reference.names)
    return out


def _foreign_class(who: str, name: str, reference: Dataset) -> SomasegError:
    return SomasegError(
        f"{who} class {name!r}, which is none of {', '.join(reference.names)} in "
        f"{reference.source}; rename it"
    )


def with_names(instances: Instances, names: tuple[str, ...]) -> Instances:
    """The instances with the reference's classes, if it has any; all of one, if it has but one."""
    if not names:
        return instances
    renamed = instances.rename(names)
    return renamed.with_classes(0) if len(names) == 1 else renamed


def load_images(path: Path) -> Dataset:
    """Images to predict; their annotations, if there are any, have no say."""
    dataset = load_dataset(path)
    return replace(
        dataset,
        samples=tuple(replace(sample, instances=None) for sample in dataset),
    )
