"""Choose the members of an ensemble by their out-of-fold score (Caruana et al. 2004).

Forward, greedily and with replacement: in each round the member that helps most joins, and may have
joined before; how often it did is its weight. So a bad member is left out and a good one counts
more, with no weights to search. The choice itself can overfit: beside its score stands that of
choices made without the fold that is scored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from somaseg.data.types import Dataset
from somaseg.decide.apply import settle, vote
from somaseg.decide.cluster import Floats
from somaseg.decide.fuse import Fusion, common_images, fuse
from somaseg.decide.settings import Settle, default_settings
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.parallel import map_images
from somaseg.scoring import Overlaps
from somaseg.scoring.competition import score_image

CUTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Smallest scores that are tried for each ensemble: fusing moves all scores."""
PATIENCE = 3

Counts = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """Which members were chosen, and what it is worth.

    Attributes:
        counts: how often each member was chosen over all images; its weight, 0 leaves it out.
        nested: the same for each fold, chosen on the images of the other folds.
        path: member that joined in each round, and the score with it.
        optimistic: score of ``counts`` on the images that it was chosen by.
        honest: score of ``nested``, each fold's images with the choice made without them; none
            with a single fold, or if it was not asked for.
        tried: number of ensembles that were scored.
    """

    counts: dict[str, int]
    nested: dict[int, dict[str, int]]
    path: tuple[tuple[str, float], ...]
    optimistic: float
    honest: float | None
    tried: int


def select(
    members: Mapping[str, Mapping[str, Instances]],
    truth: Dataset,
    folds: Mapping[str, int],
    fusion: Fusion | None = None,
    *,
    settings: Settle | None = None,
    cuts: Sequence[float] | None = CUTS,
    one_class: bool = False,
    class_weights: Mapping[str, float] | None = None,
    rounds: int = 8,
    nested: bool = True,
    workers: int | None = None,
) -> Selection:
    """Choose members greedily, with replacement, by the competition's metric.

    Args:
        members: raw out-of-fold predictions by image id, by name of the member.
        truth: annotated images; those that a member lacks are left out.
        folds: fold of each image.
        fusion: how they are fused; WBF by default.
        settings: what fused instances are settled with, by class name; the defaults otherwise.
        cuts: smallest scores that each ensemble is tried with, the best one taken for each class,
            in place of that of ``settings``; none keeps the one of ``settings``.
        one_class: whether the cells of an image are of one class.
        class_weights: weight of each class of images, by name, in the score; without, all images
            count alike.
        rounds: members that join, at most; ended earlier by three in a row that do not help.
        nested: also choose without each fold, for an honest score; takes as long again for each.
        workers: threads over the images; all cores by default.

    Raises:
        SomasegError: no member, no image that all of them have, or an image without annotation.
    """
    names = list(members)
    if not names:
        raise SomasegError("no member to choose from")
    ids = [name for name in common_images(list(members.values())) if name in truth]
    if not ids:
        raise SomasegError(f"the members share no image of {truth.source}")
    bench = _Bench(
        [{name: member[name] for name in ids} for member in members.values()],
        truth.subset(ids),
        fusion or Fusion(),
        settings or default_settings(truth.names),
        cuts,
        one_class,
        dict(class_weights or {}),
        workers,
    )
    everywhere = np.ones(len(ids), bool)
    chosen, path = _greedy(bench, everywhere, rounds)
    fold_of = np.array([folds[name] for name in ids])
    by_fold: dict[int, Counts] = {}
    scores = np.zeros(len(ids))
    for fold in np.unique(fold_of).tolist() if nested and len(np.unique(fold_of)) > 1 else []:
        others = fold_of != fold
        by_fold[fold], _ = _greedy(bench, others, rounds)
        scores[~others] = bench.scores(by_fold[fold], others)[~others]
    return Selection(
        dict(zip(names, chosen, strict=True)),
        {fold: dict(zip(names, counts, strict=True)) for fold, counts in by_fold.items()},
        tuple((names[k], score) for k, score in path),
        bench.mean(bench.scores(chosen, everywhere), everywhere),
        bench.mean(scores, everywhere) if by_fold else None,
        len(bench.tables),
    )


def _greedy(
    bench: "_Bench", seen: npt.NDArray[np.bool_], rounds: int
) -> tuple[Counts, list[tuple[int, float]]]:
    """Choose on the images ``seen``: how often each member joined, and the path of all rounds."""
    counts = (0,) * len(bench.members)
    best, best_score, path = counts, -1.0, []
    for _ in range(rounds):
        further = [
            tuple(n + (k == joined) for k, n in enumerate(counts)) for joined in range(len(counts))
        ]
        scores = [bench.mean(bench.scores(one, seen), seen) for one in further]
        joined = int(np.argmax(scores))
        counts = further[joined]
        path.append((joined, scores[joined]))
        if scores[joined] > best_score:
            best, best_score = counts, scores[joined]
        if sum(counts) - sum(best) >= PATIENCE:
            break
    return best, path


@dataclass
class _Bench:
    """Scores ensembles image by image, each once."""

    members: Sequence[Mapping[str, Instances]]
    truth: Dataset
    fusion: Fusion
    settings: Settle
    cuts: Sequence[float] | None
    one_class: bool
    class_weights: dict[str, float]
    workers: int | None
    tables: dict[Counts, tuple[Floats, npt.NDArray[np.int64]]] = field(default_factory=dict)

    def scores(self, counts: Counts, seen: npt.NDArray[np.bool_]) -> Floats:
        """Score of each image, float64 (images,), with the cuts that are best on those seen."""
        table, voted = self._table(counts)
        scores = np.empty(len(table))
        for label in np.unique(voted):
            mine = voted == label
            # A class that no image seen is voted to be takes what is best for all.
            judges = mine & seen if (mine & seen).any() else seen
            scores[mine] = table[mine, int(table[judges].mean(0).argmax())]
        return scores

    def mean(self, scores: Floats, seen: npt.NDArray[np.bool_]) -> float:
        """Mean of the images seen, or of their classes by weight."""
        if not self.class_weights:
            return float(scores[seen].mean())
        classes = np.array([sample.image_class or "" for sample in self.truth])
        total, weights = 0.0, 0.0
        for name, weight in self.class_weights.items():
            mine = seen & (classes == name)
            if mine.any():
                total += weight * float(scores[mine].mean())
                weights += weight
        return total / weights if weights else float(scores[seen].mean())

    def _table(self, counts: Counts) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Score of each image with each cut (images, cuts), and its voted class (images,)."""
        # Weights count in proportion: twice each is the same ensemble.
        key = tuple(n // math.gcd(*counts) for n in counts)
        if key not in self.tables:
            rows = map_images(partial(self._row, key), self.truth.ids, self.workers)
            scores, voted = zip(*rows, strict=True)
            self.tables[key] = np.array(scores), np.array(voted)
        return self.tables[key]

    def _row(self, counts: Counts, name: str) -> tuple[list[float], int]:
        joining = [m for m, n in zip(self.members, counts, strict=True) if n]
        fused = fuse([m[name] for m in joining], [n for n in counts if n], self.fusion)
        sample = self.truth[name]
        scores = []
        for cut in self.cuts if self.cuts is not None else (None,):
            settings = self.settings
            if cut is not None:
                settings = {k: s.model_copy(update={"score": cut}) for k, s in settings.items()}
            final = settle(fused, settings, one_class=self.one_class)
            scores.append(score_image(Overlaps.between(sample.annotated(), final)).score)
        return scores, vote(fused) if self.one_class else -1
