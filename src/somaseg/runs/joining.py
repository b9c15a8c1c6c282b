"""Join members, and score what comes out: untuned, nested, optimistic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from somaseg.data.types import Dataset
from somaseg.decide import Decision, Fusion, decide, fuse_images, second_pass
from somaseg.decide.tune import deal
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.runs.members import Member, drawing_models, shared_folds, with_names
from somaseg.runs.run import Run

if TYPE_CHECKING:
    from somaseg.models.base import Model

Raw = dict[str, Instances]


@dataclass(frozen=True)
class Joined:
    """An ensemble.

    Attributes:
        members: those that were joined.
        weights: of the members.
        fusion: how.
        of_maps: whether the members' maps were averaged, instead of their instances.
        redrawn: whether the members' mask heads drew the joined cells again.
        raw: the joined instances by image id.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    fusion: Fusion
    of_maps: bool
    redrawn: bool
    raw: Raw

    @property
    def label(self) -> str:
        """What it is called in tables."""
        way = "average of maps" if self.of_maps else self.fusion.method
        return f"{way}, second pass" if self.redrawn else way


def join(
    members: Sequence[Member],
    ids: Sequence[str],
    weights: Sequence[float] | None,
    fusion: Fusion,
    images: Dataset | None = None,
    views: str | None = None,
    tile: int = 1024,
) -> Joined:
    """Join members on some images.

    ``average`` of models of one dense family with the same classes, predicted here without weights,
    is that of their maps; all else is joined as instances.

    Args:
        members: at least one.
        ids: images that all members have.
        weights: of the members; equal by default.
        fusion: how they are joined.
        images: what the members' models predict.
        views: test-time views, of averaged maps.
        tile: side of a tile, of averaged maps.
    """
    of_maps = fusion.method == "average" and weights is None and _same_dense(members)
    if of_maps and images is not None:
        from somaseg.predict.predictor import Predictor

        models = [model for member in members for model in _models(member)]
        predictor = Predictor(models, views or "none", tile)
        names = members[0].names
        raw = {name: with_names(predictor(images[name].image()), names) for name in ids}
    else:
        some = [{name: member.raw[name] for name in ids} for member in members]
        raw = fuse_images(some, weights, fusion)
    equal = tuple(weights) if weights is not None else (1.0,) * len(members)
    return Joined(tuple(members), equal, fusion, of_maps, False, raw)


def redraw(joined: Joined, images: Dataset | None = None) -> Joined:
    """Let the mask heads of the members draw the joined cells again (region families).

    Args:
        joined: the ensemble.
        images: that models predicted. Without, those of the runs: each is then drawn by the models
            that have not seen it.

    Raises:
        SomasegError: no member has a mask head.
    """
    if images is None:
        runs = [member.path for member in joined.members if member.kind == "run"]
        images = Run.open(runs[0]).dataset() if runs else None
    raw: Raw = {}
    for ids, models, owners in drawing_models(joined.members, list(joined.raw)):
        if not models or images is None:
            raise SomasegError(
                "--second-pass: no member is a model of a family that draws masks in given boxes"
            )
        # Models of one member share its weight.
        weights = [joined.weights[m] / owners.count(m) for m in owners]
        for name in ids:
            raw[name] = second_pass(models, images[name].image(), joined.raw[name], weights)
    return replace(joined, redrawn=True, raw={name: raw[name] for name in joined.raw})


def folds_for_tuning(
    members: Sequence[Member], ids: Sequence[str], truth: Dataset
) -> dict[str, int]:
    """Fold of each image to tune and choose without.

    That of the members that have one, if they agree. Otherwise the images are dealt into three: no
    image's own annotation then has a say in its settings.
    """
    known = [member for member in members if member.folds]
    shared = shared_folds(known, ids) if known else None
    return deal(ids, truth, shared or dict.fromkeys(ids, 0))[0]


def score(
    raw: Mapping[str, Instances],
    truth: Dataset,
    folds: Mapping[str, int],
    class_weights: Mapping[str, float] | None = None,
) -> Decision:
    """Tune and score raw predictions of annotated images; see :func:`somaseg.decide.decide`."""
    return decide({"joined": raw}, truth, folds, class_weights=class_weights)


def select(
    members: Sequence[Member],
    fusion: Fusion,
    truth: Dataset,
    folds: Mapping[str, int],
    class_weights: Mapping[str, float] | None = None,
) -> tuple[Joined, Decision]:
    """Choose members and weights, and join them; scored with choices made without each fold."""
    raw = {member.name: member.raw for member in members}
    decision = decide(raw, truth, folds, methods=[fusion], alone=False, class_weights=class_weights)
    weights = decision.choice.member_weights
    chosen = tuple(member for member in members if member.name in weights)
    shares = tuple(float(weights[member.name]) for member in chosen)
    return Joined(chosen, shares, fusion, False, False, decision.raw), decision


def silences(members: Sequence[Member], ids: Sequence[str]) -> list[str]:
    """A line for each member that says nothing of images that are joined."""
    out = []
    for member in members:
        some = [name for name in member.silent if name in set(ids)]
        if some:
            what = (
                f"image {some[0]!r}" if len(some) == 1 else f"{len(some)} images ({some[0]!r}, …)"
            )
            out.append(
                f"{member.path}: says nothing of {what}; joined as if it found nothing there"
            )
    return out


def left_out(members: Sequence[Member], ids: Sequence[str]) -> str:
    """One line on the images that not all members predicted; empty if there are none."""
    every = dict.fromkeys(name for member in members for name in member.ids)
    missing = [name for name in every if name not in set(ids)]
    if not missing:
        return ""
    lacking = next(member for member in members if missing[0] not in member.ids)
    what = "image is" if len(missing) == 1 else "images are"
    return (
        f"{len(missing)} {what} left out, as not all members predicted them "
        f"({lacking.path} lacks {missing[0]!r})"
    )


def _models(member: Member) -> Sequence["Model"]:
    """Models that predict a member's images here, if they are of one family."""
    return getattr(member.predictor, "models", ())


def _same_dense(members: Sequence[Member]) -> bool:
    """Whether all members are models of one dense family, as many each, with the same classes."""
    from somaseg.models.base import Dense

    models = [model for member in members for model in _models(member)]
    counts = {len(_models(member)) for member in members}
    return (
        len(counts) == 1
        and counts != {0}
        and all(isinstance(model, Dense) for model in models)
        and len({(type(model), model.names) for model in models}) == 1
    )
