"""Causes of lost score once more, the slow way: dense masks, fractions, and mending in earnest."""

from fractions import Fraction

import numpy as np

from tests.scoring.oracle import iou_table, most_pairs


def area(mask):
    return int(mask.sum())


def accuracy(truths, predictions, threshold):
    """TP / (TP + FP + FN) by exhaustive matching."""
    if not truths and not predictions:
        return Fraction(1)
    table = iou_table(truths, predictions)
    tp = most_pairs([[iou > threshold for iou in row] for row in table])
    return Fraction(tp, len(truths) + len(predictions) - tp)


class Explained:
    """What became of each truth and prediction at one threshold.

    ``matched``: the prediction that each truth is matched to, or -1.
    """

    def __init__(self, truths, predictions, threshold, matched):
        self.truths, self.predictions = list(truths), list(predictions)
        self.threshold, self.matched = threshold, list(matched)
        n, m = len(self.truths), len(self.predictions)
        iou = iou_table(self.truths, self.predictions)
        self.partner = {i: j for i, j in enumerate(self.matched) if j >= 0}
        related = [(iou[i][j], -i, -j) for i in range(n) for j in range(m)]
        for value, i, j in sorted(related, reverse=True):
            free = -i not in self.partner and -j not in self.partner.values()
            if free and value > Fraction(1, 10):
                self.partner[-i] = -j
        owner = {j: i for i, j in self.partner.items()}
        self.swallowed = {
            j: [
                i
                for i in range(n)
                if i not in self.partner
                and 2 * area(self.truths[i] & self.predictions[j]) > area(self.truths[i])
            ]
            for j in range(m)
        }
        self.pieces = {
            i: [
                j
                for j in range(m)
                if j not in owner
                and 2 * area(self.truths[i] & self.predictions[j]) > area(self.predictions[j])
            ]
            for i in range(n)
        }
        self.truth_causes = ["missed"] * n
        self.prediction_causes = ["spurious"] * m
        for i in range(n):
            if self.pieces[i] and (i in self.partner or len(self.pieces[i]) > 1):
                for j in self.pieces[i]:
                    self.prediction_causes[j] = "split"
                if i not in self.partner:
                    self.truth_causes[i] = "split"
        for j in range(m):
            if self.swallowed[j] and (j in owner or len(self.swallowed[j]) > 1):
                for i in self.swallowed[j]:
                    self.truth_causes[i] = "merged"
                if j not in owner:
                    self.prediction_causes[j] = "merged"
        for i, j in self.partner.items():
            cause = "boundary"
            if self.matched[i] >= 0:
                cause = "hit"
            elif self.swallowed[j] and self._hits(i, self.cut_out(j)):
                cause = "merged"
            elif self.pieces[i] and self._hits(i, self.joined(i)):
                cause = "split"
            self.truth_causes[i] = self.prediction_causes[j] = cause

    def cut_out(self, j):
        """Prediction j without the cells that it swallowed."""
        return self.predictions[j] & ~np.any([self.truths[i] for i in self.swallowed[j]], axis=0)

    def joined(self, i):
        """The prediction of truth i and the pieces beside it, as one."""
        parts = [self.predictions[j] for j in (self.partner[i], *self.pieces[i])]
        return np.any(parts, axis=0)

    def _hits(self, i, prediction):
        return iou_table([self.truths[i]], [prediction])[0][0] > self.threshold

    # ---- the score, counted again after mending ----

    def with_detection(self):
        """Missed truths and spurious predictions are taken away."""
        truths = [t for t, c in zip(self.truths, self.truth_causes, strict=True) if c != "missed"]
        predictions = [
            p
            for p, c in zip(self.predictions, self.prediction_causes, strict=True)
            if c != "spurious"
        ]
        return accuracy(truths, predictions, self.threshold)

    def with_boundaries(self):
        """Predictions whose boundary alone is wrong become their truths."""
        mended = list(self.predictions)
        for i, j in self.partner.items():
            if self.truth_causes[i] == "boundary":
                mended[j] = self.truths[i]
        return accuracy(self.truths, mended, self.threshold)

    def with_separation(self):
        """Merged predictions are cut, split ones joined; what was swallowed is not counted."""
        truths, predictions = dict(enumerate(self.truths)), dict(enumerate(self.predictions))
        owned = set(self.partner.values())
        for i, cause in enumerate(self.truth_causes):
            if cause not in ("merged", "split"):
                continue
            if i not in self.partner:
                del truths[i]
            else:
                j = self.partner[i]
                predictions[j] = self.cut_out(j) if cause == "merged" else self.joined(i)
        for j, cause in enumerate(self.prediction_causes):
            if cause in ("merged", "split") and j not in owned:
                del predictions[j]
        return accuracy(list(truths.values()), list(predictions.values()), self.threshold)
