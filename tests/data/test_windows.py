import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from somaseg.data import windows
from somaseg.data.augment import prepare_image
from somaseg.data.images import read_image, to_gray
from somaseg.data.types import Sample
from somaseg.errors import SomasegError

images = st.one_of(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
)


@given(images, st.sampled_from([(1, 99), (0, 100), (25, 50), (1, 99.9)]))
def test_levels_are_numpys_percentiles(image, percentiles):
    gray = to_gray(image)
    expected = tuple(float(v) for v in np.percentile(gray, percentiles))
    if expected[1] <= expected[0]:
        expected = float(gray.min()), float(gray.max())
    assert windows.find_levels(image, *percentiles) == expected


def test_levels_of_many_strips(monkeypatch):
    monkeypatch.setattr(windows, "_STRIP", 700)
    image = np.random.default_rng(0).normal(5, 30, (211, 97)).astype(np.float32)
    assert windows.find_levels(image) == tuple(np.percentile(image, (1, 99)))


@given(images)
def test_parts_prepared_with_the_levels_of_the_whole_are_parts_of_the_prepared_whole(image):
    levels = windows.find_levels(image)
    with np.errstate(over="ignore"):  # percentiles that are next to equal
        whole = prepare_image(image)
        assert np.array_equal(prepare_image(image[1:], levels), whole[1:])
        assert np.array_equal(prepare_image(image[:, :7], levels), whole[:, :7])


def test_levels_too_near_for_float32_make_a_flat_image():
    image = np.full((9, 33), 1e-45, np.float32)
    assert not prepare_image(image, (7.9874e-46, 1.4013e-45)).any()


def test_levels_name_what_is_wrong():
    image = np.zeros((4, 5), np.float32)
    image[2, 3] = np.nan
    with pytest.raises(SomasegError, match=r"a\.tif: 1 of 20 values are not finite"):
        windows.find_levels(image, name="a.tif")
    with pytest.raises(SomasegError, match="has no pixels"):
        windows.find_levels(np.zeros((0, 5), np.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_plain_tiffs_are_mapped(tmp_path, dtype, channels):
    image = np.random.default_rng(0).integers(0, 250, (30, 40, *channels)).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        image,
        byteorder=">" if dtype == ">u2" else "<",
        photometric="rgb" if channels else "minisblack",
    )
    mapped = windows.map_image(path)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert np.array_equal(mapped, read_image(path))
    assert np.array_equal(Sample("a", (30, 40), path).image(mapped=True), read_image(path))


def test_other_files_are_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 250, (30, 40)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    tifffile.imwrite(tmp_path / "zip.tif", image, compression="zlib")
    tifffile.imwrite(tmp_path / "int.tif", image.astype(np.int32))
    planes = np.stack([image, image[::-1], image])
    tifffile.imwrite(tmp_path / "planes.tif", planes, planarconfig="separate", photometric="rgb")
    for path in tmp_path.iterdir():
        mapped = windows.map_image(path)
        assert not isinstance(mapped, np.memmap)
        assert np.array_equal(mapped, read_image(path))


def test_broken_files_are_told_as_ever(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((300, 300), np.uint16))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(SomasegError, match=r"a\.tif: truncated or damaged"):
        windows.map_image(path)
    tifffile.imwrite(path, np.ones((3, 30, 30), np.uint16), photometric="minisblack")
    with pytest.raises(SomasegError, match="a stack of 3 images"):
        windows.map_image(path)
    with pytest.raises(SomasegError, match="no such file"):
        windows.map_image(tmp_path / "none.tif")
    tifffile.imwrite(path, np.ones((30, 30), np.uint16))
    with pytest.raises(SomasegError, match="annotate the image as it is"):
        Sample("a", (20, 30), path).image(mapped=True)
