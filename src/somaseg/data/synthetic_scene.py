"""Draw one synthetic micrograph: cells, what is not a cell, and the optics.

The optics are those of a phase-contrast microscope in short: cells are drawn as a map of optical
thickness, and the image is gray minus that map with its own blur taken away. A thin dark rim, a
bright halo around it and an interior that fades back to the gray of the background ("shade-off")
follow by themselves, so that no threshold finds the cells.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

GRAY = 128.0
INSET = np.float32(0.7)  # pixels from the mask's border to where the body begins
CORNERS = 48  # of the polygon that a cell is drawn from
SMALLEST_AREA = 30  # pixels of a cell that the image's edge must leave for it to be annotated


@dataclass(frozen=True)
class Look:
    """What sets one kind apart. Lengths in pixels; ranges are uniform unless said otherwise."""

    density: float  # cells per 100,000 pixels
    area: float  # median, of a log-normal distribution
    area_spread: float  # its sigma
    stretch: tuple[float, float]  # long axis over short axis
    tips: tuple[int, int]  # pointed corners
    reach: tuple[float, float]  # how far a tip stands out, in radii
    bend: float  # largest sagitta of the bent long axis, in radii
    clump: float  # share of cells that are put beside another one
    overlap: tuple[float, float]  # largest shared part of the smaller cell: usual, and one in four
    thickness: tuple[float, float]  # optical thickness (gray levels before the optics)
    bold: float  # share of cells that are 2.5 times as thick
    grain: float  # strength of the texture inside cells (gray levels)
    neurites: tuple[int, int]  # processes that leave a cell
    neurite_length: tuple[float, float]
    fibre: float  # optical thickness of processes
    strays: float  # processes without a cell, per 100,000 pixels
    specks: float  # dark dots with a bright ring, per 100,000 pixels
    noise: float  # gray levels


class Scene:
    """One image in the making: optical thickness, texture and the cells drawn so far."""

    def __init__(self, look: Look, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.look = look
        self.size = size
        self.rng = rng
        self.scale = size[0] * size[1] / 1e5
        self.thickness: Float = np.zeros(size, np.float32)
        self.grain: Float = np.zeros(size, np.float32)
        self.specks: Float = np.zeros(size, np.float32)
        # Processes: x, y, heading, length, and whether a cell of the image owns it.
        self.fibres: list[tuple[float, float, float, float, bool]] = []
        self.owner: npt.NDArray[np.int32] = np.zeros(size, np.int32)  # last cell drawn, plus one
        self.boxes: list[tuple[int, int, int, int]] = []
        self.crops: list[Image] = []
        self.areas: list[int] = []
        self.centres: list[tuple[float, float, float]] = []  # x, y, radius

    # Cells.

    def add_cells(self) -> None:
        """Put cells until the wanted number is there or the image takes no more."""
        wanted = max(1, round(self.look.density * self.scale * self.rng.uniform(0.75, 1.25)))
        batch = max(wanted, 8)
        for _ in range(12):
            radii, outlines, tips = self._outlines(batch)
            luck = self.rng.random((batch, 8)).tolist()
            for radius, outline, tip, chance in zip(radii, outlines, tips, luck, strict=True):
                self._try_cell(radius, outline, tip, chance)
                if len(self.crops) == wanted:
                    return

    def _try_cell(self, radius: float, outline: Float, tips: Float, chance: list[float]) -> None:
        x, y = self._place(radius, *chance[:4])
        # Cells overlap at their edges, not at their centres: to look first saves most fillings.
        near = radius / 3
        if self._owned(x, y) or self._owned(x - near, y - near) or self._owned(x + near, y + near):
            return
        drawn = _fill(outline, x, y, self.size)
        if drawn is None:
            return
        (x0, y0, x1, y1), crop = drawn
        inside = crop.view(bool)
        visible = int(np.count_nonzero(inside))
        if visible < SMALLEST_AREA:
            return
        owner = self.owner[y0:y1, x0:x1]
        limit = self.look.overlap[int(chance[4] < 0.25)]
        shared = np.bincount((owner * crop).ravel())
        for under in np.flatnonzero(shared[1:]).tolist():
            if shared[1 + under] > limit * min(self.areas[under], visible):
                return
        self._draw_cell((x0, y0, x1, y1), crop, (x, y), radius, chance[5:])
        self._add_neurites(x, y, tips)
        self.boxes.append((x0, y0, x1, y1))
        self.crops.append(crop)
        self.areas.append(visible)
        self.centres.append((x, y, radius))
        np.copyto(owner, len(self.crops), where=inside)

    def _owned(self, x: float, y: float) -> bool:
        """Whether the pixel, or the one nearest to it in the image, belongs to a cell."""
        height, width = self.size
        row, column = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        return bool(self.owner[row, column])

    def _place(
        self, radius: float, choice: float, other: float, where: float, where_else: float
    ) -> tuple[float, float]:
        """Choose a centre, beside another cell or anywhere, from four numbers in [0, 1)."""
        if self.centres and choice < self.look.clump:
            x, y, neighbour = self.centres[int(other * len(self.centres))]
            angle = 2 * math.pi * where
            away = (radius + neighbour) * (0.75 + 0.4 * where_else)
            return x + away * math.cos(angle), y + away * math.sin(angle)
        height, width = self.size  # a centre may lie a little outside
        return (
            where * (width + radius) - radius / 2,
            where_else * (height + radius) - radius / 2,
        )

    def _outlines(self, n: int) -> tuple[list[float], Float, Float]:
        """Draw n cells around the origin: mean radii, outlines (n, CORNERS, 2) and tips (n, k, 2).

        A cell with fewer than k tips has NaN for the rest.
        """
        look, rng = self.look, self.rng
        areas = look.area * np.exp(look.area_spread * np.clip(rng.normal(size=n), -2, 2))
        angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False, dtype=np.float32)
        cosine, sine = np.cos(angle), np.sin(angle)

        def draw(low: float, high: float, columns: int = 1) -> Float:
            return rng.uniform(low, high, (n, columns)).astype(np.float32)

        radius = np.ones((n, CORNERS), np.float32)
        for order in (2, 3, 4, 5):
            size = rng.normal(0, 0.09 / order, (n, 1)).astype(np.float32)
            radius += size * np.cos(order * angle + draw(0, 2 * np.pi))
        most = look.tips[1]
        count = rng.integers(look.tips[0], most + 1, n)[:, None]
        slot = np.arange(most)
        at = draw(0, 2 * np.pi) + 2 * np.pi * slot / count + rng.normal(0, 0.35, (n, most))
        at = at.astype(np.float32)
        reach = draw(*look.reach, most) * (slot < count)
        sharpness = draw(6, 30, most)
        for k in range(most):
            tip, sharp = at[:, k : k + 1], sharpness[:, k : k + 1]
            radius += reach[:, k : k + 1] * np.exp(sharp * (np.cos(angle - tip) - 1))
        stretch = np.sqrt(draw(*look.stretch))
        x = radius * cosine * stretch
        y = radius * sine / stretch
        # A bent long axis: most real cells are not star-shaped. The map is one to one, so the
        # outline still does not cross itself.
        y += look.bend * draw(-0.5, 0.5) * (x / stretch) ** 2
        exact = 0.5 * np.abs(np.sum(x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1), 1))
        scale = np.sqrt(areas / exact)[:, None]
        turn = draw(0, 2 * np.pi)
        outlines = np.empty((n, CORNERS, 2), np.float32)
        outlines[..., 0] = scale * (x * np.cos(turn) - y * np.sin(turn))
        outlines[..., 1] = scale * (x * np.sin(turn) + y * np.cos(turn))
        nearest = np.round(at / (2 * np.pi) * CORNERS).astype(int) % CORNERS
        tips = np.take_along_axis(outlines, nearest[..., None], axis=1)
        tips[slot >= count] = np.nan
        return np.sqrt(areas / np.pi).tolist(), outlines, tips

    def _draw_cell(
        self,
        box: tuple[int, int, int, int],
        crop: Image,
        centre: tuple[float, float],
        radius: float,
        chance: list[float],
    ) -> None:
        look = self.look
        x0, y0, x1, y1 = box
        low, high = look.thickness
        thick = (low + (high - low) * chance[0]) * (2.5 if chance[1] < look.bold else 1.0)
        depth = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
        # Annotators draw along the halo: the body begins a little inside the mask.
        height = 1 - np.exp(np.minimum(INSET - depth, 0) / np.float32(1.3))
        # A nucleus: a low mound, grainier than the rest.
        column = (np.arange(x0, x1, dtype=np.float32) - centre[0]) / (0.42 * radius)
        row = (np.arange(y0, y1, dtype=np.float32) - centre[1]) / (0.42 * radius)
        nucleus = np.exp(-(row**2))[:, None] * np.exp(-(column**2)) * crop
        self.thickness[y0:y1, x0:x1] += thick * (height + 0.35 * nucleus)
        grain = look.grain * (0.5 + chance[2])
        self.grain[y0:y1, x0:x1] += grain * height * (0.4 + 1.2 * nucleus)

    # What is not a cell.

    def _add_neurites(self, x: float, y: float, tips: Float) -> None:
        """Note the processes of a cell: from its tips first, then from its centre."""
        look, rng = self.look, self.rng
        starts = [
            (tx + x, ty + y, math.atan2(ty, tx)) for tx, ty in tips.tolist() if math.isfinite(tx)
        ]
        n = int(rng.integers(look.neurites[0], look.neurites[1] + 1))
        starts += [(x, y, heading) for heading in rng.uniform(0, 2 * math.pi, n).tolist()]
        self.fibres.extend(
            (*start, float(rng.uniform(*look.neurite_length)), True) for start in starts[:n]
        )

    def add_strays(self) -> None:
        """Note thin processes whose cells lie elsewhere."""
        height, width = self.size
        n = round(self.look.strays * self.scale)
        places = self.rng.uniform(0, (width, height, 2 * math.pi), (n, 3)).tolist()
        lengths = self.rng.uniform(20, 160, n).tolist()
        self.fibres.extend(
            (*place, length, False) for place, length in zip(places, lengths, strict=True)
        )

    def draw_fibres(self) -> Float:
        """Draw all processes as walks with a slowly turning heading; thickness (height, width)."""
        canvas = np.zeros(self.size, np.uint8)
        if not self.fibres:
            return canvas.astype(np.float32)
        start = np.array([fibre[:2] for fibre in self.fibres])
        steps = np.array([max(2, int(fibre[3] / 5)) for fibre in self.fibres])
        turns = self.rng.normal(0, 0.12, (len(start), int(steps.max())))
        headings = np.array([[fibre[2]] for fibre in self.fibres]) + np.cumsum(turns, axis=1)
        moves = 5 * np.stack([np.cos(headings), np.sin(headings)], axis=2)
        paths = np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, axis=1)], axis=1)
        eighths = np.round(paths * 8).astype(np.int32)  # OpenCV draws in fractions of a pixel
        luck = self.rng.random((len(start), 2)).tolist()
        for path, n, fibre, (shade, root) in zip(eighths, steps, self.fibres, luck, strict=True):
            of_cell = fibre[4]
            colour = 60 + 170 * shade if of_cell else 30 + 110 * shade
            cv2.polylines(canvas, [path[: n + 1]], False, colour, 1, cv2.LINE_AA, 3)
            if of_cell and root < 0.4:
                cv2.polylines(canvas, [path[:4]], False, colour, 2, cv2.LINE_AA, 3)
        return canvas.astype(np.float32) * np.float32(self.look.fibre / 255)

    def add_specks(self) -> None:
        """Draw debris: small and thick, hence black with a bright ring."""
        height, width = self.size
        for sigma in (0.9, 1.5):
            n = self.rng.poisson(self.look.specks * self.scale / 2)
            dots = np.zeros(self.size, np.float32)
            y, x = self.rng.integers(0, height, n), self.rng.integers(0, width, n)
            dots[y, x] = self.rng.uniform(60, 320, n)
            for width_factor, weight in ((1.0, 1.0), (1.8, -0.62)):
                wide = sigma * width_factor
                peak = np.float32(weight * 2 * np.pi * wide**2)
                self.specks += peak * _blur(dots, wide)

    # The picture.

    def develop(self) -> Image:
        """Look at the scene through phase contrast and a camera: uint8 (height, width)."""
        rng, shape = self.rng, self.size
        thickness = _blur(self.thickness, 0.6)
        for sigma, share in ((1.7, 0.94), (5.0, 0.08)):
            thickness -= share * _blur(self.thickness, sigma)
        fibres = self.draw_fibres()
        fibres -= 0.8 * _blur(fibres, 1.6)
        white = rng.standard_normal(shape, dtype=np.float32)
        band = _blur(white, 0.8) - _blur(white, 2.0)
        band /= band.std()
        # Slow shading: a few random values, interpolated over the whole image.
        coarse = rng.normal(0, 2.0, (4, 5)).astype(np.float32)
        shading = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
        noise = _blur(white, 0.5)
        noise *= self.look.noise / noise.std()
        picture = GRAY - thickness - fibres - self.specks + self.grain * band + shading + noise
        return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _blur(image: Float, sigma: float) -> Float:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _fill(
    outline: Float, x: float, y: float, size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], Image] | None:
    """Fill a closed outline around (x, y): tight box and crop inside the image, in one piece.

    Nothing when no pixel lies in the image.
    """
    height, width = size
    left, top, columns, rows = cv2.boundingRect(outline)  # whole pixels around the points
    x0, y0 = max(0, math.floor(x) + left - 1), max(0, math.floor(y) + top - 1)
    x1 = min(width, math.ceil(x) + left + columns + 1)
    y1 = min(height, math.ceil(y) + top + rows + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    crop: Image = np.zeros((y1 - y0, x1 - x0), np.uint8)
    points = ((outline + np.array((x - x0, y - y0), np.float32)) * 16).astype(np.int32)
    cv2.fillPoly(crop, [points], 1, cv2.LINE_8, 4)  # coordinates in sixteenths of a pixel
    clipped = x0 == 0 or y0 == 0 or x1 == width or y1 == height
    if clipped:  # the image's edge can cut a bent cell in two: keep the larger part
        n, labels, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=8)
        if n > 2:
            crop = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
    left, top, columns, rows = cv2.boundingRect(crop)
    if columns == 0:
        return None
    box = (x0 + left, y0 + top, x0 + left + columns, y0 + top + rows)
    return box, np.ascontiguousarray(crop[top : top + rows, left : left + columns])
