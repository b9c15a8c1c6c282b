"""Pixels as the file says, files that only look whole, and claims that no memory holds."""

import os
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from somaseg.data.faults import Faults
from somaseg.data.formats.images import read_images
from somaseg.data.images import image_header, list_images, read_image, read_labels
from somaseg.data.windows import map_image
from somaseg.errors import SomasegError
from tests.data.test_images import GRAY, RGB, encode

COMPRESSIONS = (None, "zlib", "lzw")


def write_tiff(path, image, compression, **more):
    """Write a TIFF; LZW by Pillow, because tifffile leaves it to another package."""
    if compression == "lzw":
        Image.fromarray(image).save(path, compression="tiff_lzw", **more)
    else:
        tifffile.imwrite(path, image, compression=compression, **more)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_inverted_tiffs_are_turned_back(tmp_path, compression, dtype):
    image = GRAY.astype(dtype)
    path = tmp_path / "a.tif"
    write_tiff(path, np.iinfo(dtype).max - image, compression, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path), image)
    np.testing.assert_array_equal(map_image(path), image)
    # Of a mask that ImageJ shows inverted the numbers themselves count.
    np.testing.assert_array_equal(read_labels(path), np.iinfo(dtype).max - image.astype(int))


def test_inverted_lzw_and_bilevel_tiffs(tmp_path):
    for name, mode in (("a.tif", "L"), ("b.tif", "1")):
        stored = Image.fromarray(GRAY).convert(mode)
        stored.save(tmp_path / name, compression="tiff_lzw", tiffinfo={262: 0})
        assert int(tifffile.TiffFile(tmp_path / name).pages.first.photometric) == 0
        shown = np.asarray(Image.open(tmp_path / name)).astype(np.uint8)
        np.testing.assert_array_equal(read_image(tmp_path / name), shown)


def palette_image():
    colours = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GRAY, "P")
    image.putpalette(colours.tobytes())
    return image, colours


@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "a.bmp"])
def test_palettes_are_colours_in_images_and_numbers_in_labels(tmp_path, name):
    image, colours = palette_image()
    image.save(tmp_path / name, compression="tiff_lzw" if name == "lzw.tif" else None)
    np.testing.assert_array_equal(read_image(tmp_path / name), colours[GRAY])
    np.testing.assert_array_equal(map_image(tmp_path / name), colours[GRAY])
    np.testing.assert_array_equal(read_labels(tmp_path / name), GRAY)
    header = image_header(tmp_path / name)
    assert (header.size, header.channels) == (GRAY.shape, 3)


def test_labels_of_few_bits_are_not_spread(tmp_path):
    labels = GRAY % 16
    image = Image.fromarray(labels, "P")
    image.putpalette(bytes(range(48)))
    image.save(tmp_path / "p.png", bits=4)
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png"), labels)
    rows = b"".join(
        b"\0" + bytes(int(a) << 4 | int(b) for a, b in zip(row[::2], row[1::2], strict=True))
        for row in labels[:, :16]
    )
    (tmp_path / "g.png").write_bytes(png(16, 13, 4, 0, rows))
    np.testing.assert_array_equal(read_labels(tmp_path / "g.png"), labels[:, :16])
    np.testing.assert_array_equal(read_image(tmp_path / "g.png"), labels[:, :16] * 17)


def test_gray_with_alpha_is_gray(tmp_path):
    alpha = np.full_like(GRAY, 100)
    Image.fromarray(np.dstack([GRAY, alpha]), "LA").save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([GRAY, alpha]), photometric="minisblack",
        planarconfig="contig", extrasamples=["unassalpha"],
    )  # fmt: skip
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), GRAY)
        assert image_header(tmp_path / name).channels == 1


@pytest.mark.parametrize("channels", [2, 4])
def test_a_second_channel_is_no_alpha(tmp_path, channels):
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([GRAY] * channels), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    assert image_header(tmp_path / "a.tif").axes.channels == channels
    for read in (read_image, map_image):
        with pytest.raises(SomasegError, match=rf"a\.tif: a stack of .*C {channels}"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("subifds", [True, False])
def test_smaller_copies_are_no_stack(tmp_path, subifds):
    image = np.random.default_rng(0).integers(0, 255, (256, 320), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(image, tile=(64, 64), subifds=2 if subifds else 0)
        for step in (2, 4):
            tiff.write(image[::step, ::step], tile=(64, 64), subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    assert image_header(tmp_path / "a.tif").size == image.shape
    with tifffile.TiffWriter(tmp_path / "b.tif") as tiff:
        tiff.write(image)
        tiff.write(image[:100])
    with pytest.raises(SomasegError, match="mixed axes: 2 images that are no stack"):
        read_image(tmp_path / "b.tif")


def test_orientation_is_told(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GRAY).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(GRAY).save(tmp_path / "b.png", exif=exif)
    tifffile.imwrite(tmp_path / "c.tif", GRAY, extratags=[(274, "H", 1, 8, True)])
    Image.fromarray(GRAY).save(tmp_path / "d.png")
    faults = Faults()
    reading = read_images(tmp_path, faults)
    assert [s.size for s in reading.dataset] == [GRAY.shape] * 4
    assert [(f.kind, f.image) for f in faults] == [("turned image", name) for name in "abc"]
    assert [image_header(p).orientation for p in list_images(tmp_path)] == [6, 6, 8, 1]
    assert not faults.errors


@pytest.mark.parametrize("suffix", [".bmp", ".webp"])
@pytest.mark.parametrize("image", [GRAY, RGB], ids=["gray", "rgb"])
def test_bmp_and_webp(tmp_path, suffix, image):
    Image.fromarray(image).save(tmp_path / f"a{suffix}", lossless=True)
    read = read_image(tmp_path / f"a{suffix}")
    shown = np.dstack([image] * 3) if read.ndim > image.ndim else image  # WebP has no gray
    np.testing.assert_array_equal(read, shown)
    assert image_header(tmp_path / f"a{suffix}").channels == (3 if read.ndim == 3 else 1)
    assert list_images(tmp_path) == [tmp_path / f"a{suffix}"]


@pytest.mark.parametrize("tag", [273, 279])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_strips_never_written_are_refused(tmp_path, tag, compression):
    image = np.random.default_rng(0).integers(0, 255, (64, 70), dtype=np.uint8)
    path = tmp_path / "a.tif"
    if compression == "lzw":
        Image.fromarray(image).save(path, compression="tiff_lzw", strip_size=70 * 8)
    else:
        tifffile.imwrite(path, image, compression=compression, rowsperstrip=8)
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages.first.tags[tag]
        place, count = found.valueoffset, found.count
        size = 2 if found.dtype.name == "SHORT" else 4
    assert count == 8
    np.testing.assert_array_equal(read_image(path), image)
    data = bytearray(path.read_bytes())
    data[place + 4 * size : place + 8 * size] = bytes(4 * size)
    path.write_bytes(data)
    for read in (read_image, read_labels, map_image, image_header):
        with pytest.raises(SomasegError, match=r"a\.tif: truncated or damaged .*never written"):
            read(path)


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
                                     [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])  # fmt: skip
@pytest.mark.parametrize("colour", [False, True])
def test_a_cut_jpeg_with_an_end_glued_on_is_refused(tmp_path, options, colour):
    image = np.random.default_rng(0).integers(0, 255, (60, 70, 3)[: 3 if colour else 2], np.uint8)
    whole = encode(tmp_path / "whole.jpg", image, *options).read_bytes()
    (tmp_path / "more.jpg").write_bytes(whole + bytes(5000))  # cameras append to the end
    np.testing.assert_array_equal(
        read_image(tmp_path / "more.jpg"), read_image(tmp_path / "whole.jpg")
    )
    start = whole.find(b"\xff\xda") + 20
    for cut in np.linspace(start, len(whole) - 12, 25).astype(int).tolist():
        (tmp_path / "cut.jpg").write_bytes(whole[:cut].rstrip(b"\xff") + b"\xff\xd9")
        with pytest.raises(SomasegError, match=r"cut\.jpg: truncated or damaged"):
            read_image(tmp_path / "cut.jpg")


def png(width, height, depth, colour, rows=b""):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_claims_are_checked_before_memory_is_taken(tmp_path, monkeypatch):
    (tmp_path / "tiny.png").write_bytes(png(16_000, 16_000, 8, 0))
    (tmp_path / "huge.png").write_bytes(png(65_000, 65_000, 8, 2))
    (tmp_path / "side.png").write_bytes(png(2**31 - 1, 2**31 - 1, 8, 2))
    (tmp_path / "none.png").write_bytes(png(0, 10, 8, 0))
    (tmp_path / "huge.jpg").write_bytes(
        encode(tmp_path / "a.jpg", GRAY).read_bytes().replace(
            struct.pack(">HH", *GRAY.shape), struct.pack(">HH", 65_000, 65_000)
        )
    )  # fmt: skip
    tifffile.memmap(tmp_path / "huge.tif", shape=(2000, 2000), dtype=np.uint8).flush()
    monkeypatch.setenv("SOMASEG_MAX_PIXELS", str(2**28))
    for read in (read_image, read_labels):
        for name, message in {
            "tiny.png": "16000×16000 pixels are not in",
            "huge.png": "claims 65000×65000 pixels, more than the 268435456 that are held",
            "side.png": "(claims|damaged)",
            "none.png": "(claims 0×10 pixels|damaged)",
            "huge.jpg": "claims 65000×65000 pixels",
        }.items():
            with pytest.raises(SomasegError, match=rf"{name}: .*{message}"):
                read(tmp_path / name)
    monkeypatch.setenv("SOMASEG_MAX_PIXELS", "1000000")
    with pytest.raises(SomasegError, match="or set SOMASEG_MAX_PIXELS if the memory is there"):
        read_image(tmp_path / "huge.tif")
    assert map_image(tmp_path / "huge.tif").shape == (2000, 2000)  # read by parts
    monkeypatch.setenv("SOMASEG_MAX_PIXELS", "4000000")
    assert read_image(tmp_path / "huge.tif").shape == (2000, 2000)
    monkeypatch.setenv("SOMASEG_MAX_PIXELS", "many")
    with pytest.raises(SomasegError, match="SOMASEG_MAX_PIXELS='many': give a whole number"):
        read_image(tmp_path / "huge.tif")


def test_a_chunk_that_claims_a_gigabyte_takes_none(tmp_path):
    data = png(30, 24, 8, 0, bytes(31 * 24))
    place = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:place] + struct.pack(">I", 2**30) + data[place + 4 :])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SomasegError, match="truncated or damaged"):
        read_image(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_pages_that_follow_each_other_in_a_circle_end(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((9, 9), np.uint8), byteorder="<")
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    tags = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * tags, first)
    path.write_bytes(data)
    with pytest.raises(SomasegError, match="in a circle"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_only_regular_files_are_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (read_image, read_labels, image_header, map_image):
        with pytest.raises(SomasegError, match=rf"{name}: cannot be read: a pipe, socket or dev"):
            read(tmp_path / name)


def test_a_link_to_nothing_is_named(tmp_path):
    encode(tmp_path / "a.png", GRAY)
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    faults = Faults()
    assert read_images(tmp_path, faults).dataset.ids == ["a"]
    assert [f.message for f in faults] == ["a link to a file that is not there"]


def test_a_webp_that_claims_more_than_pillow_reads(tmp_path):
    path = tmp_path / "a.webp"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(path)
    data = path.read_bytes()
    at = data.index(b"\x9d\x01\x2a") + 3  # then the width and the height of the frame
    path.write_bytes(data[:at] + (16383).to_bytes(2, "little") * 2 + data[at + 4 :])
    with pytest.raises(SomasegError, match=r"a\.webp: Image size .* Save it as PNG or TIFF"):
        read_image(path)


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", lambda file: pytest.fail("decoded"))
    assert image_header(tmp_path / "a.png").size == GRAY.shape
