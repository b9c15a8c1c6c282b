"""The scores once more, the slow way: dense masks, fractions, exhaustive matching."""

from fractions import Fraction

import numpy as np

THRESHOLDS = [Fraction(percent, 100) for percent in range(50, 100, 5)]


def iou_table(truths, predictions):
    """Exact IoU of each truth and prediction, given as stacks of boolean masks."""
    table = []
    for truth in truths:
        row = []
        for prediction in predictions:
            union = int((truth | prediction).sum())
            row.append(Fraction(int((truth & prediction).sum()), union) if union else Fraction(0))
        table.append(row)
    return table


def most_pairs(hits):
    """Size of the largest one-to-one matching, by trying every choice (few rows only)."""

    def best(row, free):
        if row == len(hits):
            return 0
        choices = [best(row + 1, free)]
        choices += [1 + best(row + 1, free - {j}) for j in free if hits[row][j]]
        return max(choices)

    return best(0, frozenset(range(len(hits[0])))) if hits else 0


def image_accuracy(truths, predictions, threshold):
    if len(truths) == 0 and len(predictions) == 0:
        return Fraction(1)
    table = iou_table(truths, predictions)
    tp = most_pairs([[iou > threshold for iou in row] for row in table])
    return Fraction(tp, len(truths) + len(predictions) - tp)


def image_score(truths, predictions):
    values = [image_accuracy(truths, predictions, threshold) for threshold in THRESHOLDS]
    return float(sum(values) / len(values))


def kaggle_score(truths, predictions):
    """As in the public kernels: a truth with exactly one hit is a true positive."""
    if len(truths) == 0 and len(predictions) == 0:
        return 1.0
    iou = np.array(iou_table(truths, predictions), float).reshape(len(truths), len(predictions))
    values = []
    for threshold in range(50, 100, 5):
        matches = iou > threshold / 100
        tp = np.sum(np.sum(matches, axis=1) == 1)
        fp = np.sum(np.sum(matches, axis=0) == 0)
        fn = np.sum(np.sum(matches, axis=1) == 0)
        values.append(tp / (tp + fp + fn) if tp + fp + fn else 0.0)
    return float(np.mean(values))
