"""The choices of the two-stage family: every combination is one model."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from somaseg.models.config import BUNDLED, MANY, ModelConfig

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Channels = tuple[float, float, float]


class RCNNConfig(ModelConfig):
    """A two-stage segmenter: proposals, boxes, masks, and mask scores if wanted."""

    family: Literal["rcnn"] = "rcnn"

    backbone: str = Field("resnet50", description="a timm encoder: resnet18 … resnet101, …")
    pretrained: str = Field(
        "imagenet",
        description="auto, imagenet, none or a file of encoder weights; coco, or a file of a whole "
        "detector (torchvision's or ours), fills the heads too",
    )
    norm: Literal["frozen", "batch"] = Field(
        "frozen", description="the encoder's batch norm: kept as pretrained, or trained on"
    )
    frozen_stages: int = Field(
        0, ge=0, le=5, description="stages of the encoder, finest first, whose weights stay"
    )
    input_scale: float = Field(2.0, ge=0.25, le=4, description="network pixels per image pixel")
    diameter: float | None = Field(
        None,
        gt=0,
        description="network pixels that the median cell of the training data is scaled to; "
        "where given, it decides the scale, and input_scale does not",
    )
    shortest_side: PositiveInt | None = Field(
        None,
        description="network pixels of an image's shorter side; where given, it decides the scale "
        "in prediction, image by image, and input_scale and diameter do in training only",
    )
    longest_side: PositiveInt | None = Field(
        None, description="with shortest_side: at most so many of the longer one"
    )
    input_levels: Literal["percentiles", "full"] = Field(
        "percentiles",
        description="seen as 0 and 1: an image's 1st and 99th percentile, or 0 and "
        "the largest value of its type (255), as most other libraries; floats have none",
    )
    mean: Channels | None = Field(
        None, description="of the input, in 0..1, by channel; none: that of the encoder's weights"
    )
    std: Channels | None = Field(None, description="the same for what the input is divided by")
    padding: Literal["black", "mean"] = Field(
        "black",
        description="beyond the image: black, to a multiple of the coarsest level; or the mean, to "
        "one of the coarsest stride, as in torchvision, detectron2 and MMDetection",
    )
    stride_in_1x1: bool = Field(
        False,
        description="ResNets with bottlenecks: stages begin with a strided 1×1 convolution, as in "
        "Caffe's weights, not with a strided 3×3",
    )
    strides: tuple[int, ...] = Field(
        (4, 8, 16, 32), description="pyramid levels, in network pixels a step"
    )
    pool_level: bool = Field(
        True, description="one level more for the proposals: every other pixel of the coarsest"
    )
    fpn_channels: PositiveInt = Field(256, description="width of the pyramid")
    head_norm: Literal["none", "group", "batch"] = Field(
        "none", description="normalisation in pyramid, mask head and the box head's convolutions"
    )

    anchor_sizes: tuple[tuple[Positive, ...], ...] = Field(
        ((8, 16), (24, 32), (48, 64), (96, 128), (192, 256)),
        description="roots of the anchors' areas in network pixels, for each level",
    )
    anchor_ratios: tuple[Positive, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0), min_length=1, description="heights over widths of anchors"
    )
    anchors_rounded: bool = Field(
        True,
        description="sides and steps of anchors in whole pixels, as in torchvision; false: as they "
        "are, as in detectron2 and MMDetection",
    )
    rpn_convs: PositiveInt = Field(1, description="3×3 convolutions of the proposals' head")
    rpn_iou: tuple[Fraction, Fraction] = Field(
        (0.3, 0.7), description="anchors below are background, above are cells, between ignored"
    )
    rpn_samples: PositiveInt = Field(256, description="anchors an image that train the proposals")
    rpn_pre_nms: tuple[PositiveInt, PositiveInt] = Field(
        (2000, 2000), description="proposals a level before suppression: training, prediction"
    )
    rpn_post_nms: tuple[PositiveInt, PositiveInt] = Field(
        (2000, 2000), description="proposals an image after suppression: training, prediction"
    )
    rpn_nms: Fraction = Field(0.7, description="IoU from which a proposal suppresses another")

    aligned: bool = Field(
        True,
        description="pixel centres at half integers in pooling, targets and pasting; false is "
        "torchvision's older convention, for its weights and to compare with it",
    )
    roi_canonical: Positive = Field(
        224.0, description="boxes of this many network pixels are pooled from stride 16"
    )
    roi_sampling: int = Field(
        0, ge=0, description="samples a side in each pooled cell; 0: one a feature pixel"
    )
    roi_samples: PositiveInt = Field(512, description="proposals an image that train the heads")
    roi_positive: Fraction = Field(0.25, description="largest share of them that holds cells")
    box_head: Literal["single", "cascade"] = Field("single", description="one stage or three")
    box_dim: PositiveInt = Field(1024, description="width of the box head")
    box_convs: int = Field(
        0,
        ge=0,
        description="3×3 convolutions of the box head, before one fully connected layer; 0: none, "
        "and two such layers",
    )
    box_weights: tuple[tuple[Positive, Positive, Positive, Positive], ...] | None = Field(
        None,
        description="what box deltas (x, y, w, h) are multiplied with, for each stage; none: "
        "10 10 5 5, in a cascade then 20 20 10 10 and 30 30 15 15",
    )
    cascade_mean: Literal["probabilities", "logits"] = Field(
        "probabilities",
        description="what a cascade's stages average to scores; logits in MMDetection",
    )
    class_agnostic_boxes: bool = Field(
        False, description="one box for all classes; always so in a cascade"
    )

    mask_head: Literal["conv", "point"] = Field("conv", description="convolutions, or PointRend")
    mask_size: Literal[14, 28, 56, 112, 224] = Field(
        28, description="side of the masks: 14 to 56 for conv, 28 to 224 for point"
    )
    mask_dim: PositiveInt = Field(256, description="width of the mask head")
    mask_layers: PositiveInt = Field(4, description="3×3 convolutions of the conv mask head")
    mask_heads: Literal["one", "stages"] = Field(
        "one", description="a cascade's mask heads: one, or one for each stage, averaged"
    )
    class_agnostic_masks: bool = Field(False, description="one mask for all classes")
    point_coarse: Literal["regions", "points"] = Field(
        "regions",
        description="a point head's coarse mask is made of pooled regions of all levels, or of "
        "points of the finest, as in detectron2 and MMDetection",
    )
    point_edge: Literal["border", "zeros"] = Field(
        "border",
        description="what a point head reads beyond outermost pixels: those again, or zeros, as "
        "in detectron2 and MMDetection",
    )
    mask_scoring: bool = Field(
        False, description="multiply scores with a learned guess of the mask's IoU"
    )
    mask_iou_limits: bool = Field(
        True, description="keep the guessed IoU within 0 and 1; MMDetection does not"
    )
    scoring_dim: PositiveInt = Field(1024, description="width of the scoring head")

    score_floor: Fraction = Field(0.01, description="raw predictions score more than this")
    box_nms: Fraction = Field(0.5, description="IoU from which a box suppresses another")
    nms_across_classes: bool = Field(
        True, description="suppress whatever the classes; false: each class on its own"
    )
    detections: PositiveInt = Field(1000, description="most raw predictions an image")

    @property
    def most_channels(self) -> int:
        """As many as one likes."""
        return MANY

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.norm == "frozen" and (
            self.pretrained == "none" or (self.pretrained == "auto" and self.backbone != BUNDLED)
        ):
            raise ValueError(
                f"norm: frozen needs pretrained weights, and {self.backbone} starts from random "
                "ones here; set norm: batch, or pretrained: imagenet or a file"
            )
        allowed = (2, 4, 8, 16, 32)
        if not any(
            self.strides == allowed[i:j] for i in range(5) for j in range(i + 1, 6) if j - i > 1
        ):
            raise ValueError(
                f"strides {list(self.strides)}: take two or more neighbours of {list(allowed)}"
            )
        stages = 3 if self.box_head == "cascade" else 1
        if self.box_weights is not None and len(self.box_weights) != stages:
            raise ValueError(f"box_weights: {len(self.box_weights)} lists for {stages} stages")
        if self.mask_heads == "stages" and (stages == 1 or self.mask_head != "conv"):
            raise ValueError("mask_heads: stages is for a cascade with mask_head: conv")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)}: the input is divided by it; give what is > 0")
        levels = len(self.strides) + self.pool_level
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes: {len(self.anchor_sizes)} lists for {levels} levels; give one for "
                "each stride and one for the pool_level"
            )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1 or not self.anchor_sizes[0]:
            raise ValueError("anchor_sizes: every level needs as many sizes (they share one head)")
        if self.rpn_iou[0] > self.rpn_iou[1]:
            raise ValueError(f"rpn_iou {list(self.rpn_iou)}: the lower limit comes first")
        sides = (14, 28, 56) if self.mask_head == "conv" else (28, 56, 112, 224)
        if self.mask_size not in sides:
            raise ValueError(
                f"mask_size {self.mask_size}: a {self.mask_head} mask head makes {sides}"
            )
        return self
