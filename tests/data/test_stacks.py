"""Stacks as the libraries of their formats write them: right pixels, axes and pixel size."""

import json
import sys
import types

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from somaseg.data import load_dataset
from somaseg.data.axes import Choice
from somaseg.data.convert import write_dataset
from somaseg.data.formats.results import write_results
from somaseg.data.images import image_header, read_image
from somaseg.data.load import read_dataset
from somaseg.data.predicted import image_entry
from somaseg.data.windows import find_levels, map_image
from somaseg.errors import SomasegError
from somaseg.files import write_json
from somaseg.instances import Instances
from somaseg.limits import VARIABLE

T, Z, C, H, W = 2, 3, 2, 13, 17
STACK = np.random.default_rng(0).integers(0, 60_000, (T, Z, C, H, W)).astype(np.uint16)
NAMES = ("actin", "dapi")


def imagej(path, **options):
    path = path / "a.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=(2, 2), metadata={"axes": "TZCYX", "unit": "um"},
        **options,
    )  # fmt: skip
    return path


def imagej_by_page(path):
    return imagej(path, compression="zlib")


def ome(path, data=STACK, **options):
    path = path / "a.ome.tif"
    metadata = {"axes": "TZCYX", "Channel": {"Name": list(NAMES)}, "PhysicalSizeX": 500}
    metadata |= {"PhysicalSizeXUnit": "nm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        levels = options.pop("levels", 0)
        tiff.write(data, metadata=metadata, subifds=levels, **options)
        for _ in range(levels):
            tiff.write(data[..., ::2, ::2], subfiletype=1, **options)
    return path


def ome_compressed(path):
    return ome(path, compression="zlib")


def ome_pyramid(path):
    return ome(path, levels=1, tile=(16, 16))


def ome_zarr(path, version="0.4", **changes):
    """An OME-Zarr by its specification; tests of what we write hold it against ome-zarr-models."""
    path = path / "a.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=STACK, chunks=(1, 1, 1, 8, 8))
    scale = [{"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]}]
    kinds = {"t": "time", "z": "space", "c": "channel", "y": "space", "x": "space"}
    axes = [{"name": name, "type": kinds[name]} for name in "tzcyx"]
    for axis in axes[-2:]:
        axis["unit"] = "micrometer"
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    told = {"multiscales": scales, "omero": {"channels": [{"label": name} for name in NAMES]}}
    told |= changes
    if version == "0.4":
        told["multiscales"][0]["version"] = version
    group.attrs.update(told if version == "0.4" else {"ome": {"version": version, **told}})
    return path


def ome_zarr_05(path):
    return ome_zarr(path, "0.5")


KINDS = [imagej, imagej_by_page, ome, ome_compressed, ome_pyramid, ome_zarr, ome_zarr_05]


@pytest.mark.parametrize("write", KINDS)
def test_each_kind_has_its_pixels_axes_and_pixel_size(tmp_path, write):
    path = write(tmp_path)
    axes = image_header(path).axes
    assert (axes.frames, axes.slices, axes.channels) == (T, Z, C)
    assert axes.pixel_size == 0.5
    named = () if "imagej" in write.__name__ else NAMES
    assert axes.names == named
    assert image_header(path).size == (H, W)
    dataset = load_dataset(path, choice=Choice(channel=(named or "01")[1]))
    assert dataset.ids == [f"a_t00{t}_z0{z}" for t in range(T) for z in range(Z)]
    assert dataset.pixel_size == 0.5
    for k, sample in enumerate(dataset):
        t, z = divmod(k, Z)
        for mapped in (False, True):
            image = sample.image(mapped)
            assert np.array_equal(np.asarray(image[:]), STACK[t, z, 1])
            assert image.dtype == np.uint16
            assert find_levels(image) == find_levels(STACK[t, z, 1])
    (last,) = load_dataset(path, choice=Choice("0", 1, "max"))
    assert last.id == "a_t001"
    assert np.array_equal(last.image(), STACK[1, :, 0].max(axis=0))
    for choice, reason in [
        (Choice(), r"2 channels \(.*\); choose one with --channel"),
        (Choice("gfp"), "no channel 'gfp'; it has 2"),
        (Choice("0", 2), "no frame 2; frames 0 to 1 are there"),
        (Choice("0", 0, "7"), "no slice 7; slices 0 to 2 are there"),
    ]:
        with pytest.raises(SomasegError, match=reason) as told:
            load_dataset(path, choice=choice)
        assert "\n" not in str(told.value)
        assert str(path) in str(told.value)


def test_pages_without_names_are_frames_or_what_is_asked_for(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, :, 0], photometric="minisblack")
    assert load_dataset(tmp_path).ids == ["a_t000", "a_t001", "a_t002"]
    (projected,) = load_dataset(tmp_path, choice=Choice(z="max"))
    assert projected.id == "a"
    assert np.array_equal(projected.image(), STACK[0, :, 0].max(axis=0))
    (second,) = load_dataset(tmp_path, choice=Choice("1"))
    assert (second.id, second.image()[3, 4]) == ("a", STACK[0, 1, 0, 3, 4])


def test_colours_frames_and_scenes(tmp_path):
    movie = np.random.default_rng(1).integers(0, 255, (T, H, W, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", movie, photometric="rgb")
    tifffile.imwrite(
        tmp_path / "samples.tif", STACK[0, 0], photometric="minisblack", planarconfig="separate"
    )
    Image.fromarray(movie[0]).save(tmp_path / "still.webp", lossless=True)
    Image.fromarray(movie[0, ..., 0]).save(tmp_path / "gray.bmp")
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tiff:
        tiff.write(STACK[0, 0, 0], metadata={"axes": "YX"})
        tiff.write(STACK[0, 0, 1, :5], metadata={"axes": "YX"})
    dataset = load_dataset(tmp_path, choice=Choice("0"))
    images = {sample.id: sample.image() for sample in dataset}
    assert {name: image.shape for name, image in images.items()} == {
        "gray": (H, W), "rgb_t000": (H, W), "rgb_t001": (H, W), "samples": (H, W), "still": (H, W),
        "two_s0": (H, W), "two_s1": (5, W),
    }  # fmt: skip
    assert np.array_equal(images["rgb_t001"], movie[1, ..., 0])
    assert np.array_equal(images["samples"], STACK[0, 0, 0])
    assert np.array_equal(images["still"], movie[0, ..., 0])
    assert np.array_equal(images["two_s1"], STACK[0, 0, 1, :5])
    alone = load_dataset(tmp_path / "rgb.tif")
    assert np.array_equal(alone["rgb_t001"].image(), movie[1])


def test_bioio_is_asked_for_the_rest(tmp_path, monkeypatch):
    """Its readers need files that no library writes: what stands for it has its interface."""
    path = tmp_path / "a.nd2"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(SomasegError, match=r"a\.nd2 .*pip install 'somaseg\[bioio\]'"):
        load_dataset(path)

    class BioImage:
        def __init__(self, _):
            self.dims = types.SimpleNamespace(order="TCZYX", shape=(T, C, Z, H, W))
            self.channel_names, self.scenes, self.dtype = list(NAMES), ("one",), STACK.dtype
            self.physical_pixel_sizes = types.SimpleNamespace(Z=None, Y=0.5, X=0.5)

        def get_image_dask_data(self, order, T, C, Z):
            assert order == "YX"
            return types.SimpleNamespace(compute=lambda: STACK[T, Z, C])

    monkeypatch.setitem(sys.modules, "bioio", types.SimpleNamespace(BioImage=BioImage))
    (sample,) = load_dataset(path, choice=Choice("dapi", 1, "max"))
    assert np.array_equal(sample.image(), STACK[1, :, 1].max(axis=0))
    assert (sample.id, sample.pixel_size) == ("a_t001", 0.5)


def test_czi_through_bioio(tmp_path):
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    path = tmp_path / "a.czi"
    with czi.create_czi(str(path)) as file:
        for c in range(C):
            file.write(data=STACK[0, 0, c][..., None], plane={"T": 0, "Z": 0, "C": c})
        file.write_metadata("x", scale_x=5e-7, scale_y=5e-7)
    (sample,) = load_dataset(path, choice=Choice("1"))
    assert np.array_equal(sample.image(), STACK[0, 0, 1])
    assert sample.pixel_size == pytest.approx(0.5)


def test_what_stacks_can_be_wrong_with_is_told_in_one_line(tmp_path, monkeypatch):
    for name, write in [
        ("pages", lambda path: tifffile.imwrite(path, STACK[:, 0], photometric="minisblack")),
        ("zarr", lambda path: zarr.open_group(path, mode="w")),
    ]:
        path = tmp_path / (name if name == "zarr" else f"{name}.tif")
        write(path.with_suffix(".zarr") if name == "zarr" else path)
    for path, reason in [
        (tmp_path / "pages.tif", "mixed axes .Q 2, Q 2.; somaseg reads T, Z and C"),
        (tmp_path / "zarr.zarr", "no OME-Zarr metadata .multiscales"),
    ]:
        with pytest.raises(SomasegError, match=reason) as told:
            load_dataset(path)
        assert "\n" not in str(told.value)
    axes = [{"name": name} for name in "qzcyx"]
    far = {"axes": [{"name": name} for name in "tzcyx"], "datasets": [{"path": "../../x"}]}
    for changes, reason in [
        ({"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}, "mixed axes .Q 2"),
        ({"multiscales": [{"axes": axes[1:], "datasets": [{"path": "0"}]}]}, "mixed axes: zcyx"),
        ({"multiscales": [far]}, "lies outside of it"),
        ({"plate": {}}, "a plate or well; give one of its fields"),
    ]:
        with pytest.raises(SomasegError, match=reason):
            load_dataset(ome_zarr(tmp_path, **changes))
    path = ome_zarr(tmp_path)
    told = json.loads((path / "0/.zarray").read_text())
    for change, reason in [
        ({"filters": [{"id": "pickle"}]}, "codec 'pickle' is not read"),
        ({"dtype": "|O"}, "truncated or damaged"),
        ({"chunks": [10**6] * 5}, "more than the"),
    ]:
        (path / "0/.zarray").write_text(json.dumps(told | change))
        with pytest.raises(SomasegError, match=reason):
            load_dataset(path, choice=Choice("0"))
    (path / "0/.zarray").write_text(json.dumps(told))
    monkeypatch.setenv(VARIABLE, "100")
    for one in (path, imagej(tmp_path), ome_compressed(tmp_path)):
        with pytest.raises(SomasegError, match="claims"):
            load_dataset(one, choice=Choice("0"))[0].image()


@pytest.mark.parametrize(("old", "new"), [
    (b'SizeT="2"', b'SizeT="9999999"'), (b'PlaneCount="12"', b'PlaneCount="9999999999"'),
    (b'SizeT="2"', b'SizeT="3"'),
])  # fmt: skip
def test_ome_claims_of_planes_take_no_memory(tmp_path, old, new):
    path = ome_compressed(tmp_path)
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata.encode()
    assert old in text
    told = text.replace(old, new)
    with tifffile.TiffWriter(path) as tiff:
        for page in STACK.reshape(-1, H, W):
            tiff.write(page, description=told, metadata=None, compression="zlib")
    with pytest.raises(SomasegError, match=r"a\.ome\.tif .*claim"):
        load_dataset(path, choice=Choice("0"))


def test_imagej_claims_of_planes_are_held_against_the_file(tmp_path):
    path = imagej(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"frames=2", b"frames=9").replace(b"images=12", b"images=54"))
    with pytest.raises(SomasegError, match=r"a\.tif .*claim"):
        load_dataset(path, choice=Choice("0"))


@pytest.mark.parametrize(("resolution", "reason"), [
    ((0, 2), "a pixel size of 0.0 um"), ((2, 3), "are not square"),
])  # fmt: skip
def test_a_pixel_size_that_is_none_is_told_and_left(tmp_path, resolution, reason):
    tifffile.imwrite(
        tmp_path / "a.tif", STACK[0, 0, 0], imagej=True, resolution=(2, 2), metadata={"unit": "um"}
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        for tag, value in zip(("XResolution", "YResolution"), resolution, strict=True):
            tiff.pages[0].tags[tag].overwrite((value, 1))
    reading = read_dataset(tmp_path)
    (sample,) = reading.dataset
    assert sample.pixel_size is None
    assert reading.faults.errors == []
    (fault,) = reading.faults
    assert reason in fault.message
    assert np.array_equal(read_image(tmp_path / "a.tif"), STACK[0, 0, 0])


def test_predicted_planes_and_their_corrections_find_their_images(tmp_path):
    path = imagej(tmp_path / "..")
    chosen = load_dataset(path, choice=Choice("1", z="max"))
    cells = Instances.from_masks(np.ones((1, H, W), bool), classes=0, names=("cell",))
    out = tmp_path / "masks"
    (out / "labels").mkdir(parents=True)
    write_results(out / "predictions.json", dict.fromkeys(chosen.ids, cells))
    write_json(out / "images.json", {s.id: image_entry(s) for s in chosen})
    again = load_dataset(out)
    assert again.ids == ["a_t000", "a_t001"]
    for format in ("labels", "coco"):
        write_dataset(tmp_path / format, again, format)
        copy = load_dataset(tmp_path / format)
        for one, other in zip(again, copy, strict=True):
            assert np.array_equal(one.image(), STACK[int(one.id[-1]), :, 1].max(axis=0))
            assert np.array_equal(one.image(), other.image())
            assert (one.id, one.pixel_size) == (other.id, other.pixel_size) == (one.id, 0.5)
        # Without the copies: the annotations are called as the planes of the stack are.
        for file in (tmp_path / format / "images").iterdir():
            file.unlink()
        found = load_dataset(
            tmp_path / format, images=path.parent, choice=Choice("1", z="max"), strict=False
        )
        assert np.array_equal(found["a_t001"].image(), again["a_t001"].image())
    (tmp_path / "labels/labels/a_t001.tif").rename(tmp_path / "labels/labels/a.tif")
    with pytest.raises(SomasegError, match="a stack of 6 images"):
        load_dataset(tmp_path / "labels", images=path.parent, choice=Choice("1"))


def test_a_plain_image_is_no_stack(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, 0, 0])
    (sample,) = load_dataset(tmp_path)
    assert sample.plane is None
    assert isinstance(map_image(tmp_path / "a.tif"), np.memmap)
