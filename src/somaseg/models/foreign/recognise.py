"""Tell by the names of tensors what library a file is of, and what it is if it cannot be taken."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from somaseg.errors import SomasegError

LIBRARIES = ("torchvision", "detectron2", "mmdet", "cellpose", "smp", "encoder")
"""What is read, as `--from` says it."""

_KINDS = (
    ("cellpose", r"downsample\.down\..+|W2|encoder\.cls_token"),
    ("detectron2", r"backbone\.bottom_up\..+|proposal_generator\..+"),
    (
        "mmdet",
        r"neck\..+|rpn_head\..+|roi_head\..+|bbox_head\..+|mask_head\..+|data_preprocessor\..+",
    ),
    ("torchvision", r"backbone\.(body|fpn)\..+|roi_heads\..+"),
    ("smp", r"segmentation_head\..+"),
    ("encoder", r"(conv1|conv_stem|stem\.\w+|patch_embed\.proj)\.weight|features\.0\.0?\.?weight"),
)
"""The first of these whose pattern a tensor's name matches, after a common prefix is off."""

_PREFIX = re.compile(r"(module|_orig_mod|model|net|network|student|ema_model|pl_module)\.(.+)")
"""What wrappers (DistributedDataParallel, compile, Lightning modules) put before all names."""

FOREIGN = (
    (r"model\.\d+\.(conv|cv\d|m|bn)\b.*|bbox_head\.multi_level_.+", "a YOLO"),
    (r".*\.conv_offset(_mask)?\..+|.*\.conv2_offset\..+", "with deformable convolutions (DCN)"),
    (r"roi_head\.semantic_head\..+|semantic_head\..+", "a Hybrid Task Cascade (HTC)"),
    (r"neck\.rfp.+|backbone\..*\.(sac|rfp_conv).*", "a DetectoRS"),
    (r"roi_head\..*dynamic_conv.*|.*\.dynamic_layer\..+", "a QueryInst or Sparse R-CNN"),
    (r"sem_seg_head\..+|panoptic_head\..+|.*query_embed.*|.*query_feat.*", "a Mask2Former or DETR"),
    (r"mask_head\.(solo|kernel|conv_kernel|kernel_convs).*|.*\.ins_convs.*", "a SOLO or CondInst"),
    (
        r"head\.cls_subnet\..+|bbox_head\.(cls_convs|retina_cls|fcos_cls).*",
        "a detector of one stage",
    ),
    (r"roi_heads\.res5\..+|roi_head\.shared_head\..+", "with a C4 or DC5 head, without a pyramid"),
    (
        r"backbone\.(bottom_up\.)?(net\.)?(patch_embed|pos_embed|blocks|stages\.\d\.blocks).*",
        "on a transformer (Swin, ViT)",
    ),
    (r"backbone\.(stage\d|transition\d|hrnet).*", "on an HRNet"),
    (
        r".*\bgn\d?\.weight|backbone\.fpn_\w+\d\.norm\.weight|.*\.mask_fcn\d\.norm\.weight"
        r"|neck\.\w+_convs\.\d\.(gn|bn)\.weight",
        "with group or synchronised normalisation in its heads",
    ),
    (
        r"backbone\.stem\.(0|1|3)\.weight|backbone\.stem\.conv1\.weight",
        "on a ResNet with a deep stem",
    ),
    (r"roi_heads\.keypoint.+|keypoint_head\..+", "of keypoints"),
)
"""Architectures that have no place here: what names of tensors tell, and what they are."""


def recognise(tensors: Mapping[str, Tensor], where: str) -> tuple[str, dict[str, Tensor]]:
    """Find what a file is of, and take a wrapper's prefix off its tensors.

    Returns:
        one of :data:`LIBRARIES`, and the tensors.

    Raises:
        SomasegError: none of them; the message says what it is, as far as that can be told.
    """
    known = dict(tensors)
    for _ in range(3):
        for kind, pattern in _KINDS:
            if any(re.fullmatch(pattern, name) for name in known):
                return kind, known
        if why := foreign_architecture(known):
            raise SomasegError(f"{where}: {refusal(why)}")
        bare = {found[2]: t for name, t in known.items() if (found := _PREFIX.fullmatch(name))}
        if not bare:
            break
        known = bare
    some = ", ".join(list(tensors)[:3]) or "none"
    raise SomasegError(
        f"{where}: of no library that somaseg knows ({', '.join(LIBRARIES)}); its tensors are "
        f"called {some}, …; predict there, and join its COCO results here (docs/model_files.md)"
    )


def foreign_architecture(names: Iterable[str]) -> str | None:
    """Say what a file is whose architecture has no place here; none if nothing tells."""
    names = list(names)
    for pattern, what in FOREIGN:
        if any(re.fullmatch(pattern, name) for name in names):
            return what
    return None


def refusal(what: str) -> str:
    """Say that an architecture is not read, and what can be done."""
    subject = what if what.startswith("a ") else f"a model {what}"
    return (
        f"{subject}, which has no place in somaseg's networks; predict with it where it runs, "
        "write COCO results, and join them here: `somaseg ensemble` (docs/model_files.md)"
    )
