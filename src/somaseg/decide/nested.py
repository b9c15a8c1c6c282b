"""Choose how the members of an experiment are joined and settled, and say honestly what it scores.

Everything that is chosen (the way of joining, the members and their weights, the settings by class)
is chosen by out-of-fold scores. So the estimate is nested: for each fold everything is chosen again
on the images of the other folds, and the fold's own images are scored with that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from somaseg.data.types import Dataset
from somaseg.decide.fuse import Fusion, fuse_images
from somaseg.decide.selection import select
from somaseg.decide.settings import Settle
from somaseg.decide.tune import Tuned, tune
from somaseg.instances import Instances
from somaseg.runs.tuning import has_one_class, settle_all
from somaseg.scoring import CompetitionScore, compare, competition_score

Predictions = Mapping[str, Instances]


@dataclass(frozen=True)
class Choice:
    """A way from the members' raw predictions to final ones.

    Attributes:
        method: of joining; none for a single member as it is.
        counts: weight of each member by name; a member that is not named plays no part.
        settings: by class name, tuned on what the choice was made on.
        score: of that, on the same images: optimistic.
    """

    method: str | None
    counts: dict[str, int]
    settings: Settle
    score: float

    def join(self, members: Mapping[str, Predictions]) -> dict[str, Instances]:
        """Raw predictions of the chosen members, joined."""
        return join(members, self.counts, self.method)


@dataclass(frozen=True)
class Chosen:
    """The choice on all images, and what it is worth.

    Attributes:
        choice: on all images: for new ones.
        by_fold: the choice made without each fold.
        found: final predictions of every image under the choice made without its fold.
        nested: score of those.
        optimistic: score of the choice on the images that it was made on.
        considered: (what, optimistic score) of all that was compared on all images.
    """

    choice: Choice
    by_fold: dict[int, Choice]
    found: dict[str, Instances]
    nested: CompetitionScore
    optimistic: CompetitionScore
    considered: tuple[tuple[str, float], ...]


def join(
    members: Mapping[str, Predictions], counts: Mapping[str, int], method: str | None
) -> dict[str, Instances]:
    """Join members by a method of :class:`somaseg.decide.Fusion`; a single one stays as it is."""
    chosen = [name for name, count in counts.items() if count]
    if method is None or len(chosen) == 1:
        return dict(members[chosen[0]])
    fusion = Fusion.model_validate({"method": method})
    return fuse_images(
        [members[name] for name in chosen], [float(counts[name]) for name in chosen], fusion
    )


def choose(
    members: Mapping[str, Predictions],
    dataset: Dataset,
    folds: Mapping[str, int],
    methods: Sequence[str],
    weights: Mapping[str, float] | None = None,
) -> Chosen:
    """Compare every single member and every method; the best out of fold is taken.

    Args:
        members: raw out-of-fold predictions of all images, by image id, by name.
        dataset: the annotated images.
        folds: fold of each image.
        methods: of :class:`somaseg.decide.Fusion`, in the order of preference among equals.
        weights: weight of each class in the score that decides.
    """
    one_class = has_one_class(dataset)
    candidates = _candidates(members, dataset, folds, methods, weights, one_class)
    done: dict[tuple[str | None, tuple[tuple[str, int], ...]], tuple[Predictions, Tuned]] = {}

    def joined(way: str | None, counts: Mapping[str, int]) -> tuple[Predictions, Tuned]:
        """Join and tune once: what is tuned without each fold is found on the way."""
        key = (way, tuple(counts.items()))
        if key not in done:
            raw = join(members, counts, way)
            done[key] = raw, tune(raw, dataset, folds, one_class)
        return done[key]

    def consider(fold: int | None) -> list[Choice]:
        """Tune and score what may be chosen without a fold (none: on all images)."""
        seen = [name for name in dataset.ids if folds[name] != fold]
        truth = dataset.subset(seen)
        out = []
        for way, counts in candidates[fold]:
            found, tuned = joined(way, counts)
            settings = tuned.settings if fold is None else tuned.nested[fold]
            raw = {name: found[name] for name in seen}
            final = settle_all(raw, dict.fromkeys(raw, settings), one_class)
            score = competition_score(compare(truth, final), weights=weights)
            value = score.map if score.weighted is None else score.weighted
            out.append(Choice(way, counts, settings, value))
        return out

    considered = consider(None)
    choice = max(considered, key=lambda one: one.score)
    by_fold: dict[int, Choice] = {}
    settled: dict[str, Instances] = {}
    for fold in sorted(set(folds.values())):
        best = max(consider(fold), key=lambda one: one.score)
        by_fold[fold] = best
        raw, _ = joined(best.method, best.counts)
        held = {name: raw[name] for name in dataset.ids if folds[name] == fold}
        settled |= settle_all(held, dict.fromkeys(held, best.settings), one_class)
    raw, _ = joined(choice.method, choice.counts)
    final = settle_all(raw, dict.fromkeys(raw, choice.settings), one_class)
    return Chosen(
        choice,
        by_fold,
        settled,
        competition_score(compare(dataset, settled), weights=weights),
        competition_score(compare(dataset, final), weights=weights),
        tuple((describe(one), one.score) for one in considered),
    )


def describe(choice: Choice) -> str:
    """Name a choice in a few words: ``nmw of 2 flow + unet``."""
    members = " + ".join(f"{n} {k}" if n > 1 else k for k, n in choice.counts.items() if n)
    return members if choice.method is None else f"{choice.method} of {members}"


def _candidates(
    members: Mapping[str, Predictions],
    dataset: Dataset,
    folds: Mapping[str, int],
    methods: Sequence[str],
    weights: Mapping[str, float] | None,
    one_class: bool,
) -> dict[int | None, list[tuple[str | None, dict[str, int]]]]:
    """What may be chosen without each fold, and (none) on all images: way and weights of members.

    Every single member, and for each method the members that are selected by the images seen.
    """
    alone: list[tuple[str | None, dict[str, int]]] = [(None, {name: 1}) for name in members]
    every: list[int | None] = [None, *sorted(set(folds.values()))]
    out = {fold: list(alone) for fold in every}
    for method in methods if len(members) > 1 else ():
        selection = select(
            members,
            dataset,
            folds,
            Fusion.model_validate({"method": method}),
            one_class=one_class,
            class_weights=weights,
        )
        for fold in every:
            chosen = selection.counts if fold is None else selection.nested[fold]
            counts = {name: count for name, count in chosen.items() if count}
            if len(counts) > 1:
                out[fold].append((method, counts))
    return out
