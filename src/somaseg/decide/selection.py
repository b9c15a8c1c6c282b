"""Choose the members of an ensemble by their out-of-fold score (Caruana et al. 2004).

Forward, greedily and with replacement: in each round the member that helps most joins, and may have
joined before; how often it did is its weight. So a bad member is left out and a good one counts
more, with no weights to search. The choice itself can overfit: an honest score is that of choices
made without the fold that is scored (:mod:`somaseg.decide.nested`).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from somaseg.data.types import Dataset
from somaseg.decide.apply import settle, vote
from somaseg.decide.cluster import Floats
from somaseg.decide.fuse import Fusion, fuse
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
    """Which members were chosen.

    Attributes:
        member_weights: how often each member was chosen; those that never were are not named.
        path: member that joined in each round, and the score with it.
        score: of the choice on the images that it was made on: optimistic.
    """

    member_weights: dict[str, int]
    path: tuple[tuple[str, float], ...]
    score: float


class Selector:
    """Chooses members by the competition's metric, on any of the images; scores each image once.

    Args:
        members: raw out-of-fold predictions by image id, by name of the member.
        truth: annotated images that all members have.
        fusion: how they are fused; WBF by default.
        settings: what fused instances are settled with, by class name; the defaults otherwise.
        cuts: smallest scores that each ensemble is tried with, the best one taken for each class,
            in place of that of ``settings``; none keeps the one of ``settings``.
        one_class: whether the cells of an image are of one class.
        class_weights: weight of each class of images, by name, in the score; without, all images
            count alike.
        rounds: members that join, at most; ended earlier by three in a row that do not help.
        workers: threads over the images; all cores by default.

    Raises:
        SomasegError: no member, or an image that one of them lacks.
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Instances]],
        truth: Dataset,
        fusion: Fusion | None = None,
        *,
        settings: Settle | None = None,
        cuts: Sequence[float] | None = CUTS,
        one_class: bool = False,
        class_weights: Mapping[str, float] | None = None,
        rounds: int = 8,
        workers: int | None = None,
    ) -> None:
        if not members:
            raise SomasegError("no member to choose from")
        for key, raw in members.items():
            if lacking := [name for name in truth.ids if name not in raw]:
                raise SomasegError(f"{key}: lacks image {lacking[0]!r} of {truth.source}")
        self._names, self._members = list(members), list(members.values())
        self._truth, self._fusion = truth, fusion or Fusion()
        self._settings, self._cuts = settings or default_settings(truth.names), cuts
        self._one_class, self._class_weights = one_class, dict(class_weights or {})
        self._rounds, self._workers = rounds, workers
        self._tables: dict[Counts, tuple[Floats, npt.NDArray[np.int64]]] = {}

    @property
    def tried(self) -> int:
        """Number of ensembles that were scored so far."""
        return len(self._tables)

    def choose(self, ids: Collection[str]) -> Selection:
        """Choose greedily, with replacement, by the score of some of the images."""
        wanted = set(ids)
        seen = np.array([name in wanted for name in self._truth.ids])
        counts = (0,) * len(self._members)
        best, best_score, path = counts, -1.0, []
        for _ in range(self._rounds):
            further = [
                tuple(n + (k == joined) for k, n in enumerate(counts))
                for joined in range(len(counts))
            ]
            scores = [self._mean(self._scores(one, seen), seen) for one in further]
            joined = int(np.argmax(scores))
            counts = further[joined]
            path.append((self._names[joined], scores[joined]))
            if scores[joined] > best_score:
                best, best_score = counts, scores[joined]
            if sum(counts) - sum(best) >= PATIENCE:
                break
        weights = {name: n for name, n in zip(self._names, best, strict=True) if n}
        return Selection(weights, tuple(path), best_score)

    def _scores(self, counts: Counts, seen: npt.NDArray[np.bool_]) -> Floats:
        """Score of each image, float64 (images,), with the cuts that are best on those seen."""
        table, voted = self._table(counts)
        scores = np.empty(len(table))
        for label in np.unique(voted):
            mine = voted == label
            # A class that no image seen is voted to be takes what is best for all.
            judges = mine & seen if (mine & seen).any() else seen
            scores[mine] = table[mine, int(table[judges].mean(0).argmax())]
        return scores

    def _mean(self, scores: Floats, seen: npt.NDArray[np.bool_]) -> float:
        """Mean of the images seen, or of their classes by weight."""
        if not self._class_weights:
            return float(scores[seen].mean())
        classes = np.array([sample.image_class or "" for sample in self._truth])
        total, weights = 0.0, 0.0
        for name, weight in self._class_weights.items():
            mine = seen & (classes == name)
            if mine.any():
                total += weight * float(scores[mine].mean())
                weights += weight
        return total / weights if weights else float(scores[seen].mean())

    def _table(self, counts: Counts) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Score of each image with each cut (images, cuts), and its voted class (images,)."""
        # Weights count in proportion: twice each is the same ensemble.
        key = tuple(n // math.gcd(*counts) for n in counts)
        if key not in self._tables:
            rows = map_images(partial(self._row, key), self._truth.ids, self._workers)
            scores, voted = zip(*rows, strict=True)
            self._tables[key] = np.array(scores), np.array(voted)
        return self._tables[key]

    def _row(self, counts: Counts, name: str) -> tuple[list[float], int]:
        joining = [m for m, n in zip(self._members, counts, strict=True) if n]
        fused = fuse([m[name] for m in joining], [n for n in counts if n], self._fusion)
        sample = self._truth[name]
        scores = []
        for cut in self._cuts if self._cuts is not None else (None,):
            settings = self._settings
            if cut is not None:
                settings = {k: s.model_copy(update={"score": cut}) for k, s in settings.items()}
            final = settle(fused, settings, one_class=self._one_class)
            scores.append(score_image(Overlaps.between(sample.annotated(), final)).score)
        return scores, vote(fused) if self._one_class else -1
