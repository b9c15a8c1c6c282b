"""What a file of several planes holds, and which of them are images: one model for all formats.

A file has scenes (positions), and each scene the axes T (frames), Z (slices), C (channels), Y, X.
An image is one plane, or the maximum over Z. Pages that a file does not name (of plain TIFF) are
frames, unless a slice or a channel is asked for.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from somaseg.errors import SomasegError

MAX = "max"
"""The brightest value over an axis, pixel by pixel."""
MOST_PLANES = 1_000_000
"""Of a file: one that claims more is damaged."""

Place = int | Literal["max"]
RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Axes:
    """How many images a scene holds, and how large a pixel is.

    Attributes:
        frames: along T.
        slices: along Z.
        channels: along C; the colours of an RGB image are none.
        names: of the channels, as the file has them; may be empty, or fewer.
        unnamed: the file does not say what its pages are; they are counted as frames.
        pixel_size: side of a pixel in µm; none if the file does not say, or not soundly.
        doubt: why there is no pixel size though the file has one; else empty.
    """

    frames: int = 1
    slices: int = 1
    channels: int = 1
    names: tuple[str, ...] = ()
    unnamed: bool = False
    pixel_size: float | None = None
    doubt: str = ""

    @property
    def planes(self) -> int:
        """How many there are."""
        return self.frames * self.slices * self.channels

    def __str__(self) -> str:
        if self.unnamed:
            return f"pages {self.frames}"
        lengths = (("T", self.frames), ("Z", self.slices), ("C", self.channels))
        return ", ".join(f"{axis} {length}" for axis, length in lengths if length > 1)


@dataclass(frozen=True)
class Plane:
    """One image of a file that holds several; all numbers are from 0.

    Attributes:
        scene: position.
        frame: along T, or ``max``; several, where the pages of a plain TIFF are its channels.
        z: along Z, or ``max``.
        channel: along C, or a colour of an RGB image; none takes the only one, or all colours;
            several make an image of as many channels.
    """

    scene: int = 0
    frame: Place | tuple[int, ...] = 0
    z: Place = 0
    channel: int | tuple[int, ...] | None = None

    def parts(self) -> "list[Plane]":
        """The planes of one channel each, of which it is made; itself if it is one."""
        for axis in ("channel", "frame"):
            if isinstance(several := getattr(self, axis), tuple):
                return [replace(self, **{axis: one}) for one in several]
        return [self]

    @property
    def one(self) -> int | None:
        """Its channel, where it has not several."""
        assert not isinstance(self.channel, tuple)
        return self.channel

    def to_json(self) -> dict[str, Any]:
        """Return what tells it apart, for a file."""
        return {key: value for key, value in asdict(self).items() if value != getattr(WHOLE, key)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plane":
        """Make one of what :meth:`to_json` gave.

        Raises:
            SomasegError: something else.
        """
        known = {"scene": (), "frame": (MAX,), "z": (MAX,), "channel": ()}
        found: dict[str, Any] = {}
        for key, value in content.items():
            several = key in ("frame", "channel") and isinstance(value, list | tuple)
            numbers = value if several else [value]
            whole = all(type(number) is int and number >= 0 for number in numbers)
            if key not in known or not (whole or value in known[key]) or (several and not value):
                raise SomasegError(f"{key}: {value!r} is no plane of an image")
            found[key] = tuple(value) if several else value
        return cls(**found)

    def steps(self, axes: Axes) -> list[tuple[int, int]]:
        """(frame, slice) of the planes that it is the maximum of; mostly one."""
        assert not isinstance(self.frame, tuple)
        frames = range(axes.frames) if self.frame == MAX else [int(self.frame)]
        slices = range(axes.slices) if self.z == MAX else [int(self.z)]
        return list(product(frames, slices))


WHOLE = Plane()


@dataclass(frozen=True)
class Facts:
    """What the header of a container of planes says of a scene.

    Attributes:
        size: ``(height, width)``.
        colours: 3 if a plane is RGB, else 1.
        dtype: of the pixels as stored.
        axes: of the scene.
        scenes: how many there are.
    """

    size: tuple[int, int]
    colours: int
    dtype: str
    axes: Axes
    scenes: int = 1


@dataclass(frozen=True)
class Choice:
    """What of stacks is wanted.

    Attributes:
        channel: name, or number from 0.
        frame: number from 0; without, every frame is an image.
        z: number from 0, or ``max``; without, every slice is an image.
        channels: in the place of ``channel``; several make images of as many channels.
        of_model: the channels are those that a model knows, not asked for by the user: if it is
            one, an image of one channel without a name will do.
    """

    channel: str | None = None
    frame: int | None = None
    z: str | None = None
    channels: tuple[str, ...] = ()
    of_model: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The channels that are wanted, none for images of a single one."""
        return (self.channel,) if self.channel is not None else self.channels

    def __post_init__(self) -> None:
        if self.channel is not None and self.channels:
            raise SomasegError("--channel and --channels: give one of the two")
        if len(set(self.channels)) < len(self.channels) or "" in self.channels:
            raise SomasegError(f"--channels {','.join(self.channels)}: give different ones, as 0,1")
        if self.z is not None and self.z != MAX and not _is_number(self.z):
            raise SomasegError(f"--z {self.z}: give {MAX}, or the number of a slice, from 0")
        if self.frame is not None and self.frame < 0:
            raise SomasegError(f"--frame {self.frame}: give the number of a frame, from 0")


def choose(
    scenes: Sequence[Axes], colours: int, name: str, choice: Choice
) -> dict[str, Plane | None]:
    """Say which planes of a file are images.

    Args:
        scenes: the file's.
        colours: 3 if a plane is RGB, else 1.
        name: what the image is called that the file would be.
        choice: what is wanted.

    Returns:
        planes by image id: ``NAME``, with ``_s0`` where there are several scenes, ``_t000`` where
        there are several frames, ``_z00`` where there are several slices; no plane for a file that
        is one image.

    Raises:
        SomasegError: several channels and none chosen, or one chosen that is not there; for who
            knows the file to put its name in front.
    """
    found: dict[str, Plane | None] = {}
    for scene, axes in enumerate(scenes):
        axes, of_pages = _taken(axes, choice, colours)
        channel = _channels(axes, colours, choice)
        frames = _places(axes.frames, choice.frame, "frame")
        slices = _places(axes.slices, choice.z, "slice")
        for frame, z in product(frames, slices):
            parts = [name]
            if len(scenes) > 1:
                parts.append(f"s{scene}")
            if axes.frames > 1 and frame != MAX:
                parts.append(f"t{frame:0{max(3, len(str(axes.frames - 1)))}d}")
            if axes.slices > 1 and z != MAX:
                parts.append(f"z{z:0{max(2, len(str(axes.slices - 1)))}d}")
            plane = of_pages(Plane(scene, frame, z, channel))
            alone = len(scenes) == axes.planes == 1 and channel is None
            found["_".join(parts)] = None if alone else plane
    return found


_PARTS = re.compile(r"(?P<stem>.+?)(?:_s\d+)?(?:_t\d{3,})?(?:_z\d{2,})?$")


def without_plane(name: str) -> str:
    """Return what the file of an image of a stack is called: ``a`` of ``a_t003_z01``."""
    match = _PARTS.match(name)
    return match["stem"] if match else name


def from_letters(letters: str, lengths: Sequence[int]) -> tuple[Axes, str]:
    """Name the axes that lie before those of a plane.

    Args:
        letters: of the axes, as tifffile and bioio call them; ``I`` and ``Q`` are unnamed.
        lengths: of each.

    Returns:
        the axes, and their letters in the order of the file, unnamed ones as ``T``.

    Raises:
        SomasegError: an axis that is none of T, Z and C, or one that comes twice.
    """
    long = [(letter, int(n)) for letter, n in zip(letters, lengths, strict=True) if n > 1]
    unnamed = len(long) == 1 and long[0][0] in "IQ"
    named = [("T" if unnamed else letter, n) for letter, n in long]
    counts = {"T": 1, "Z": 1, "C": 1} | dict(named)
    if len(counts) > 3 or len({letter for letter, _ in named}) < len(named):
        listed = ", ".join(f"{letter} {n}" for letter, n in long)
        raise SomasegError(
            f"mixed axes ({listed}); somaseg reads T, Z and C: save it with these alone"
        )
    if math.prod(counts.values()) > MOST_PLANES:
        raise SomasegError(f"claims more than {MOST_PLANES} planes; copy the file again")
    axes = Axes(counts["T"], counts["Z"], counts["C"], unnamed=unnamed)
    return axes, "".join(letter for letter, _ in named)


def _taken(axes: Axes, choice: Choice, colours: int) -> tuple[Axes, Any]:
    """Axes as they are taken, and the way back to those of the file: pages are frames there."""
    of_pages = bool(choice.inputs) and colours == 1
    if choice.of_model:  # names cannot be those of pages without any
        of_pages &= all(map(_is_number, choice.inputs))
    if not axes.unnamed or (choice.z is None and not of_pages):
        return axes, lambda plane: plane
    if choice.z is not None:
        taken = replace(axes, frames=1, slices=axes.frames, unnamed=False)
        return taken, lambda plane: replace(plane, frame=plane.z, z=0)
    taken = replace(axes, frames=1, channels=axes.frames, unnamed=False)
    return taken, lambda plane: replace(plane, frame=plane.channel, channel=None)


def _channels(axes: Axes, colours: int, choice: Choice) -> int | tuple[int, ...] | None:
    wanted = choice.inputs
    nameless = axes.channels == colours == 1 and not axes.names
    if not wanted or (choice.of_model and len(wanted) == 1 and nameless):
        return _channel(axes, colours, None)
    try:
        places = [_channel(axes, colours, one) for one in wanted]
    except SomasegError as error:
        if not choice.of_model:
            raise
        raise SomasegError(
            f"{error}; the model looks at {', '.join(wanted)}: say what these are called here, in "
            f"that order, with --channel{'s' if len(wanted) > 1 else ''}"
        ) from error
    found = tuple(place or 0 for place in places)
    if len(set(found)) < len(found):
        raise SomasegError(f"channels {', '.join(wanted)}: two of them are the same")
    return found if len(found) > 1 else places[0]


def _channel(axes: Axes, colours: int, wanted: str | None) -> int | None:
    count = axes.channels if axes.channels > 1 else colours
    names = axes.names if axes.channels > 1 or colours == 1 else RGB
    listed = ", ".join(names) or f"0 to {count - 1}"
    if wanted is None:
        if axes.channels > 1:
            raise SomasegError(
                f"{axes.channels} channels ({listed}); choose one with --channel NAME or INDEX, "
                "from 0, or several for a model of several: --channels A,B"
            )
        return None
    if wanted in names:
        place = names.index(wanted)
    elif _is_number(wanted):
        place = int(wanted)
    else:
        place = count
    if place >= count:
        what = f"{count} ({listed})" if count > 1 else "one" + (f" ({listed})" if names else "")
        raise SomasegError(f"no channel {wanted!r}; it has {what}")
    return place if count > 1 else None


def _places(length: int, wanted: int | str | None, what: str) -> list[Any]:
    if wanted is None:
        return list(range(length))
    if wanted == MAX:
        return [MAX] if length > 1 else [0]
    if int(wanted) >= length:
        there = f"{what}s 0 to {length - 1} are there" if length > 1 else f"it has one {what}"
        raise SomasegError(f"no {what} {wanted}; {there}")
    return [int(wanted)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
