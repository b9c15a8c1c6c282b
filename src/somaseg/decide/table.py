"""Score an image under every setting of a grid: exactly what settling and scoring would give.

Nothing is settled twice. For each mask threshold the pairs that share pixels, among the predictions
and with the truth, are found once. From the pairs alone follows who is left after suppression; and
lower scores never suppress higher ones, so one suppression serves all score cuts: what a cut keeps
is the beginning of what no cut keeps. Then the cut sinks and masks are added one by one. A new mask
changes only those of its neighbours that come later in the order of overlaps, and what becomes of a
mask depends only on *which* earlier neighbours are there. Such outcomes (the mask's area, and the
number of IoU thresholds it passes) are worked out on the pixels of the one mask when first met, and
remembered for all other settings: a few for each mask, where there are thousands of settings.

Final masks share no pixel, so a truth has at most one above IoU 0.5, and the number of hits at a
threshold is the number of final masks that pass it with any truth.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.typed import Dict

from somaseg.decide.grid import SettingGrid
from somaseg.instances import Instances
from somaseg.masks import overlap, pieces
from somaseg.masks.crops import common_pixels, count_pixels, erase
from somaseg.masks.flat import Flat, Ints, as_flat, solid
from somaseg.masks.pieces import fill_crops, keep_largest_crops
from somaseg.scoring.match import THRESHOLDS

Floats = npt.NDArray[np.float64]

_DROPPED, _HOLED, _PASSED, _AREA = 0, 1, 2, 8
"""Bits of an outcome, an int64: pieces were dropped, it has holes, IoU thresholds passed, area."""

_MIX = 0x1E3779B97F4A7C15
"""An odd number, to tell the key of a neighbour from that of the row itself."""


class _Pairs(NamedTuple):
    """Partners of each row r: ``partner[start[r]:start[r + 1]]``, rising, and a value for each."""

    start: Ints
    partner: Ints
    value: Floats


class _Scene(NamedTuple):
    """What one mask threshold makes of an image; rows come by falling score.

    Attributes:
        masks, truths: hard masks without holes, annotated ones.
        areas, truth_areas: of the masks before their holes were filled, of the truths.
        ranks: int64 (orders, n), place of each row in each order of overlaps.
        level: int64 (n,), number of score cuts that each row passes.
        rivals: later rows that overlap, and their IoU.
        near: rows that share pixels with the masks without holes, both ways.
        candidates: truths that a row may hit.
        codes: int64 (2, n), a random number for each row itself, and one for it as a neighbour:
            their exclusive or stands for a row and its set of earlier neighbours.
        percents: IoU thresholds.
    """

    masks: Flat
    truths: Flat
    areas: Ints
    truth_areas: Ints
    ranks: Ints
    level: Ints
    rivals: _Pairs
    near: _Pairs
    candidates: _Pairs
    codes: Ints
    percents: Ints


class _State(NamedTuple):
    """Which rows are there, and what has become of them.

    Attributes:
        present: bool (n,).
        rank: int64 (n,), the order in force.
        key: int64 (n,), codes of each row and its earlier neighbours.
        outcome: int64 (n,), 0 for rows that are not there.
        changed: int64 (n,), room for the rows that a new one changes.
        tally: int64 (T + 1,), number of final masks by the number of thresholds passed.
        memory: outcome by key.
    """

    present: npt.NDArray[np.bool_]
    rank: Ints
    key: Ints
    outcome: Ints
    changed: Ints
    tally: Ints
    memory: Any


def score_table(raw: Instances, truth: Instances, grid: SettingGrid) -> Floats:
    """Score one image under every setting of a grid.

    Args:
        raw: raw predictions of one image; classes play no part.
        truth: its annotated cells.
        grid: the settings.

    Returns:
        float64 of the grid's shape: the competition's score of the image.
    """
    out = np.empty(grid.shape)
    if not raw.soft:
        out[:] = _at_threshold(raw, truth, grid)[:, :, None]
        return out
    for k, threshold in enumerate(grid.mask_threshold):
        out[:, :, k] = _at_threshold(raw.binary(threshold, keep_empty=True), truth, grid)
    return out


def _at_threshold(hard: Instances, truth: Instances, grid: SettingGrid) -> Floats:
    """Score hard masks under the other settings: (orders, NMS IoUs, scores, min and max areas)."""
    cuts = np.array(grid.score, np.float32)
    hard = hard[hard.scores >= cuts[0]].tightened()[0]
    by_score = hard.order("score")
    # Places are those among the rows as they were: equal ones go by row in settling, too.
    ranks = np.stack([np.argsort(hard.order(name))[by_score] for name in grid.order])
    hard = hard[by_score]
    n = len(hard)
    filled = as_flat(hard.boxes, pieces.fill_holes(*hard.flat), hard.offsets)
    i, j, shared = overlap.intersections(*filled, *truth.flat)
    # An IoU above one half takes more than half of the truth.
    half = 2 * shared > truth.areas[j]
    near = overlap.intersections(*filled)
    scene = _Scene(
        masks=filled,
        truths=as_flat(*truth.flat),
        areas=hard.areas,
        truth_areas=truth.areas,
        ranks=solid(ranks, np.int64),
        level=np.searchsorted(cuts, hard.scores, side="right"),
        rivals=_pairs(*overlap.iou_pairs(hard), n),
        near=_pairs(np.r_[near[0], near[1]], np.r_[near[1], near[0]], np.r_[near[2], near[2]], n),
        candidates=_pairs(i[half], j[half], shared[half], n),
        codes=np.random.default_rng(0).integers(1, 2**63, (2, n)),
        percents=np.array(THRESHOLDS),
    )
    out = np.empty((len(grid.order), len(grid.nms_iou), len(cuts), *grid.shape[-2:]))
    limits = [np.iinfo(np.int64).max if area is None else area for area in grid.max_area]
    _score(scene, np.array(grid.nms_iou), np.array(grid.min_area), np.array(limits), out)
    return out


def _pairs(i: npt.ArrayLike, j: npt.ArrayLike, values: npt.ArrayLike, n: int) -> _Pairs:
    i, j = solid(i, np.int64), solid(j, np.int64)
    order = np.lexsort((j, i))
    start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(i, minlength=n), out=start[1:])
    return _Pairs(start, j[order], np.asarray(values, np.float64)[order])


@njit(cache=True, nogil=True)
def _score(scene, limits, smallest, largest, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (orders, limits, cuts, smallest, largest)."""
    n = scene.areas.size
    kept = np.empty(n, np.int64)
    memory = Dict.empty(types.int64, types.int64)
    key, outcome, changed = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    present, tally = np.empty(n, np.bool_), np.empty(scene.percents.size + 1, np.int64)
    for a in range(smallest.size):
        same = Dict.empty(types.int64, types.int64)
        for b in range(largest.size):
            for m in range(limits.size):
                count = _suppress(scene, smallest[a], largest[b], limits[m], kept)
                rows = np.int64(0)
                for r in range(count):
                    rows ^= scene.codes[0, kept[r]]
                if rows in same:  # the same rows are left: nothing new
                    known = same[rows]
                    out[:, m, :, a, b] = out[:, known % limits.size, :, a, known // limits.size]
                    continue
                same[rows] = b * limits.size + m
                for o in range(scene.ranks.shape[0]):
                    rank = scene.ranks[o]
                    state = _State(present, rank, key, outcome, changed, tally, memory)
                    _sweep(scene, state, kept[:count], smallest[a], out[o, m, :, a, b])


@njit(cache=True, nogil=True)
def _suppress(scene, smallest, largest, limit, kept):  # type: ignore[no-untyped-def]
    """Write the rows that are left of those of a fitting size to ``kept``; how many."""
    areas, rivals = scene.areas, scene.rivals
    gone = np.zeros(areas.size, np.bool_)
    count = 0
    for i in range(areas.size):
        if gone[i] or areas[i] < smallest or areas[i] > largest:
            continue
        kept[count] = i
        count += 1
        for p in range(rivals.start[i], rivals.start[i + 1]):
            if rivals.value[p] > limit:
                gone[rivals.partner[p]] = True
    return count


@njit(cache=True, nogil=True)
def _sweep(scene, state, kept, smallest, out):  # type: ignore[no-untyped-def]
    """Write the score at each cut; rows are added as the cut sinks."""
    state.present[:] = False
    state.tally[:] = 0
    n_truths, at, score = scene.truth_areas.size, 0, 0.0
    for cut in range(out.size - 1, -1, -1):
        begun = at
        while at < kept.size and scene.level[kept[at]] > cut:
            _add(scene, state, kept[at], smallest)
            at += 1
        if at > begun or cut == out.size - 1:
            number = state.tally.sum()
            hits, total = number, 0.0
            for t in range(scene.percents.size):
                hits -= state.tally[t]
                union = n_truths + number - hits
                # No truth and no prediction is a full score.
                total += hits / union if union > 0 else 1.0
            score = total / scene.percents.size
        out[cut] = score


@njit(cache=True, nogil=True)
def _add(scene, state, x, smallest):  # type: ignore[no-untyped-def]
    """Add a row; give it and those that it takes pixels from their outcomes."""
    near, (own, codes) = scene.near, scene.codes
    present, rank, key, outcome = state.present, state.rank, state.key, state.outcome
    present[x], key[x], outcome[x] = True, own[x], 0
    state.changed[0], count = x, 1
    for p in range(near.start[x], near.start[x + 1]):
        y = near.partner[p]
        if not present[y]:
            continue
        if rank[y] < rank[x]:
            key[x] ^= codes[y]
        else:
            key[y] ^= codes[x]
            state.changed[count] = y
            count += 1
    for c in range(count):
        y = state.changed[c]
        _put(state, y, _recall(scene, state, y), smallest)
        # What it drops now, or no longer, may fill the holes of others.
        for p in range(near.start[y], near.start[y + 1]):
            z = near.partner[p]
            if present[z] and rank[z] > rank[y] and (outcome[z] >> _HOLED) & 1:
                _put(state, z, _recall(scene, state, z), smallest)


@njit(cache=True, nogil=True)
def _recall(scene, state, i):  # type: ignore[no-untyped-def]
    """Outcome of row i beside the rows that are there: remembered, or worked out."""
    near, key = scene.near, state.key
    found = state.memory.get(key[i], -1)
    if found < 0:
        found = _outcome(scene, state, i, False)
        state.memory[key[i]] = found
    if (found >> _HOLED) & 1:
        # What fills the holes depends on the earlier neighbours' own neighbours, if these make
        # them drop pieces.
        uncertain, whole = False, key[i]
        for p in range(near.start[i], near.start[i + 1]):
            j = near.partner[p]
            if state.present[j] and state.rank[j] < state.rank[i]:
                uncertain |= (state.outcome[j] >> _DROPPED) & 1 == 1
                whole ^= key[j] * _MIX
        if uncertain:
            found = state.memory.get(whole, -1)
            if found < 0:
                found = _outcome(scene, state, i, True)
                state.memory[whole] = found
    return found


@njit(cache=True, nogil=True)
def _put(state, row, outcome, smallest):  # type: ignore[no-untyped-def]
    """Replace the outcome of a row, and count it if it is large enough."""
    old = state.outcome[row]
    if old >> _AREA >= smallest:
        state.tally[(old >> _PASSED) & 63] -= 1
    if outcome >> _AREA >= smallest:
        state.tally[(outcome >> _PASSED) & 63] += 1
    state.outcome[row] = outcome


@njit(cache=True, nogil=True)
def _outcome(scene, state, i, exact):  # type: ignore[no-untyped-def]
    """Work out what becomes of row i beside the rows that are there.

    Holes are filled with what nobody owns. Earlier neighbours own all that they cover, unless they
    have dropped pieces: ``exact`` then works out what they own.
    """
    masks, near, candidates, percents = scene.masks, scene.near, scene.candidates, scene.percents
    boxes, pixels, offsets = masks
    crop, dropped = _piece(scene, state, i)
    full = crop.copy()
    holed = _fill_crop(boxes[i : i + 1], full)
    if holed:
        for p in range(near.start[i], near.start[i + 1]):
            j = near.partner[p]
            if state.present[j] and state.rank[j] < state.rank[i]:
                other = pixels[offsets[j] : offsets[j + 1]]
                if exact:
                    other, _ = _piece(scene, state, j)
                    _fill_crop(boxes[j : j + 1], other)
                erase(full, boxes[i], other, boxes[j])
        for k in range(crop.size):
            crop[k] |= full[k]
    area, passed = count_pixels(crop), 0
    truth_boxes, truth_pixels, truth_offsets = scene.truths
    for p in range(candidates.start[i], candidates.start[i + 1]):
        t = candidates.partner[p]
        other = truth_pixels[truth_offsets[t] : truth_offsets[t + 1]]
        shared = common_pixels(crop, boxes[i], other, truth_boxes[t])
        union = area + scene.truth_areas[t] - shared
        while passed < percents.size and 100 * shared > percents[passed] * union:
            passed += 1
    return area << _AREA | passed << _PASSED | int(holed) << _HOLED | int(dropped) << _DROPPED


@njit(cache=True, nogil=True)
def _piece(scene, state, i):  # type: ignore[no-untyped-def]
    """Largest piece of what the earlier neighbours leave of row i; whether others were dropped."""
    boxes, pixels, offsets = scene.masks
    near = scene.near
    crop = pixels[offsets[i] : offsets[i + 1]].copy()
    for p in range(near.start[i], near.start[i + 1]):
        j = near.partner[p]
        if state.present[j] and state.rank[j] < state.rank[i]:
            erase(crop, boxes[i], pixels[offsets[j] : offsets[j + 1]], boxes[j])
    before = count_pixels(crop)
    keep_largest_crops(boxes[i : i + 1], crop, np.array([0, crop.size]), 1)
    return crop, count_pixels(crop) < before


@njit(cache=True, nogil=True)
def _fill_crop(box, crop):  # type: ignore[no-untyped-def]
    """Fill the holes of a crop; whether there were any."""
    hole_area = np.zeros(1, np.int64)
    fill_crops(box, crop, np.array([0, crop.size]), 0, crop.size, hole_area)
    return hole_area[0] > 0
