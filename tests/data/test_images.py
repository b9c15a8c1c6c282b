import struct

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from somaseg.data.images import (
    image_header,
    image_size,
    list_images,
    normalise,
    read_image,
    read_labels,
    to_gray,
)
from somaseg.errors import SomasegError

GRAY = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def encode(path, image, *options):
    done, data = cv2.imencode(path.suffix, image, list(options))
    assert done
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_every_gray_value(tmp_path, dtype):
    image = GRAY.astype(dtype) * (257 if dtype == np.uint16 else 1)
    path = encode(tmp_path / "ünïcode 图.png", image)
    read = read_image(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, image)


def test_png_colours_come_as_rgb_and_alpha_is_dropped(tmp_path):
    path = encode(tmp_path / "a.png", RGB[..., ::-1])  # OpenCV writes BGR
    np.testing.assert_array_equal(read_image(path), RGB)
    alpha = np.full((13, 17, 1), 200, np.uint8)
    path = encode(tmp_path / "b.png", np.concatenate([RGB[..., ::-1], alpha], axis=2))
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("image", [GRAY, RGB], ids=["gray", "rgb"])
def test_jpeg_is_close_to_what_was_written(tmp_path, image):
    smooth = cv2.GaussianBlur(cv2.resize(image, (68, 52)), (0, 0), 4)
    bgr = smooth if smooth.ndim == 2 else smooth[..., ::-1]
    read = read_image(encode(tmp_path / "a.jpg", bgr, cv2.IMWRITE_JPEG_QUALITY, 98))
    assert read.dtype == np.uint8
    assert read.shape == smooth.shape
    assert np.abs(read.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize(
    ("stored", "read_as"),
    [
        ("uint8", "uint8"),
        ("uint16", "uint16"),
        ("float32", "float32"),
        ("float64", "float32"),
        ("int16", "float32"),
        ("uint32", "float32"),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_each_type(tmp_path, stored, read_as, compression):
    image = GRAY.astype(stored)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression)
    read = read_image(tmp_path / "a.tif")
    assert read.dtype == read_as
    np.testing.assert_array_equal(read, image)


def test_tiff_compressed_by_lzw_needs_no_further_package(tmp_path):
    image = GRAY.astype(np.uint16) * 200
    path = encode(tmp_path / "a.tif", image, cv2.IMWRITE_TIFF_COMPRESSION, 5)
    assert tifffile.TiffFile(path).pages.first.compression == 5
    np.testing.assert_array_equal(read_image(path), image)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_rgb_interleaved_and_by_plane(tmp_path, planar):
    stored = RGB if planar == "contig" else np.moveaxis(RGB, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    assert image_header(tmp_path / "a.tif").channels == 3


def test_tiff_rgb_by_plane_of_three_rows_is_not_mixed_up(tmp_path):
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    tifffile.imwrite(tmp_path / "a.tif", cube, photometric="rgb", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), cube)
    stored = np.moveaxis(cube, 2, 0)
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), cube)


@pytest.mark.parametrize("imagej", [False, True])
def test_a_stack_is_refused_where_one_image_is_expected(tmp_path, imagej):
    tifffile.imwrite(tmp_path / "z.tif", np.zeros((5, 13, 17), np.uint8), imagej=imagej)
    for read in (read_image, read_labels):
        with pytest.raises(SomasegError, match=r"z\.tif: a stack of 5 images .*--frame"):
            read(tmp_path / "z.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("keep", [0.001, 0.4, 0.98])
def test_a_truncated_file_is_named(tmp_path, suffix, keep):
    image = np.random.default_rng(0).integers(0, 255, (60, 70), dtype=np.uint8)
    whole = encode(tmp_path / f"a{suffix}", image).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: max(3, int(len(whole) * keep))])
    with pytest.raises(SomasegError, match=rf"cut\{suffix}: .*(again|compression)"):
        read_image(path)


def test_a_damaged_png_is_refused(tmp_path):
    data = bytearray(encode(tmp_path / "a.png", GRAY).read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(SomasegError, match=r"a\.png: truncated or damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_says_so(tmp_path, read):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.png").write_text("<html>not found</html>")
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(30))
    (tmp_path / "zeros.tif").write_bytes(bytes(100))
    for name, message in {
        "empty.png": "empty file",
        "page.png": "named .png but holds no PNG, JPEG or TIFF",
        "a.gif": "not a PNG, JPEG or TIFF image; convert",
        "zeros.tif": "starts with zeros",
        "none.png": "no such file",
    }.items():
        with pytest.raises(SomasegError, match=f"{name}: {message}"):
            read(tmp_path / name)
    with pytest.raises(SomasegError, match="cannot be read"):
        read(tmp_path)


def test_values_that_are_not_finite_are_counted(tmp_path):
    image = GRAY.astype(np.float32)
    image[2, 3], image[4, 5] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(SomasegError, match=r"a\.tif: 2 of 221 values are not finite"):
        read_image(tmp_path / "a.tif")


def test_of_five_channels_one_must_be_chosen(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((13, 17, 5), np.uint8), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    with pytest.raises(SomasegError, match=r"a stack of 5 images \(C 5\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("image", [GRAY, RGB], ids=["gray", "rgb"])
def test_the_header_agrees_with_the_decoded_image(tmp_path, suffix, image):
    path = encode(tmp_path / f"a{suffix}", image)
    header = image_header(path)
    assert header.size == image_size(path) == (13, 17) == read_image(path).shape[:2]
    assert header.channels == (1 if image.ndim == 2 else 3)
    assert header.dtype == "uint8"


def test_the_header_of_sixteen_bits(tmp_path):
    deep = GRAY.astype(np.uint16)
    assert image_header(encode(tmp_path / "a.png", deep)).dtype == "uint16"
    assert image_header(encode(tmp_path / "a.tif", deep)).dtype == "uint16"


def test_jpeg_header_behind_a_thumbnail(tmp_path):
    """An EXIF segment may hold a smaller JPEG: its size is not the image's."""
    whole = encode(tmp_path / "a.jpg", GRAY).read_bytes()
    small = encode(tmp_path / "b.jpg", GRAY[:5, :6]).read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small
    (tmp_path / "c.jpg").write_bytes(whole[:2] + segment + whole[2:])
    assert image_size(tmp_path / "c.jpg") == (13, 17)


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [
        (np.uint8, ".png"),
        (np.uint16, ".png"),
        (np.uint8, ".tif"),
        (np.uint16, ".tif"),
        (np.int32, ".tif"),
        (np.uint32, ".tif"),
        (np.float32, ".tif"),
    ],
)
def test_labels_of_each_type(tmp_path, dtype, suffix):
    labels = np.arange(12 * 20).reshape(12, 20).astype(dtype)
    path = tmp_path / f"a{suffix}"
    encode(path, labels) if suffix == ".png" else tifffile.imwrite(path, labels)
    read = read_labels(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)


def test_labels_beyond_sixteen_bits_survive_lzw(tmp_path):
    labels = np.random.default_rng(0).integers(0, 90_000, (20, 30), dtype=np.int32)
    path = encode(tmp_path / "a.tif", labels, cv2.IMWRITE_TIFF_COMPRESSION, 5)
    np.testing.assert_array_equal(read_labels(path), labels)


def test_what_is_no_label_image_is_refused(tmp_path):
    encode(tmp_path / "colour.png", RGB)
    tifffile.imwrite(tmp_path / "half.tif", np.full((3, 4), 0.5, np.float32))
    tifffile.imwrite(tmp_path / "minus.tif", np.full((3, 4), -2, np.int32))
    tifffile.imwrite(tmp_path / "huge.tif", np.full((3, 4), 2**31, np.uint32))
    tifffile.imwrite(tmp_path / "nan.tif", np.full((3, 4), np.nan, np.float32))
    for name, message in {
        "colour": r"colour\.png: a label image has one channel, this has 3",
        "half": "labels are not whole numbers",
        "minus": "labels from -2 to -2",
        "huge": "labels from 2147483648",
        "nan": "labels are not whole numbers",
    }.items():
        (path,) = tmp_path.glob(f"{name}.*")
        with pytest.raises(SomasegError, match=message):
            read_labels(path)


def test_list_images_skips_what_is_none(tmp_path):
    for name in ("b.tif", "a.PNG", "c.jpeg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.tif", "c.jpeg"]
    with pytest.raises(SomasegError, match="nowhere: cannot be listed"):
        list_images(tmp_path / "nowhere")


def test_gray_is_the_mean_of_the_channels():
    np.testing.assert_allclose(to_gray(RGB), RGB.astype(float).mean(2), rtol=1e-6)
    gray = to_gray(np.stack([GRAY] * 3, axis=2))
    assert gray.dtype == np.float32
    np.testing.assert_array_equal(gray, GRAY)
    np.testing.assert_array_equal(to_gray(GRAY), GRAY)
    with pytest.raises(SomasegError, match="2 or 3 axes"):
        to_gray(np.zeros((2, 3, 4, 5)))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, (9, 12)), st.floats(0, 40), st.floats(60, 100))
def test_normalise_puts_the_percentiles_at_0_and_1(image, low, high):
    gray = image.astype(np.float32)
    bottom, top = np.percentile(gray.astype(float), (low, high))
    result = normalise(gray, low, high)
    assert result.dtype == np.float32
    if top > bottom:
        np.testing.assert_allclose(result, (gray - bottom) / (top - bottom), rtol=1e-3, atol=1e-4)
    elif gray.max() > gray.min():
        assert (result.min(), result.max()) == (0, 1)
    else:
        assert not result.any()


def test_normalise_does_not_depend_on_gain_and_offset():
    gray = to_gray(RGB)
    np.testing.assert_allclose(normalise(gray * 37 + 1000), normalise(gray), atol=1e-5)
    assert normalise(np.zeros((0, 5), np.float32)).shape == (0, 5)
