"""Which instances of several members are one cell: greedy clusters, and suppression by decay.

All go through the instances from the best to the worst. Those that compare an instance with other
instances work on sparse pairs, so they serve boxes and masks alike; those that compare it with a
mean that moves keep the means themselves.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from somaseg.masks.flat import Flat, Ints, solid

Floats = npt.NDArray[np.float64]
Pairs = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], Floats]
"""Rows i and j of each pair that overlaps, each pair once, and its IoU."""

GROWTH = 2  # of the store of running means when it is full
HALF = 127.5  # means from here on round to a pixel that is inside of a soft mask


@njit(cache=True, nogil=True)
def _neighbours(n, i, j, iou):  # type: ignore[no-untyped-def]
    """Partners of each row and the IoU with them: those of row r at starts[r] … starts[r + 1]."""
    starts = np.zeros(n + 1, np.int64)
    for k in range(i.size):
        starts[i[k] + 1] += 1
        starts[j[k] + 1] += 1
    for r in range(n):
        starts[r + 1] += starts[r]
    place = starts[:n].copy()
    partners = np.empty(2 * i.size, np.int64)
    values = np.empty(2 * i.size, np.float64)
    for k in range(i.size):
        a, b = i[k], j[k]
        partners[place[a]], values[place[a]] = b, iou[k]
        partners[place[b]], values[place[b]] = a, iou[k]
        place[a] += 1
        place[b] += 1
    return starts, partners, values


@njit(cache=True, nogil=True)
def _decay(scores, i, j, iou, threshold, sigma, floor):  # type: ignore[no-untyped-def]
    n = scores.size
    starts, partners, values = _neighbours(n, i, j, iou)
    left = np.arange(n)  # rows not picked yet, in no order
    there = np.ones(n, np.bool_)
    picked = np.empty(n, np.int64)
    count = 0
    while count < n:
        best = 0
        for k in range(1, n - count):
            s, top = scores[left[k]], scores[left[best]]
            if s > top or (s == top and left[k] < left[best]):
                best = k
        row = left[best]
        if scores[row] <= floor:
            break  # as are all that are left
        left[best] = left[n - count - 1]
        there[row] = False
        picked[count] = row
        count += 1
        for p in range(starts[row], starts[row + 1]):
            other = partners[p]
            if there[other]:
                if sigma > 0:
                    scores[other] *= np.exp(-values[p] * values[p] / sigma)
                elif values[p] > threshold:
                    scores[other] *= 1 - values[p]
    return picked[:count]


@njit(cache=True, nogil=True)
def _join_heads(order, i, j, iou, threshold):  # type: ignore[no-untyped-def]
    n = order.size
    starts, partners, values = _neighbours(n, i, j, iou)
    clusters = np.full(n, -1, np.int64)
    closeness = np.ones(n, np.float64)
    headed = np.full(n, -1, np.int64)  # number of the cluster that a row is the head of
    count = 0
    for row in order:
        best, top = -1, threshold
        for p in range(starts[row], starts[row + 1]):
            cluster = headed[partners[p]]
            # Of two that are as close the one opened first, whatever the order of the pairs.
            if cluster >= 0 and (
                values[p] > top or (best >= 0 and values[p] == top and cluster < best)
            ):
                best, top = cluster, values[p]
        if best < 0:
            clusters[row], headed[row] = count, count
            count += 1
        else:
            clusters[row], closeness[row] = best, top
    return clusters, closeness


@njit(cache=True, nogil=True)
def _join_mean_boxes(order, boxes, weights, labels, threshold):  # type: ignore[no-untyped-def]
    n = order.size
    clusters = np.full(n, -1, np.int64)
    means = np.empty((n, 4), np.float64)
    sums = np.zeros((n, 4), np.float64)
    totals = np.zeros(n, np.float64)
    kinds = np.empty(n, np.int64)
    count = 0
    for row in order:
        x0, y0, x1, y1 = boxes[row]
        area = (x1 - x0) * (y1 - y0)
        best, top = -1, threshold
        for c in range(count):
            width = min(x1, means[c, 2]) - max(x0, means[c, 0])
            height = min(y1, means[c, 3]) - max(y0, means[c, 1])
            if width <= 0 or height <= 0 or kinds[c] != labels[row]:
                continue
            shared = width * height
            other = (means[c, 2] - means[c, 0]) * (means[c, 3] - means[c, 1])
            iou = shared / (area + other - shared)
            if iou > top:
                best, top = c, iou
        if best < 0:
            best = count
            kinds[best] = labels[row]
            means[best] = boxes[row]
            count += 1
        clusters[row] = best
        totals[best] += weights[row]
        for k in range(4):
            sums[best, k] += weights[row] * boxes[row, k]
            if totals[best] > 0:
                means[best, k] = sums[best, k] / totals[best]
    return clusters


@njit(cache=True, nogil=True)
def _join_mean_masks(order, boxes, pixels, offsets, cut, weights, labels, threshold):  # type: ignore[no-untyped-def]
    n = order.size
    clusters = np.full(n, -1, np.int64)
    # Weighted sums of the pixels of each cluster lie in ``store`` from ``begins`` on, row by row
    # of its box; a cluster that outgrows its box moves to the end.
    store = np.zeros(max(pixels.size, 1), np.float32)
    used = np.int64(0)
    frames = np.zeros((n, 4), np.int32)
    begins = np.zeros(n, np.int64)
    totals = np.zeros(n, np.float32)
    areas = np.zeros(n, np.int64)
    kinds = np.empty(n, np.int64)
    count = 0
    for row in order:
        x0, y0, x1, y1 = boxes[row]
        width = np.int64(x1 - x0)
        crop = pixels[offsets[row] : offsets[row + 1]]
        area = np.int64(0)
        for k in range(crop.size):
            area += crop[k] >= cut
        best, top = -1, threshold
        for c in range(count):
            left, right = max(x0, frames[c, 0]), min(x1, frames[c, 2])
            upper, lower = max(y0, frames[c, 1]), min(y1, frames[c, 3])
            if left >= right or upper >= lower:
                continue
            if kinds[c] >= 0 and labels[row] >= 0 and kinds[c] != labels[row]:
                continue
            most = min(min(area, areas[c]), np.int64(right - left) * (lower - upper))
            if most == 0 or most / (area + areas[c] - most) <= top:
                continue  # not even if all of it were shared
            frame_width = np.int64(frames[c, 2] - frames[c, 0])
            p = (upper - y0) * width + (left - x0)
            q = begins[c] + (upper - frames[c, 1]) * frame_width + (left - frames[c, 0])
            inside = np.float32(HALF) * totals[c]
            shared = np.int64(0)
            for _ in range(lower - upper):
                mine, mean = crop[p : p + right - left], store[q : q + right - left]
                in_row = np.int32(0)
                for k in range(mine.size):
                    in_row = np.int32(in_row + ((mine[k] >= cut) & (mean[k] >= inside)))
                shared += np.int64(in_row)
                p += width
                q += frame_width
            iou = shared / (area + areas[c] - shared)
            if iou > top:
                best, top = c, iou
        fresh = best < 0
        if fresh:
            best = count
            kinds[best] = labels[row]
            frames[best] = boxes[row]
            count += 1
        clusters[row] = best
        frame = frames[best]
        outgrown = x0 < frame[0] or y0 < frame[1] or x1 > frame[2] or y1 > frame[3]
        if fresh or outgrown:
            u0, v0 = min(x0, frame[0]), min(y0, frame[1])
            u1, v1 = max(x1, frame[2]), max(y1, frame[3])
            size = np.int64(u1 - u0) * (v1 - v0)
            if used + size > store.size:
                larger = np.zeros(max(GROWTH * store.size, used + size), np.float32)
                larger[:used] = store[:used]
                store = larger
            if outgrown:
                old_width = np.int64(frame[2] - frame[0])
                p = begins[best]
                q = used + np.int64(frame[1] - v0) * (u1 - u0) + (frame[0] - u0)
                for _ in range(frame[3] - frame[1]):
                    store[q : q + old_width] = store[p : p + old_width]
                    p += old_width
                    q += u1 - u0
            frame[0], frame[1], frame[2], frame[3] = u0, v0, u1, v1
            begins[best] = used
            used += size
        frame_width = np.int64(frame[2] - frame[0])
        weight = np.float32(weights[row])
        p = np.int64(0)
        q = begins[best] + np.int64(y0 - frame[1]) * frame_width + (x0 - frame[0])
        for _ in range(y1 - y0):
            mine, mean = crop[p : p + width], store[q : q + width]
            for k in range(mine.size):
                mean[k] += weight * mine[k]
            p += width
            q += frame_width
        totals[best] += weight
        inside = np.float32(HALF) * totals[best]
        mean = store[begins[best] : begins[best] + frame_width * (frame[3] - frame[1])]
        total = np.int32(0)
        for k in range(mean.size):
            total = np.int32(total + (mean[k] >= inside))
        areas[best] = total
    return clusters


def decay(
    scores: npt.NDArray[np.floating],
    pairs: Pairs,
    threshold: float = 0.5,
    sigma: float = 0.5,
    floor: float = 0.001,
    linear: bool = False,
) -> tuple[Ints, Floats]:
    """Soft-NMS (Bodla et al. 2017, arXiv:1704.04503) with known IoUs.

    The best instance is picked, the scores of those that overlap it are lowered, and again from
    the new scores, until none is above ``floor``.

    Args:
        scores: (n,), 0 … 1.
        pairs: of rows that overlap.
        threshold: linear only: an IoU above it lowers the score to s · (1 - IoU).
        sigma: Gaussian only: any IoU lowers the score to s · exp(-IoU² / sigma).
        floor: instances that do not stay above it are dropped.
        linear: instead of Gaussian.

    Returns:
        Rows kept int64, in the order picked, and scores float64 (n,), lowered, of all rows.
    """
    i, j, iou = pairs
    lowered = np.array(scores, np.float64)
    rows = _decay(
        lowered,
        solid(i, np.int32),
        solid(j, np.int32),
        solid(iou, np.float64),
        float(threshold),
        0.0 if linear else float(sigma),
        float(floor),
    )
    return rows, lowered


def join_heads(order: Ints, pairs: Pairs, threshold: float) -> tuple[Ints, Floats]:
    """Cluster as NMW does: each row joins the cluster whose head it overlaps best, or opens one.

    Args:
        order: int64 (n,), the rows, the best first.
        pairs: of rows that overlap.
        threshold: a row joins if its IoU with the head is above it.

    Returns:
        Cluster of each row int64 (n,), numbered as they are opened, and its IoU with the head
        float64 (n,), 1 for a head.
    """
    i, j, iou = pairs
    return _join_heads(
        solid(order, np.int64),
        solid(i, np.int32),
        solid(j, np.int32),
        solid(iou, np.float64),
        float(threshold),
    )


def join_mean_boxes(
    order: Ints, boxes: Floats, weights: Floats, labels: Ints, threshold: float
) -> Ints:
    """Cluster as WBF does: each row joins the cluster whose mean box it overlaps best.

    Args:
        order: int64 (n,), the rows, the best first.
        boxes: float64 (n, 4), x0 y0 x1 y1.
        weights: float64 (n,), of each box in the mean.
        labels: int64 (n,); only equal ones meet.
        threshold: a row joins if its IoU with the mean of those before it is above it.

    Returns:
        Cluster of each row int64 (n,), numbered as they are opened.
    """
    return _join_mean_boxes(
        solid(order, np.int64),
        solid(boxes, np.float64),
        solid(weights, np.float64),
        solid(labels, np.int64),
        float(threshold),
    )


def join_mean_masks(
    order: Ints, flat: Flat, cut: int, weights: Floats, labels: Ints, threshold: float
) -> Ints:
    """Cluster as WBF does, by masks: each row joins the cluster whose mean mask it overlaps best.

    The mean of a cluster is that of the soft masks of its rows so far, each 0 outside of its box;
    it is held against the next mask where it is at least a half.

    Args:
        order: int64 (n,), the rows, the best first.
        flat: soft masks, 0 … 255.
        cut: smallest pixel value that is inside of a single mask.
        weights: float64 (n,), of each mask in the mean.
        labels: int64 (n,); only equal ones meet, and -1 meets all. A cluster's is its first row's.
        threshold: a row joins if its IoU with the mean is above it.

    Returns:
        Cluster of each row int64 (n,), numbered as they are opened.
    """
    return _join_mean_masks(
        solid(order, np.int64),
        *flat,
        np.uint8(cut),
        solid(weights, np.float64),
        solid(labels, np.int64),
        float(threshold),
    )
