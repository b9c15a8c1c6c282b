"""Fusion of the masks of several members: what box fusion is for boxes, by mask IoU.

Suppression keeps the best of each cell's masks. Fusion makes the clusters of NMW
or WBF by the IoU of masks instead of boxes, and gives each the mean of its soft masks with the
weights of the box method, laid on the union of their boxes. The result is soft, scored and raw as
one member's predictions are, so it settles and tunes like them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from somaseg.decide.cluster import Floats, Pairs, decay, join_heads, join_mean_masks
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.masks.flat import Ints
from somaseg.masks.overlap import iou_pairs
from somaseg.masks.parallel import map_images
from somaseg.masks.paste import fuse as weighted_means
from somaseg.masks.resolve import nms_from_pairs

Method = Literal["nms", "soft-nms", "nmw", "wbf", "average"]
METHODS: tuple[Method, ...] = get_args(Method)
NO_SCORE = 1e-9
"""Counts for a score of 0 where scores weigh a mean: nothing beside others, all among its like."""


class Fusion(BaseModel):
    """How the instances of several members become one set.

    - ``nms``: of masks of one cell the one with the best score stays as it is.
    - ``soft-nms``: all stay, but masks that overlap a better one lose score.
    - ``nmw``: a mask joins the cluster whose best mask (head) it overlaps most; the mean has the
      weights score · IoU with the head, and the head's score.
    - ``wbf``: a mask joins the cluster whose mean mask so far it overlaps most; the mean has the
      scores as weights, and the score: mean score · min(masks, members) / Σ member weights.
    - ``average``: the clusters and scores of ``wbf``, every mask with the same weight.

    Scores count times the weight of their member, in all of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field("wbf", description="nms, soft-nms, nmw, wbf or average")
    iou: float = Field(0.55, ge=0, lt=1, description="masks of one cell overlap by more than this")
    within_class: bool = Field(
        False, description="only masks of one class meet; those of unknown class meet all"
    )
    absent: Literal["zero", "skip"] = Field(
        "zero",
        description="whether a member without a mask in a cluster pulls its mean towards 0",
    )
    linear: bool = Field(False, description="soft-NMS: linear decay above iou, else Gaussian")
    sigma: float = Field(0.5, gt=0, description="soft-NMS: width of the Gaussian decay")
    floor: float = Field(0.001, ge=0, description="soft-NMS: lower scores are dropped")


class _Pool(NamedTuple):
    """The instances of all members, one after the other."""

    instances: Instances  # soft
    member: Ints  # (n,) number of the member of each
    weights: Floats  # (m,) of the members
    scaled: Floats  # (n,) score · weight of the member / greatest weight
    order: Ints  # (n,) rows by falling scaled score


def fuse(
    members: Sequence[Instances],
    weights: Sequence[float] | None = None,
    fusion: Fusion | None = None,
) -> Instances:
    """Fuse what several members found in one image.

    Args:
        members: soft or hard instances of one size; a hard mask counts as probability 0 or 1. Their
            class names may differ in order and in number: they are joined by name.
        weights: of the members; equal by default.
        fusion: the method and its settings; WBF by default.

    Returns:
        Soft instances by falling score. The class of a fused one is that with most of the scores
        of its cluster, among equal ones that of its best instance.

    Raises:
        SomasegError: images of different sizes.
        ValueError: no member, or weights that are not one positive number for each.
    """
    fusion = fusion or Fusion()
    pool = _pooled(members, weights)
    if not len(pool.instances):
        return pool.instances
    if fusion.method in ("nms", "soft-nms"):
        return _suppressed(pool, fusion)
    if fusion.method == "nmw":
        clusters, closeness = join_heads(pool.order, _pairs(pool, fusion), fusion.iou)
        pulls = np.maximum(pool.scaled, NO_SCORE) * closeness
        scores = pool.scaled[_heads(pool.order, clusters)]
        return _merged(pool, fusion, clusters, pulls, scores)
    relative = (pool.weights / pool.weights.max())[pool.member]
    pulls = relative if fusion.method == "average" else np.maximum(pool.scaled, NO_SCORE)
    clusters = join_mean_masks(
        pool.order,
        pool.instances.flat,
        pool.instances.cut,
        pulls,
        pool.instances.classes.astype(np.int64) if fusion.within_class else np.full(len(pulls), -1),
        fusion.iou,
    )
    n = np.bincount(clusters).astype(np.float64)
    mean = np.bincount(clusters, pool.scaled * pool.weights.max()) / n
    scores = mean * np.minimum(n, len(pool.weights)) / pool.weights.sum()
    # Two masks of a member of great weight in one cluster count more than once.
    return _merged(pool, fusion, clusters, pulls, np.minimum(scores, 1))


def fuse_images(
    members: Sequence[Mapping[str, Instances]],
    weights: Sequence[float] | None = None,
    fusion: Fusion | None = None,
    workers: int | None = None,
) -> dict[str, Instances]:
    """Fuse what several members found in many images, in parallel over the images.

    Args:
        members: instances by image id; images that one of them lacks are left out.
        weights: of the members; equal by default.
        fusion: see :func:`fuse`.
        workers: threads; all cores by default.

    Raises:
        SomasegError: members whose images differ in size; the image is named.
        ValueError: as :func:`fuse`.
    """
    ids = common_images(members)

    def one(name: str) -> Instances:
        try:
            return fuse([member[name] for member in members], weights, fusion)
        except SomasegError as error:
            raise SomasegError(f"image {name!r}: {error}") from error

    fused = map_images(one, ids, workers)
    names = tuple(dict.fromkeys(name for one in fused for name in one.names))
    return {name: one.rename(names) for name, one in zip(ids, fused, strict=True)}


def common_images(members: Sequence[Mapping[str, Instances]]) -> list[str]:
    """Images that all members have, in the order of the first."""
    if not members:
        raise ValueError("no member to fuse")
    return [name for name in members[0] if all(name in other for other in members[1:])]


def _pooled(members: Sequence[Instances], weights: Sequence[float] | None) -> _Pool:
    if not members:
        raise ValueError("no member to fuse")
    of_members = checked_weights(weights, len(members))
    instances = Instances.concat([_softened(one) for one in members])
    member = np.repeat(np.arange(len(members)), [len(one) for one in members])
    scaled = instances.scores * (of_members / of_members.max())[member]
    return _Pool(instances, member, of_members, scaled, np.argsort(-scaled, kind="stable"))


def checked_weights(weights: Sequence[float] | None, members: int) -> Floats:
    """Weights float64 (m,) of the members; 1 each by default.

    Raises:
        ValueError: not one positive number for each.
    """
    if weights is None:
        return np.ones(members)
    array = np.asarray(weights, np.float64)
    if array.shape != (members,):
        raise ValueError(f"{array.size} weights for {members} members; give one for each")
    if not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"weights {', '.join(f'{w:g}' for w in array)}: give numbers above 0")
    return array


def _softened(instances: Instances) -> Instances:
    """The same instances with probabilities: 0 and 1 for hard ones."""
    if instances.soft:
        return instances
    return instances.replace(pixels=instances.pixels * np.uint8(255), soft=True)


def _pairs(pool: _Pool, fusion: Fusion) -> Pairs:
    """Pairs of masks that may be one cell."""
    i, j, iou = iou_pairs(pool.instances)
    if not fusion.within_class:
        return i, j, iou
    one, two = pool.instances.classes[i], pool.instances.classes[j]
    meet = (one == two) | (one < 0) | (two < 0)
    return i[meet], j[meet], iou[meet]


def _suppressed(pool: _Pool, fusion: Fusion) -> Instances:
    pairs, scores = _pairs(pool, fusion), pool.scaled
    if fusion.method == "nms":
        kept = nms_from_pairs(pool.order, *pairs, fusion.iou)
        rows = pool.order[kept[pool.order]]
    else:
        picked, scores = decay(scores, pairs, fusion.iou, fusion.sigma, fusion.floor, fusion.linear)
        rows = picked[np.argsort(-scores[picked], kind="stable")]
    return pool.instances[rows].with_scores(scores[rows])


def _merged(
    pool: _Pool, fusion: Fusion, clusters: Ints, pulls: Floats, scores: Floats
) -> Instances:
    """One instance a cluster: mean mask with the weights ``pulls``, voted class."""
    totals = np.bincount(clusters, pulls)
    if fusion.absent == "zero":
        # As if each absent member had a mask of zeros that pulls as the present ones do.
        there = np.zeros((len(totals), len(pool.weights)), bool)
        there[clusters, pool.member] = True
        present = there @ pool.weights
        totals = totals * pool.weights.sum() / present
    flat = weighted_means(*pool.instances.flat, clusters, pulls, totals)
    order = np.argsort(-scores, kind="stable")
    fused = Instances.from_flat(
        pool.instances.size,
        flat,
        scores,
        _voted(pool, clusters),
        pool.instances.names,
        soft=True,
    )
    return fused[order].tightened()[0]


def _heads(order: Ints, clusters: Ints) -> Ints:
    """Row int64 (g,) that each cluster was opened with."""
    return order[np.unique(clusters[order], return_index=True)[1]]


def _voted(pool: _Pool, clusters: Ints) -> npt.NDArray[np.int16]:
    """Class with most of the scores of each cluster, int16 (g,); unknown ones do not vote."""
    classes, names = pool.instances.classes.astype(np.int64), pool.instances.names
    best = classes[_heads(pool.order, clusters)]
    if not names:
        return best.astype(np.int16)
    voting = classes >= 0
    ballots = clusters[voting] * len(names) + classes[voting]
    votes = np.bincount(
        ballots,
        np.maximum(pool.scaled[voting], NO_SCORE),
        minlength=len(best) * len(names),
    ).reshape(-1, len(names))
    elected = np.where(votes.any(1), votes.argmax(1), -1)
    tied = (best >= 0) & (votes[np.arange(len(best)), best] == votes.max(1))
    return np.where(tied, best, elected).astype(np.int16)
