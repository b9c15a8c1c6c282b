"""Tune the settings of each class on out-of-fold predictions.

First the offset of the annotations is found. Then each image, its masks moved by it, is scored
under every setting of a grid; the best setting for a set of images is read off their tables. For
the nested estimate this is done again for each fold, without its images: not even the grid has seen
them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from somaseg.data.folds import make_folds
from somaseg.data.types import Dataset
from somaseg.decide.apply import vote
from somaseg.decide.grid import AXES, SEARCHED, SettingGrid, make_grid, union
from somaseg.decide.judge import Floats, Judge
from somaseg.decide.offset import NONE, Offset, OffsetFinder, shifted
from somaseg.decide.settings import Settle, default_settings
from somaseg.decide.table import score_table
from somaseg.instances import Instances
from somaseg.masks.parallel import available_workers, map_images

MOST_IMAGES = 120
"""Images of a class that are looked at; more of them change the choice no more than chance does."""

Curve = list[tuple[float | str | None, float]]
_Raw = Mapping[str, Instances]


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        settings: best by class over all images: what new images are settled with.
        nested: settings by fold, tuned on the other folds' images.
        folds: fold of each image, to which ``nested`` refers.
        dealt: whether the images, all of one fold, were dealt into folds for the estimate.
        curves: by class and setting, (value, score) pairs through the best setting.
        tried: number of settings, over all classes.
    """

    settings: Settle
    nested: dict[int, Settle]
    folds: dict[str, int]
    dealt: bool
    curves: dict[str, dict[str, Curve]]
    tried: int

    def of_images(self) -> dict[str, Settle]:
        """Settings of each image: those that were tuned without its fold."""
        return {name: self.nested[fold] for name, fold in self.folds.items()}


def tune(
    raw: Mapping[str, Instances],
    dataset: Dataset,
    folds: Mapping[str, int],
    one_class: bool,
    *,
    search: Collection[str] = SEARCHED,
    without: Mapping[int, Mapping[str, Instances]] | None = None,
) -> Tuned:
    """Find the settings of each class that score best.

    Where images have one class, the classes are tuned apart, each on the images that are *voted*
    to be of it, as they will be for new images. Else all classes share one setting.

    Args:
        raw: raw out-of-fold predictions by image id.
        dataset: the annotated images.
        folds: fold of each image (more images may be in it). If all are of one fold, as when one
            fold of a run is trained, they are dealt into three for the nested estimate.
        one_class: whether images have one class.
        search: the settings that are tuned, some of :data:`somaseg.decide.grid.SEARCHED`.
        without: by fold, raw predictions of the *other* folds' images, for its nested estimate; if
            ``raw`` itself, as rescored, knows of that fold. By default those of ``raw``.

    Raises:
        SomasegError: there is no such setting.
    """
    folds, dealt = deal(raw, dataset, folds)
    names = list(default_settings(dataset.names))
    # None stands for the choice for new images, a number for that of the fold.
    sources: dict[int | None, _Raw] = {None: raw} | {
        fold: without[fold] if without else raw for fold in sorted(set(folds.values()))
    }
    chosen: dict[int | None, Settle] = {key: default_settings(dataset.names) for key in sources}
    curves: dict[str, dict[str, Curve]] = {}
    tried = 0
    groups = _groups(sources, dataset, folds, one_class)
    offsets = _offsets(groups, sources, dataset) if "offset" in search else {}
    moved: dict[tuple[int, Offset], Instances] = {}
    for group, members in groups.items():
        at = {key: offsets.get((group, key), NONE) for key in members}
        judges = _judge(members, _moved(members, sources, at, moved), dataset, search)
        for key, judge in judges.items():
            settings = judge.grid.settings(judge.best()).model_copy(update={"offset": at[key]})
            chosen[key] |= dict.fromkeys([group] if one_class else names, settings)
        if None in judges:
            curves[group or "all classes"] = _curves(judges[None])
            tried += judges[None].grid.size
    nested = {key: settings for key, settings in chosen.items() if key is not None}
    return Tuned(chosen[None], nested, folds, dealt, curves, tried)


def deal(
    ids: Collection[str], dataset: Dataset, folds: Mapping[str, int]
) -> tuple[dict[str, int], bool]:
    """Give images their folds; if all are of one, deal them into three, alike in their classes.

    Returns:
        Fold of each image, and whether they were dealt. Images of a single group cannot be dealt:
        they stay in one fold, with nothing to tune it on.
    """
    own = {name: folds[name] for name in ids}
    if len(set(own.values())) != 1:
        return own, False
    subset = dataset.subset(own)
    units = {(s.group is not None, s.group or s.id) for s in subset}
    k = min(3, len(units))
    return (make_folds(subset, k) if k > 1 else own), True


def _groups(
    sources: Mapping[int | None, _Raw], dataset: Dataset, folds: Mapping[str, int], one_class: bool
) -> dict[str, dict[int | None, list[str]]]:
    """Images to look at, by the class they are voted to be of, and by what is chosen with them."""
    names = list(default_settings(dataset.names))
    groups: dict[str, dict[int | None, list[str]]] = {}
    # In an order of chance, that of the seed: where there are too many the first are taken.
    ids = sorted(folds)
    ids = [ids[k] for k in np.random.default_rng(0).permutation(len(ids))]
    for key, source in sources.items():
        for name in ids:
            if folds[name] != key:
                label = vote(source[name]) if one_class else -1
                group = dataset.names[label] if label >= 0 else names[0] if one_class else ""
                listed = groups.setdefault(group, {}).setdefault(key, [])
                if len(listed) < MOST_IMAGES:
                    listed.append(name)
    return {group: groups[group] for group in [*names, ""] if group in groups}


def _offsets(
    groups: Mapping[str, Mapping[int | None, list[str]]],
    sources: Mapping[int | None, _Raw],
    dataset: Dataset,
) -> dict[tuple[str, int | None], Offset]:
    """Offset of the annotations of each class, for each choice from the images it may see."""
    finder = OffsetFinder(dataset)
    out: dict[tuple[str, int | None], Offset] = {}
    for key, source in sources.items():
        seen = {group: members[key] for group, members in groups.items() if key in members}
        for group, offset in finder.find(source, seen).items():
            out[group, key] = offset
    return out


def _moved(
    members: Mapping[int | None, list[str]],
    sources: Mapping[int | None, _Raw],
    offsets: Mapping[int | None, Offset],
    known: dict[tuple[int, Offset], Instances],
) -> dict[int | None, _Raw]:
    """The predictions moved by the offset of each choice; equal ones are one object."""
    out: dict[int | None, _Raw] = {}
    for key, ids in members.items():
        source, offset = sources[key], offsets[key]
        if any(offset):
            todo = [name for name in ids if (id(source[name]), offset) not in known]
            done = map_images(partial(_shift, source, offset), todo)
            known |= {(id(source[name]), offset): one for name, one in zip(todo, done, strict=True)}
            source = {name: known[id(source[name]), offset] for name in ids}
        out[key] = source
    return out


def _shift(source: _Raw, offset: Offset, name: str) -> Instances:
    return shifted(source[name], offset)


def _judge(
    members: Mapping[int | None, list[str]],
    sources: Mapping[int | None, _Raw],
    dataset: Dataset,
    search: Collection[str],
) -> dict[int | None, Judge]:
    """Score the images of a class under every setting, for each choice that they take part in."""
    judges = {
        # The grid of a fold too comes from the other folds: it knows how large their cells are.
        key: Judge(
            make_grid([sources[key][i] for i in ids], [dataset[i].annotated() for i in ids], search)
        )
        for key, ids in members.items()
    }
    # The same predictions serve several choices: they are scored once, on what all grids have.
    jobs: dict[tuple[str, int], list[int | None]] = {}
    for key, ids in members.items():
        for name in ids:
            jobs.setdefault((name, id(sources[key][name])), []).append(key)

    def work(job: tuple[str, list[int | None]]) -> list[tuple[int | None, Floats, Floats]]:
        name, keys = job
        grid: SettingGrid = union([judges[key].grid for key in keys])
        table = score_table(sources[keys[0]][name], dataset[name].annotated(), grid)
        parts = [(key, table[judges[key].grid.places_in(grid)]) for key in keys]
        return [(key, part, judges[key].gain(part)) for key, part in parts]

    todo = [(name, keys) for (name, _), keys in jobs.items()]
    step = 2 * available_workers()  # tables are large: not all at a time
    for first in range(0, len(todo), step):
        for results in map_images(work, todo[first : first + step]):
            for key, table, gain in results:
                judges[key].add(table, gain)
    return judges


def _curves(judge: Judge) -> dict[str, Curve]:
    """Mean score along each axis, through the chosen setting."""
    mean, best = judge.mean, judge.best()
    out: dict[str, Curve] = {}
    for axis, name in enumerate(AXES):
        through = np.moveaxis(mean, axis, -1)[best[:axis] + best[axis + 1 :]]
        out[name] = list(zip(getattr(judge.grid, name), through.tolist(), strict=True))
    return out
