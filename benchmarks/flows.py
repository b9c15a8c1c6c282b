"""Flow targets and decoding beside the cellpose package, in one run.

    pip install 'cellpose==3.1.1.2' ; python benchmarks/flows.py [DATA [IMAGE]]

Without DATA a synthetic field of dense cells. Prints processor seconds, their ratio, and how far
both agree: the angle between flows, and AP at IoU 0.9 of our masks against cellpose's (truth).
"""

import sys
import time

import cv2
import numpy as np
import torch
from cellpose import dynamics

from somaseg.instances import Instances
from somaseg.models.flow.decode import decode_flows
from somaseg.models.flow.targets import label_flows
from somaseg.scoring import Overlaps

CPU = torch.device("cpu")


def cpu_seconds(function, repeats=3):
    """Run once to warm up, then return the best processor time and the result."""
    result = function()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        result = function()
        times.append(time.process_time() - began)
    return min(times), result


def average_precision(truth, prediction, percent=90):
    overlaps = Overlaps.between(Instances.from_labels(truth), Instances.from_labels(prediction))
    hits = overlaps.counts((percent,), "maximum").hits[0]
    return hits / (truth.max() + len(np.unique(prediction[prediction > 0])) - hits)


def field(arguments):
    if arguments:
        from somaseg.data import load_dataset

        dataset = load_dataset(arguments[0])
        annotated = [sample for sample in dataset if sample.instances is not None]
        chosen = (
            dataset[arguments[1]]
            if len(arguments) > 1
            else min(annotated, key=lambda s: abs(len(s.instances) - 300))
        )
        return chosen.instances.to_labels()
    from somaseg.data.synthetic import make_image

    return make_image("shsy5y", 0, (520, 704))[1].to_labels()


def main():
    cv2.setNumThreads(1)
    labels = field(sys.argv[1:])
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    print(f"{labels.max()} cells on {labels.shape[0]}×{labels.shape[1]} pixels")
    ours_time, ours = cpu_seconds(lambda: label_flows(labels))
    theirs_time, theirs = cpu_seconds(
        lambda: dynamics.labels_to_flows([labels], device=CPU)[0][2:4], 1
    )
    both = (np.hypot(*ours) > 0.5) & (np.hypot(*theirs) > 0.5)
    cosine = np.clip((ours * theirs).sum(0)[both], -1, 1)
    degrees = np.degrees(np.arccos(cosine))
    print(
        f"flow targets     ours {ours_time:.4f} s, cellpose {theirs_time:.4f} s, "
        f"ratio {theirs_time / ours_time:.1f}; angle mean {degrees.mean():.2f}°, "
        f"99 % below {np.quantile(degrees, 0.99):.2f}°"
    )
    noise = np.random.default_rng(0).normal(0, 0.3, theirs.shape).astype(np.float32)
    for name, flows in (("exact flows", theirs), ("noisy flows", theirs + noise)):
        flows = (flows * (labels > 0)).astype(np.float32)
        logit = np.where(labels > 0, 5.0, -5.0).astype(np.float32)
        for check, ours_limit, theirs_limit in (
            ("no check", np.inf, 0.0),
            ("flow check", 0.4, 0.4),
        ):
            ours_time, decoded = cpu_seconds(
                lambda flows=flows, limit=ours_limit: decode_flows(
                    flows, labels > 0, max_error=limit
                )
            )
            theirs_time, masks = cpu_seconds(
                lambda flows=flows, logit=logit, limit=theirs_limit: dynamics.compute_masks(
                    5 * flows, logit, flow_threshold=limit, device=CPU
                ),
                1,
            )
            masks = np.asarray(masks[0] if isinstance(masks, tuple) else masks).astype(np.int32)
            print(
                f"{name}, {check:10} ours {ours_time:.4f} s, cellpose {theirs_time:.4f} s, "
                f"ratio {theirs_time / ours_time:.1f}; cells {decoded.labels.max()} and "
                f"{masks.max()}, AP at 0.9 {average_precision(masks, decoded.labels):.3f}"
            )


if __name__ == "__main__":
    main()
