"""Decide how members are joined and settled, and say honestly what it scores.

Everything that is chosen (the way of joining, the members and their weights, the settings by class)
is chosen by out-of-fold scores. So the estimate is nested: for each fold everything is chosen again
on the images of the other folds, and the fold's own images are scored with that. Every honest score
of somaseg is computed here: of one member whose settings are tuned, of several ways of joining that
are compared, of members that are selected. Nothing is written.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from somaseg.data.types import Dataset
from somaseg.decide.apply import has_one_class, settle_all
from somaseg.decide.fuse import Fusion, Method, common_images, fuse_images
from somaseg.decide.grid import SEARCHED
from somaseg.decide.rescore import OutOfFold, Rescorer, rescore_out_of_fold
from somaseg.decide.selection import Selector
from somaseg.decide.settings import Settle, default_settings
from somaseg.decide.tune import Tuned, deal, tune
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.scoring import CompetitionScore, compare, competition_score

Predictions = Mapping[str, Instances]
"""Instances by image id."""


@dataclass(frozen=True)
class Way:
    """A way from the members' raw predictions to joined ones.

    Attributes:
        fusion: of the members; none for a single one as it is.
        member_weights: weight of each member by name; those that play no part are not named.
    """

    fusion: Fusion | None
    member_weights: dict[str, int]

    @property
    def method(self) -> Method | None:
        """Of joining; none for a single member as it is."""
        return None if self.fusion is None else self.fusion.method

    @property
    def key(self) -> str:
        """Tells ways apart."""
        return f"{self.fusion!r} {self.member_weights}"

    @property
    def label(self) -> str:
        """A few words: ``nmw of 2 flow + unet``."""
        each = self.member_weights.items()
        members = " + ".join(f"{n} {name}" if n > 1 else name for name, n in each)
        return members if self.fusion is None else f"{self.method} of {members}"

    def join(self, members: Mapping[str, Predictions]) -> dict[str, Instances]:
        """Raw predictions of the members, joined."""
        names = list(self.member_weights)
        if self.fusion is None:
            return dict(members[names[0]])
        weights = [float(weight) for weight in self.member_weights.values()]
        return fuse_images([members[name] for name in names], weights, self.fusion)


@dataclass(frozen=True)
class Choice(Way):
    """A way from the members' raw predictions to final ones.

    Attributes:
        settings: by class name, tuned on what the choice was made on.
        score: of that, on the same images: optimistic.
    """

    settings: Settle
    score: float


@dataclass(frozen=True)
class Rescored:
    """The same decision with learned scores in place of the members'; see ``rescore``.

    Attributes:
        rescorer: learned on all images, for new ones, with the settings for its scores.
        tuned: the settings tuned for these scores.
        found, nested, optimistic: as in :class:`Decision`.
    """

    rescorer: Rescorer
    tuned: Tuned
    found: dict[str, Instances]
    nested: CompetitionScore
    optimistic: CompetitionScore


@dataclass(frozen=True)
class Decision:
    """What was decided on all images, and what it is worth.

    Attributes:
        choice: on all images: for new ones.
        by_fold: the choice made without each fold.
        raw: joined predictions of every image under ``choice``.
        found: final predictions of every image under the choice made without its fold.
        untuned: score of ``choice`` with default settings.
        nested: score of ``found``: what to expect of new images.
        optimistic: score of ``choice`` on the very images that it was made on.
        tuned: what tuning found for the choice's way of joining.
        considered: (what, optimistic score) of all that was compared on all images.
        rescored: the same with learned scores, if asked for.
    """

    choice: Choice
    by_fold: dict[int, Choice]
    raw: dict[str, Instances]
    found: dict[str, Instances]
    untuned: CompetitionScore
    nested: CompetitionScore
    optimistic: CompetitionScore
    tuned: Tuned
    considered: tuple[tuple[str, float], ...]
    rescored: Rescored | None = None

    @property
    def rescoring_helps(self) -> bool:
        """Whether learned scores are better in the nested estimate, weighted if there are weights.

        That alone is no proof on a few images; but worse it is not taken.
        """
        return self.rescored is not None and headline(self.rescored.nested) > headline(self.nested)


def headline(score: CompetitionScore) -> float:
    """The score that decides: weighted by class if there are weights."""
    return score.map if score.weighted is None else score.weighted


def decide(
    members: Mapping[str, Predictions],
    truth: Dataset,
    folds: Mapping[str, int],
    *,
    methods: Sequence[str | Fusion] = (),
    alone: bool = True,
    class_weights: Mapping[str, float] | None = None,
    search: Collection[str] = SEARCHED,
    rescore: bool = False,
) -> Decision:
    """Choose a way of joining and settings by class; score them nested.

    Args:
        members: raw out-of-fold predictions by image id, by name of the member.
        truth: annotated images; those that a member lacks are left out.
        folds: fold of each image. If all are of one, they are dealt into three.
        methods: of joining, in the order of preference among equals. The members that each joins,
            and their weights, are selected (:mod:`somaseg.decide.selection`).
        alone: whether every single member as it is may be chosen, too.
        class_weights: weight of each class, by name, in the score that decides.
        search: the settings that are tuned, some of :data:`somaseg.decide.grid.SEARCHED`.
        rescore: also learn scores for what was chosen, and tune for them.

    Raises:
        SomasegError: no member, or no image that all of them have; no such setting; class weights
            that do not fit the classes; XGBoost is not installed, or there are too few images to
            learn from.
    """
    if not members:
        raise SomasegError("no member to choose from")
    shared = set(common_images(list(members.values())))
    ids = [name for name in truth.ids if name in shared]
    if not ids:
        raise SomasegError(f"the members share no image of {truth.source}")
    truth = truth.subset(ids)
    members = {key: {name: raw[name] for name in ids} for key, raw in members.items()}
    folds, dealt = deal(ids, truth, folds)
    fusions = [Fusion.model_validate({"method": m}) if isinstance(m, str) else m for m in methods]
    bench = _Bench(members, truth, folds, dealt, class_weights, search)
    ways = bench.ways(fusions, alone)
    considered = [bench.choice(way, None) for way in ways[None]]
    choice = max(considered, key=lambda one: one.score)
    by_fold = {
        fold: max((bench.choice(way, fold) for way in some), key=lambda one: one.score)
        for fold, some in ways.items()
        if fold is not None
    }
    raw, tuned = bench.joined(choice)
    found = bench.found(by_fold)
    return Decision(
        choice,
        by_fold,
        raw,
        found,
        untuned=bench.score(bench.settled(raw, default_settings(truth.names))),
        nested=bench.score(found),
        optimistic=bench.score(bench.settled(raw, choice.settings)),
        tuned=tuned,
        considered=tuple((one.label, one.score) for one in considered),
        rescored=bench.rescored(choice, by_fold) if rescore else None,
    )


class _Bench:
    """Joins, tunes and scores; each way of joining once.

    Args:
        members: raw predictions of the images of ``truth``.
        truth: annotated images.
        folds: fold of each of them.
        dealt: whether the images, all of one fold, were dealt into these.
        class_weights, search: as of :func:`decide`.
    """

    def __init__(
        self,
        members: Mapping[str, Predictions],
        truth: Dataset,
        folds: Mapping[str, int],
        dealt: bool,
        class_weights: Mapping[str, float] | None,
        search: Collection[str],
    ) -> None:
        self.members, self.truth, self.folds, self.dealt = members, truth, folds, dealt
        self.class_weights, self.search = class_weights, search
        self.one_class = has_one_class(truth)
        self._joined: dict[str, tuple[dict[str, Instances], Tuned]] = {}

    def seen(self, fold: int | None) -> list[str]:
        """The images that a choice without a fold may look at; all, if none is left."""
        others = [name for name in self.truth.ids if self.folds[name] != fold]
        return others or self.truth.ids

    def ways(self, fusions: Sequence[Fusion], alone: bool) -> dict[int | None, list[Way]]:
        """What may be chosen without each fold, and (none) on all images."""
        every: list[int | None] = [None, *sorted(set(self.folds.values()))]
        singles = [Way(None, {name: 1}) for name in self.members] if alone else []
        out = {fold: list(singles) for fold in every}
        for fusion in fusions if len(self.members) > 1 or not alone else ():
            selector = Selector(
                self.members,
                self.truth,
                fusion,
                one_class=self.one_class,
                class_weights=self.class_weights,
            )
            for fold, ways in out.items():
                weights = selector.choose(self.seen(fold)).member_weights
                if len(weights) > 1 or not alone:
                    ways.append(Way(fusion, weights))
        return out

    def joined(self, way: Way) -> tuple[dict[str, Instances], Tuned]:
        """Join and tune: what is tuned without each fold is found on the way."""
        if way.key not in self._joined:
            raw = way.join(self.members)
            self._joined[way.key] = raw, self.tuned(raw)
        return self._joined[way.key]

    def tuned(self, raw: Predictions, without: Mapping[int, Predictions] | None = None) -> Tuned:
        """Tune raw predictions; see :func:`somaseg.decide.tune.tune`."""
        found = tune(
            raw, self.truth, self.folds, self.one_class, search=self.search, without=without
        )
        return replace(found, dealt=self.dealt)

    def choice(self, way: Way, fold: int | None) -> Choice:
        """Tune and score a way without a fold (none: on all images)."""
        raw, tuned = self.joined(way)
        settings = tuned.settings if fold is None else tuned.nested[fold]
        final = self.settled({name: raw[name] for name in self.seen(fold)}, settings)
        return Choice(way.fusion, way.member_weights, settings, headline(self.score(final)))

    def settled(self, raw: Predictions, settings: Settle) -> dict[str, Instances]:
        """Final predictions of some images, all by the same settings."""
        return settle_all(raw, dict.fromkeys(raw, settings), self.one_class)

    def held(self, raw: Predictions, fold: int) -> dict[str, Instances]:
        """Those of a fold's own images."""
        return {name: raw[name] for name in self.truth.ids if self.folds[name] == fold}

    def found(self, by_fold: Mapping[int, Choice]) -> dict[str, Instances]:
        """Final predictions of every image under the choice made without its fold."""
        out: dict[str, Instances] = {}
        for fold, choice in by_fold.items():
            out |= self.settled(self.held(self.joined(choice)[0], fold), choice.settings)
        return {name: out[name] for name in self.truth.ids}

    def score(self, final: Predictions) -> CompetitionScore:
        """The competition's score of final predictions."""
        return competition_score(
            compare(self.truth.subset(final), final), weights=self.class_weights
        )

    def rescored(self, choice: Choice, by_fold: Mapping[int, Choice]) -> Rescored:
        """Learn scores for what was chosen, on all images and without each fold."""
        learned: dict[str, tuple[OutOfFold, Tuned]] = {}
        for one in (choice, *by_fold.values()):
            if one.key not in learned:
                of = rescore_out_of_fold(
                    self.joined(one)[0], self.truth, self.folds, self.one_class
                )
                learned[one.key] = of, self.tuned(of.raw, of.without)
        out: dict[str, Instances] = {}
        for fold, one in by_fold.items():
            of, tuned = learned[one.key]
            out |= self.settled(self.held(of.raw, fold), tuned.nested[fold])
        found = {name: out[name] for name in self.truth.ids}
        of, tuned = learned[choice.key]
        return Rescored(
            replace(of.rescorer, settings=tuned.settings),
            tuned,
            found,
            nested=self.score(found),
            optimistic=self.score(self.settled(of.raw, tuned.settings)),
        )
