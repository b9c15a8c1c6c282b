"""The two-stage family: encoder, pyramid, proposals, boxes, masks, mask scores.

Reads like torchvision's ``generalized_rcnn``: every part is a module of its own, chosen by the
config, and knows nothing of the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from somaseg.data.augment import Crop
from somaseg.instances import Instances
from somaseg.masks.flat import offsets_of
from somaseg.models.base import Batch, Gray, Image, Network, Region
from somaseg.models.config import ModelInfo
from somaseg.models.dense import as_batch
from somaseg.models.device import predicting
from somaseg.models.rcnn.backbone import Pyramid
from somaseg.models.rcnn.box import Detections
from somaseg.models.rcnn.cascade import BoxStages
from somaseg.models.rcnn.config import RCNNConfig
from somaseg.models.rcnn.mask import ConvMask, MaskStages
from somaseg.models.rcnn.paste import paste
from somaseg.models.rcnn.point import PointMask
from somaseg.models.rcnn.rpn import Proposals
from somaseg.models.rcnn.scoring import MaskIoU
from somaseg.models.rcnn.targets import Truth
from somaseg.models.rcnn.weights import fill_detector, read_pretrained

MASKS_AT_ONCE = 128  # boxes through the mask head together, in prediction


class RCNN(Region, Network):
    """Mask R-CNN and its descendants, as one model.

    Args:
        config: the choices.
        info: class names; label k + 1 inside the network is ``names[k]``.
    """

    def __init__(self, config: RCNNConfig, info: ModelInfo) -> None:
        nn.Module.__init__(self)
        self.config: RCNNConfig = config
        self.info = info
        classes = len(info.names) + 1
        detector = read_pretrained(config.pretrained, config.backbone)
        self.backbone = Pyramid(
            config,
            "none" if detector else config.pretrained,
            3 if info.inputs == 1 else info.inputs,
        )
        self.rpn = Proposals(config, self.backbone.strides)
        self.box = BoxStages(config, classes)
        heads = MaskStages if config.mask_heads == "stages" else ConvMask
        self.mask = (PointMask if config.mask_head == "point" else heads)(config, classes)
        self.scoring = (
            MaskIoU(config, classes, self.mask.pool.size) if config.mask_scoring else None
        )
        if detector:
            fill_detector(self, detector, config.pretrained)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def scale(self) -> float:
        """Network pixels per image pixel."""
        if self.config.diameter is not None:
            return self.config.diameter / self.info.diameter
        return self.config.input_scale

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A plain model's box head starts every stage of a cascade, and so do masks."""
        known = self.box.spread(tensors, "box.")
        if isinstance(self.mask, MaskStages):
            known = self.mask.spread(known, "mask.")
        return known

    def levels(self, kind: np.dtype[Any]) -> tuple[float, float] | None:
        """0 and the largest value of whole numbers, if the config says so."""
        whole = self.config.input_levels == "full" and np.issubdtype(kind, np.integer)
        return (0.0, float(np.iinfo(kind).max)) if whole else None

    # Training.

    def example(self, crop: Crop) -> dict[str, Any]:
        """Image and truth of a crop."""
        return {"image": crop.channels, "truth": Truth.of_crop(crop, self.names)}

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Join examples to a batch; images of several sizes stay a list."""
        return {
            "image": [torch.from_numpy(example["image"]) for example in examples],
            "truth": [example["truth"] for example in examples],
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute every loss of a batch; their sum is what to minimise.

        Args:
            batch: ``image``, a list of float32 (1 or 3, h, w) at the network's scale, or one
                tensor (b, 1 or 3, h, w); ``truth``, as many `Truth` at the same scale, with or
                without cells.
        """
        images = self.stack(batch["image"])
        truths = [truth.to(self.device) for truth in batch["truth"]]
        features = self.backbone(images.tensors)
        proposals, losses = self.rpn(images, features, [{"boxes": t.boxes} for t in truths])
        samples = self.box.sample(proposals, truths)
        box_losses, given = self.box.losses(features, samples, truths, images.image_sizes)
        losses |= box_losses
        # One mask head learns of the first stage's cells, several each of their own stage's.
        stages = list(self.mask.stages) if isinstance(self.mask, MaskStages) else [self.mask]
        for i, (head, matched) in enumerate(zip(stages, given, strict=False)):
            assert isinstance(head, ConvMask | PointMask)
            cells = [m.foreground() for m in matched]
            pooled = head.pool(features, [cell.boxes for cell in cells])
            mask_losses, masks = head.losses(features, pooled, cells, truths)
            suffix = f"_{i + 1}" if len(stages) > 1 else ""
            losses |= {f"{name}{suffix}": loss / 2**i for name, loss in mask_losses.items()}
        if self.scoring is not None:
            losses |= self.scoring.losses(pooled, masks, cells, truths)
        return losses

    # Prediction.

    def core(self) -> tuple[nn.Module, tuple[int, int, int, int]]:
        """Encoder and pyramid; what comes after depends on what is found."""
        side = 2 * self.backbone.multiple
        return self.backbone, (1, self.backbone.channels, side, side)

    def outputs(self) -> list[str]:
        """Levels of the pyramid."""
        return [f"features at stride {stride}" for stride in self.backbone.strides]

    def find(self, gray: Gray) -> Instances:
        """Find the cells of a prepared image: soft, overlapping, best first, to ``score_floor``.

        At most ``detections`` of them, after box suppression at ``box_nms``.
        """
        return self.find_each([gray])[0]

    def find_each(self, grays: Sequence[Gray]) -> list[Instances]:
        """Find the cells of images of one shape, which go through the network at once."""
        with self._predicting():
            batch, features, enlarged = self._encode(grays)
            proposals, _ = self.rpn(batch, features)
            detections = self.box.predict(features, proposals, batch.image_sizes)
            return [
                self._draw([level[i : i + 1] for level in features], one, enlarged, gray.shape[:2])
                for i, (one, gray) in enumerate(zip(detections, grays, strict=True))
            ]

    def predict_masks(
        self,
        image: Image,
        boxes: npt.NDArray[np.float32],
        classes: npt.NDArray[np.integer],
        scores: npt.NDArray[np.float32],
    ) -> Instances:
        """Run the mask head on given boxes, those of an ensemble for example.

        Args:
            image: (h, w) or (h, w, 3), of any intensity range.
            boxes: float32 (n, 4), x0 y0 x1 y1 in pixels of the image, inside it.
            classes: int (n,), indices into ``names``.
            scores: float32 (n,), passed through (times the mask's guessed IoU, if the model
                scores masks).
        """
        with self._predicting():
            gray = self.prepare(image)
            _, features, enlarged = self._encode([gray])
            detections = Detections(
                torch.as_tensor(boxes, dtype=torch.float32, device=self.device) * enlarged,
                torch.as_tensor(scores, dtype=torch.float32, device=self.device),
                torch.as_tensor(classes, device=self.device).long() + 1,
            )
            return self._draw(features, detections, enlarged, gray.shape[:2])

    @contextmanager
    def _predicting(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            with predicting(self.device):
                yield
        finally:
            self.train(training)

    def _encode(self, grays: Sequence[Gray]) -> tuple[ImageList, list[Tensor], Tensor]:
        """Features of images of one shape; by how much their x y x y were enlarged, exactly."""
        h, w = grays[0].shape[:2]
        height, width = self._enlarged((h, w))
        interpolation = cv2.INTER_AREA if height < h else cv2.INTER_LINEAR
        resized = [cv2.resize(gray, (width, height), interpolation=interpolation) for gray in grays]
        batch = self.stack(as_batch(np.stack(resized)))
        enlarged = torch.tensor([width / w, height / h] * 2, device=self.device)
        return batch, self.run(batch.tensors), enlarged

    def _enlarged(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in network pixels of an image of ``size`` pixels."""
        scale, config = self.scale, self.config
        if config.shortest_side is not None:
            scale = config.shortest_side / min(size)
            if config.longest_side is not None:
                scale = min(scale, config.longest_side / max(size))
            if not config.aligned:  # torchvision cuts off; the other libraries round
                return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)
        return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)

    def _draw(
        self,
        features: list[Tensor],
        detections: Detections,
        enlarged: Tensor,
        size: tuple[int, int],
    ) -> Instances:
        """Predict the masks of detections (network pixels) and lay them on the image."""
        parts, scores = [], []
        for start in range(0, len(detections.scores), MASKS_AT_ONCE):
            rows = slice(start, start + MASKS_AT_ONCE)
            boxes, score, labels = (field[rows] for field in detections)
            pooled = self.mask.pool(features, [boxes])
            masks = self.mask.predict(features, pooled, boxes, labels)
            if self.scoring is not None:
                score = self.scoring.rescore(pooled, masks, score, labels)
            places = (boxes / enlarged).cpu().numpy()
            parts.append(paste(masks.float().cpu().numpy(), places, size, self.config.aligned))
            scores.append(score.float().cpu().numpy())
        if not parts:
            return Instances.empty(size, self.names, soft=True)
        crops = np.concatenate([part.boxes for part in parts])
        return Instances(
            size,
            crops,
            np.concatenate([part.pixels for part in parts]),
            offsets_of(crops),
            np.concatenate(scores),
            (detections.labels - 1).cpu().numpy().astype(np.int16),
            self.names,
            soft=True,
        )

    def stack(self, images: Tensor | Sequence[Tensor]) -> ImageList:
        """Make images one batch of the encoder's channels, padded as the pyramid asks."""
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        multiple = self.backbone.multiple
        height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
        batch = self.backbone.get_buffer("beyond").expand(len(sizes), -1, height, width).clone()
        for canvas, image, (h, w) in zip(batch, images, sizes, strict=True):
            canvas[:, :h, :w] = image.to(self.device)
        return ImageList(batch.contiguous(memory_format=torch.channels_last), sizes)
