"""Pictures of instances over their image: thin outlines, errors in colour, contact sheets.

Colours are those of Okabe and Ito (2008, "Color Universal Design"): they stay apart for people
with any of the common kinds of colour blindness.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numba
import numpy as np
import numpy.typing as npt

from somaseg.data.composite import composite
from somaseg.data.images import normalise, to_gray
from somaseg.errors import SomasegError
from somaseg.files import atomic_path
from somaseg.instances import Instances
from somaseg.scoring import Overlaps

RGB = npt.NDArray[np.uint8]

SKY, ORANGE, GREEN, YELLOW = (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)
VERMILION, BLUE, PURPLE, WHITE = (213, 94, 0), (0, 114, 178), (204, 121, 167), (245, 245, 245)
CLASS_COLOURS = (SKY, ORANGE, GREEN, YELLOW, PURPLE, VERMILION, BLUE)
HIT, MISSED, SPURIOUS = SKY, VERMILION, YELLOW

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_STRIP = 20  # height of a line of text, pixels
_PAPER, _INK = 255, (30, 30, 30)


def overlay(
    image: npt.NDArray[Any],
    instances: Instances,
    *,
    color_by: Literal["class", "instance"] = "class",
    fill: float = 0.0,
    scale: int = 1,
) -> RGB:
    """Draw the outline of each instance, one pixel wide and inside it, over the image.

    Small instances are drawn last, so that none hides under a larger one. Soft masks are cut at
    one half.

    Args:
        image: (h, w) or (h, w, 3), any number type, shown as by :func:`to_rgb`.
        instances: of this image.
        color_by: ``class``: one colour a class (by the order of the names; white if unknown);
            ``instance``: neighbouring rows in well-separated colours.
        fill: opacity of the inside, 0 … 1.
        scale: enlarge the image by this whole number; outlines stay one pixel wide.

    Returns:
        uint8 (h · scale, w · scale, 3), red green blue.

    Raises:
        SomasegError: image and instances differ in size, or a setting is out of its range.
    """
    if color_by not in ("class", "instance"):
        raise SomasegError(f"color_by={color_by!r}: choose class or instance")
    colours = class_colours(instances) if color_by == "class" else distinct(len(instances))
    return paint(image, instances, colours, fill=fill, scale=scale)


def side_by_side(
    image: npt.NDArray[Any],
    truth: Instances,
    prediction: Instances,
    *,
    iou: int = 50,
    scale: int = 1,
) -> RGB:
    """Put truth (left) beside prediction (right), coloured by what was found.

    Sky blue: found (a truth and its prediction, matched one to one as the metric does);
    vermilion: truths that were missed; yellow: predictions of nothing. A line of text above gives
    their numbers.

    Args:
        image: as for :func:`overlay`.
        truth, prediction: instances of this image; soft masks are cut at one half.
        iou: a match has an IoU above this, in percent.
        scale: as for :func:`overlay`.

    Returns:
        uint8 (h · scale + 20, 2 · w · scale + 4, 3).

    Raises:
        SomasegError: the sizes differ.
    """
    found, correct = _matched(truth, prediction, iou)
    left = paint(image, truth, _choose(found, HIT, MISSED), scale=scale)
    right = paint(image, prediction, _choose(correct, HIT, SPURIOUS), scale=scale)
    missed, spurious = int((~found).sum()), int((~correct).sum())
    return np.concatenate(
        [
            _captioned(left, [(f"truth: {found.sum()} found", BLUE), (f"{missed} missed", MISSED)]),
            np.full((left.shape[0] + _STRIP, 4, 3), _PAPER, np.uint8),
            _captioned(
                right,
                [(f"predicted: {correct.sum()} right", BLUE), (f"{spurious} spurious", ORANGE)],
            ),
        ],
        axis=1,
    )


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    gap: int = 4,
) -> RGB:
    """Lay pictures out in rows on white paper, each with its caption above.

    Args:
        images: uint8 (h, w) or (h, w, 3), sizes may differ; each gets a cell of the largest size.
        captions: one for each image, or none at all. Too long ones are set smaller.
        columns: number in a row; by default about as many as rows.
        gap: white pixels between the cells.

    Raises:
        SomasegError: no image, or not one caption for each.
    """
    if not images:
        raise SomasegError("a contact sheet needs at least one image")
    if captions and len(captions) != len(images):
        raise SomasegError(f"{len(captions)} captions for {len(images)} images; give one for each")
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    pictures = [image if image.ndim == 3 else _three(image) for image in images]
    if captions:
        pictures = [
            _captioned(picture, [(caption, _INK)])
            for picture, caption in zip(pictures, captions, strict=True)
        ]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), _PAPER, np.uint8
    )
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def write_png(path: str | Path, rgb: npt.NDArray[np.uint8]) -> None:
    """Write uint8 (h, w, 3) red green blue, or (h, w) gray, as PNG; whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(rgb))


def png_bytes(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 (h, w, 3) red green blue, or (h, w) gray, as PNG.

    Raises:
        SomasegError: the array is not such a picture.
    """
    shape_fits = rgb.ndim == 2 or (rgb.ndim == 3 and rgb.shape[2] == 3)
    if rgb.dtype != np.uint8 or rgb.size == 0 or not shape_fits:
        raise SomasegError(
            f"an array of shape {rgb.shape} and type {rgb.dtype} is no picture; "
            "give uint8 (h, w) or (h, w, 3)"
        )
    return cv2.imencode(".png", rgb if rgb.ndim == 2 else rgb[..., ::-1])[1].tobytes()


def to_rgb(image: npt.NDArray[Any]) -> RGB:
    """Make any micrograph showable: uint8 (h, w, 3), a copy.

    8-bit values stay as they are, unless the image is gray and dark (nearly all of it below half
    of the range, as fluorescence often is). That, and any other number type, is stretched from
    its 1st to its 99th percentile (dark images to the 99.9th). Channels other than three are shown
    by :func:`somaseg.data.composite.composite`.
    """
    if image.ndim == 3 and image.shape[2] != 3:
        return composite(image)
    if image.dtype != np.uint8:
        return _stretched(to_gray(image), 99)
    if image.ndim == 3:
        return image.copy()
    if np.count_nonzero(image > 127) < 0.001 * image.size:
        return _stretched(to_gray(image), 99.9)
    return _three(image)


def _stretched(gray: npt.NDArray[np.float32], high: float) -> RGB:
    values = np.round(normalise(gray, high=high) * 255)
    return _three(np.clip(values, 0, 255).astype(np.uint8))


def _three(gray: npt.NDArray[np.uint8]) -> RGB:
    return np.repeat(gray[..., None], 3, axis=2)


def class_colours(instances: Instances) -> RGB:
    """Give each instance the colour of its class, (n, 3); white where the class is unknown."""
    n = max(1, len(instances.names))
    table = [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(n)]
    return np.array([*table, WHITE], np.uint8)[instances.classes]  # class -1 is the last row


def distinct(n: int) -> RGB:
    """Give n colours (n, 3) of which neighbours differ much: hues a golden section apart."""
    hue = np.arange(n) * 0.61803398875 % 1.0
    hsv = np.stack([hue * 180, np.full(n, 190), np.full(n, 255)], axis=1).astype(np.uint8)
    if n == 0:
        return hsv
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0], np.uint8)


def paint(
    image: npt.NDArray[Any],
    instances: Instances,
    colours: npt.NDArray[np.uint8],
    *,
    fill: float = 0.0,
    scale: int = 1,
) -> RGB:
    """Draw each instance in its own colour (n, 3); else as :func:`overlay`."""
    if image.shape[:2] != instances.size:
        raise SomasegError(
            f"the image is {image.shape[0]} × {image.shape[1]}, its instances lie on "
            f"{instances.size[0]} × {instances.size[1]}; give the instances of this image"
        )
    if not 0 <= fill <= 1 or scale < 1:
        raise SomasegError(f"fill={fill}, scale={scale}: fill lies in 0 … 1, scale is 1 or more")
    canvas = to_rgb(image)
    if scale > 1:
        larger = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        canvas = np.asarray(larger, np.uint8)
    order = instances.order("largest_first")
    colours = np.array(colours, np.uint8, order="C")
    cut = np.uint8(instances.cut)
    if fill > 0:
        _fill(canvas, *instances.flat, order, colours, cut, scale, np.float32(fill))
    _outline(canvas, *instances.flat, order, colours, cut, scale)
    return canvas


@numba.njit(cache=True, nogil=True)
def _fill(canvas, boxes, pixels, offsets, order, colours, cut, scale, alpha):  # type: ignore[no-untyped-def]
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        at = offsets[i]
        for y in range(y0, y1):
            for x in range(x0, x1):
                if pixels[at] >= cut:
                    for row in range(y * scale, (y + 1) * scale):
                        for column in range(x * scale, (x + 1) * scale):
                            for c in range(3):
                                old = np.float32(canvas[row, column, c])
                                new = old + alpha * (np.float32(colours[i, c]) - old)
                                canvas[row, column, c] = np.uint8(new + np.float32(0.5))
                at += 1


@numba.njit(cache=True, nogil=True)
def _outline(canvas, boxes, pixels, offsets, order, colours, cut, scale):  # type: ignore[no-untyped-def]
    """Colour the pixels of the enlarged picture that have a 4-neighbour outside the instance."""
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        width = x1 - x0
        at = offsets[i]
        for y in range(y0, y1):
            for x in range(x0, x1):
                if pixels[at] >= cut:
                    up = y == y0 or pixels[at - width] < cut
                    down = y == y1 - 1 or pixels[at + width] < cut
                    left = x == x0 or pixels[at - 1] < cut
                    right = x == x1 - 1 or pixels[at + 1] < cut
                    if up or down or left or right:
                        for dy in range(scale):
                            for dx in range(scale):
                                if (
                                    (up and dy == 0)
                                    or (down and dy == scale - 1)
                                    or (left and dx == 0)
                                    or (right and dx == scale - 1)
                                ):
                                    for c in range(3):
                                        canvas[y * scale + dy, x * scale + dx, c] = colours[i, c]
                at += 1


def _matched(
    truth: Instances, prediction: Instances, iou: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which truths have a prediction, and which predictions a truth."""
    # Made hard here, because rows that turn out empty must keep their place.
    truth, prediction = truth.binary(keep_empty=True), prediction.binary(keep_empty=True)
    partner = Overlaps.between(truth, prediction).matches((iou,))[0]
    found = partner >= 0
    correct = np.zeros(len(prediction), np.bool_)
    correct[partner[found]] = True
    return found, correct


def _choose(
    mask: npt.NDArray[np.bool_], yes: tuple[int, int, int], no: tuple[int, int, int]
) -> RGB:
    return np.where(mask[:, None], yes, no).astype(np.uint8)


def _captioned(picture: RGB, parts: Sequence[tuple[str, tuple[int, int, int]]]) -> RGB:
    """Put a line of text above a picture, each part in its colour, made to fit."""
    strip = np.full((_STRIP, picture.shape[1], 3), _PAPER, np.uint8)
    text = "   ".join(part for part, _ in parts)
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.42, 1)
    size = 0.42 * min(1.0, (picture.shape[1] - 6) / max(width, 1))
    x = 3
    for part, colour in parts:
        cv2.putText(strip, part, (x, _STRIP - 6), _FONT, size, colour, 1, cv2.LINE_AA)
        x += cv2.getTextSize(part + "   ", _FONT, size, 1)[0][0]
    return np.concatenate([strip, picture])
