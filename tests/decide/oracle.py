"""Random members of an ensemble, and fusion the plain dense way: full masks, no shortcut."""

import numpy as np
from hypothesis import strategies as st

from somaseg.instances import Instances
from tests.masks.strategies import full

NAMES = ("a", "b", "c")


@st.composite
def members(draw, most=3, soft=True, size=None):
    """Soft instances of several members: the same few cells, each found more or less well."""
    height, width = size or (draw(st.integers(6, 20)), draw(st.integers(6, 20)))
    count, places = draw(st.integers(1, most)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:height, :width]
    cells = rng.uniform([0, 0, 1.5, 1.5], [height, width, 6, 6], (places, 4))
    found = []
    for _ in range(count):
        rows = rng.integers(0, places, rng.integers(0, 6))
        images = []
        for cy, cx, a, b in cells[rows] + rng.normal(
            0, draw(st.sampled_from([0.2, 0.8])), (len(rows), 4)
        ):
            away = ((y - cy) / max(a, 1)) ** 2 + ((x - cx) / max(b, 1)) ** 2
            probability = 255 / (1 + np.exp(np.minimum(4 * (away - 1), 50)))
            image = np.round(probability if soft else 255 * (away < 1)).astype(np.uint8)
            image[min(max(int(cy), 0), height - 1), min(max(int(cx), 0), width - 1)] = 255
            images.append(image)
        stack = np.array(images, np.uint8).reshape(-1, height, width)
        found.append(
            Instances.from_masks(
                stack if soft else stack > 0,
                scores=rng.uniform(0.05, 1, len(stack)),
                classes=rng.integers(-1, len(NAMES), len(stack)),
                names=NAMES,
                soft=soft,
            )
        )
    return found


def dense(instances):
    """Full soft masks, float64 (n, h, w), 0 … 255."""
    values = full(instances.flat, instances.size).astype(np.float64)
    return values if instances.soft else values * 255


def dense_iou(a, b):
    one, two = a >= 127.5, b >= 127.5
    union = (one | two).sum()
    return (one & two).sum() / union if union else 0.0


def dense_fuse(found, weights, fusion):
    """(mask float64 (h, w), score, class) of each fused instance, by falling score."""
    weights = np.ones(len(found)) if weights is None else np.asarray(weights, float)
    rows = [
        (score * w / weights.max(), m, mask, int(label))
        for m, (member, w) in enumerate(zip(found, weights, strict=True))
        for score, mask, label in zip(member.scores, dense(member), member.classes, strict=True)
    ]
    rows.sort(key=lambda row: -row[0])

    def meets(one, two):
        return not fusion.within_class or one == two or -1 in (one, two)

    if fusion.method == "nms":
        kept = []
        for row in rows:
            if all(dense_iou(row[2], k[2]) <= fusion.iou or not meets(row[3], k[3]) for k in kept):
                kept.append(row)
        return [(mask, score, label) for score, _, mask, label in kept]
    if fusion.method == "soft-nms":
        kept, left = [], [list(row) for row in rows]
        while left:
            best = max(left, key=lambda row: row[0])
            left.remove(best)
            if best[0] > fusion.floor:
                kept.append((best[2], best[0], best[3]))
            for row in left:
                v = dense_iou(row[2], best[2]) if meets(row[3], best[3]) else 0.0
                if fusion.linear:
                    row[0] *= 1 - v if v > fusion.iou else 1
                else:
                    row[0] *= np.exp(-(v**2) / fusion.sigma)
        return sorted(kept, key=lambda row: -row[1])

    clusters = []
    for row in rows:
        candidates = []
        for cluster in clusters:
            if fusion.method == "nmw":
                against = cluster[0][0][2]
            else:
                pulls = np.array([pull for _, pull in cluster])
                masks = np.array([member[2] for member, _ in cluster])
                against = np.tensordot(pulls / pulls.sum(), masks, 1)
            met = meets(row[3], cluster[0][0][3])
            candidates.append(dense_iou(row[2], against) if met else 0.0)
        best = int(np.argmax(candidates)) if candidates else -1
        joins = best >= 0 and candidates[best] > fusion.iou
        pull = row[0] if fusion.method != "average" else weights[row[1]] / weights.max()
        if fusion.method == "nmw" and joins:
            pull *= candidates[best]
        clusters[best].append((row, pull)) if joins else clusters.append([(row, pull)])
    fused = []
    for cluster in clusters:
        pulls = np.array([pull for _, pull in cluster])
        mask = np.tensordot(pulls / pulls.sum(), np.array([row[2] for row, _ in cluster]), 1)
        if fusion.absent == "zero":
            mask *= weights[list({row[1] for row, _ in cluster})].sum() / weights.sum()
        if fusion.method == "nmw":
            score = cluster[0][0][0]
        else:
            mean = np.mean([row[0] for row, _ in cluster]) * weights.max()
            score = min(mean * min(len(cluster), len(weights)) / weights.sum(), 1)
        votes = {}
        for row, _ in cluster:
            if row[3] >= 0:
                votes[row[3]] = votes.get(row[3], 0) + row[0]
        fused.append((mask, score, max(votes, key=votes.get) if votes else -1))
    return sorted(fused, key=lambda row: -row[1])
