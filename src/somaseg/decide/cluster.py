"""Which instances of several members are one cell: greedy clusters, and suppression by decay.

All go through the instances from the best to the worst. Those that compare an instance with other
instances work on sparse pairs; what compares it with a mean that moves keeps the means itself. Time
grows with the number of instances that overlap, whatever the size of the image.
"""

import heapq

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
    counts = np.zeros(n, np.int64)
    for k in range(i.size):
        counts[i[k]] += 1
        counts[j[k]] += 1
    starts = np.zeros(n + 1, np.int64)
    for row in range(n):  # numba takes two seconds to compile `starts[1:] = ...`
        starts[row + 1] = starts[row] + counts[row]
    place = starts[:-1].copy()
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
    # The best comes first; scores only sink, so one that has sunk since is put back where it
    # belongs when it comes up. Of equal scores the first row comes first.
    queue = [(-scores[row], row) for row in range(n)]
    heapq.heapify(queue)
    there = np.ones(n, np.bool_)
    picked = np.empty(n, np.int64)
    count = 0
    while len(queue) > 0:
        least, row = queue[0]
        if -least > scores[row]:
            heapq.heapreplace(queue, (-scores[row], row))
            continue
        if scores[row] <= floor:
            break  # as are all that are left
        heapq.heappop(queue)
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
def _grown(array):  # type: ignore[no-untyped-def]
    """A copy with room for twice as much."""
    larger = np.empty(GROWTH * array.size, array.dtype)
    for k in range(array.size):
        larger[k] = array[k]
    return larger


@njit(cache=True, nogil=True)
def _mean_iou(box, crop, area, cut, frame, store, mean_area, inside, least):  # type: ignore[no-untyped-def]
    """IoU of a mask with the mean of a cluster; 0 if it cannot reach ``least``."""
    x0, y0, x1, y1 = box
    left, right = max(x0, frame[0]), min(x1, frame[2])
    upper, lower = max(y0, frame[1]), min(y1, frame[3])
    if left >= right or upper >= lower:
        return 0.0
    most = min(min(area, mean_area), np.int64(right - left) * (lower - upper))
    if most == 0 or most / (area + mean_area - most) < least:
        return 0.0  # not even if all of it were shared
    width, frame_width = np.int64(x1 - x0), np.int64(frame[2] - frame[0])
    p = (upper - y0) * width + (left - x0)
    q = (upper - frame[1]) * frame_width + (left - frame[0])
    shared = np.int64(0)
    for _ in range(lower - upper):
        mine, mean = crop[p : p + right - left], store[q : q + right - left]
        in_row = np.int32(0)
        for k in range(mine.size):
            in_row = np.int32(in_row + ((mine[k] >= cut) & (mean[k] >= inside)))
        shared += np.int64(in_row)
        p += width
        q += frame_width
    return shared / (area + mean_area - shared)


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
    # The image is laid out in squares; each has a list of the clusters whose box reaches into it,
    # so that a row meets those near it alone: entry e of a list is cluster ``listed[e]``, and the
    # next one is ``following[e]``.
    across, down = boxes[:, 2].max() if n else 1, boxes[:, 3].max() if n else 1
    side = np.int64(max(8.0, np.ceil(np.sqrt(pixels.size / max(n, 1)))))
    side = max(side, np.int64(np.ceil(np.sqrt(np.int64(across) * down / (4 * n + 1024)))))
    columns = across // side + 1
    first = np.full(columns * (down // side + 1), -1, np.int64)
    listed, following = np.empty(4 * n + 16, np.int64), np.empty(4 * n + 16, np.int64)
    entries = np.int64(0)
    met = np.full(n, -1, np.int64)  # last row that each cluster was held against
    for row in order:
        x0, y0, x1, y1 = boxes[row]
        width = np.int64(x1 - x0)
        crop = pixels[offsets[row] : offsets[row + 1]]
        area = np.int64(0)
        for k in range(crop.size):
            area += crop[k] >= cut
        best, top = -1, threshold
        for square in range((y0 // side) * columns, (y1 - 1) // side * columns + 1, columns):
            for at in range(square + x0 // side, square + (x1 - 1) // side + 1):
                e = first[at]
                while e >= 0:
                    c = listed[e]
                    e = following[e]
                    if met[c] == row:
                        continue
                    met[c] = row
                    if kinds[c] >= 0 and labels[row] >= 0 and kinds[c] != labels[row]:
                        continue
                    inside = np.float32(HALF) * totals[c]
                    mean = store[begins[c] :]
                    iou = _mean_iou(
                        boxes[row], crop, area, cut, frames[c], mean, areas[c], inside, top
                    )
                    # Of two that are as close the one opened first, in whatever order they come.
                    if iou > top or (best >= 0 and iou == top and c < best):
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
            old = frame.copy()
            u0, v0 = min(x0, frame[0]), min(y0, frame[1])
            u1, v1 = max(x1, frame[2]), max(y1, frame[3])
            size = np.int64(u1 - u0) * (v1 - v0)
            if used + size > store.size:
                larger = np.zeros(max(GROWTH * store.size, used + size), np.float32)
                for k in range(used):
                    larger[k] = store[k]
                store = larger
            if outgrown:
                old_width = np.int64(frame[2] - frame[0])
                p = begins[best]
                q = used + np.int64(frame[1] - v0) * (u1 - u0) + (frame[0] - u0)
                for _ in range(frame[3] - frame[1]):
                    for k in range(old_width):  # not onto itself: q is behind all that is used
                        store[q + k] = store[p + k]
                    p += old_width
                    q += u1 - u0
            frame[0], frame[1], frame[2], frame[3] = u0, v0, u1, v1
            begins[best] = used
            used += size
            for v in range(v0 // side, (v1 - 1) // side + 1):
                for u in range(u0 // side, (u1 - 1) // side + 1):
                    if not fresh and (
                        old[0] // side <= u <= (old[2] - 1) // side
                        and old[1] // side <= v <= (old[3] - 1) // side
                    ):
                        continue  # it is in that list already
                    if entries == listed.size:
                        listed, following = _grown(listed), _grown(following)
                    listed[entries], following[entries] = best, first[v * columns + u]
                    first[v * columns + u] = entries
                    entries += 1
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
