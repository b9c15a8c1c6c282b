import base64
import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.instances import Instances

BAD = '<script>x</script>"&'


class Page(HTMLParser):
    """What is in a piece of HTML; every tag must be closed by its own."""

    def __init__(self, text):
        super().__init__()
        self.open, self.pictures, self.titles, self.texts, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert tag in {"div", "span", "table", "tr", "th", "td", "figure", "figcaption", "img"}
        if tag == "img":
            kind, data = values["src"].split(",")
            assert kind == "data:image/png;base64"
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), -1)
            assert picture.shape == (int(values["height"]), int(values["width"]), 3)
            self.pictures.append(picture[..., ::-1])
            return
        self.titles += [values["title"]] if values.get("title") else []
        self.rows += [[]] if tag == "tr" else []
        self.open.append(tag)
        self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data.strip())
        self.texts[-1:] = ["".join([*self.texts[-1:], data])]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def squares(*corners, size=(60, 90), side=20, **fields):
    masks = np.zeros((len(corners), *size), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return Instances.from_masks(masks, **fields)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(write_dataset(tmp_path_factory.mktemp("set"), 2, (96, 128), seed=4))


# Instances.


def test_instances_are_a_picture_and_a_line():
    cells = squares((0, 0), (30, 45), names=("cort",), scores=[0.25, 0.875])
    page = Page(cells._repr_html_())
    assert page.text == "2 instances in 90 × 60 · cort: 2 · scores 0.25 … 0.88"
    (picture,) = page.pictures
    assert picture.shape == (267, 400, 3)
    # Pixels are drawn if and only if the masks cover them, to half a pixel at the borders.
    grown = cv2.resize(cells.to_labels().astype(np.uint8), (400, 267), interpolation=0) > 0
    assert (picture.any(2) == grown).mean() > 0.99
    # Outlines are brighter than what they surround; the two have different colours.
    assert picture[0, 0].max() > 2 * picture[40, 40].max()
    assert (picture[40, 40] != picture[170, 240]).any()


def test_classes_have_colours_if_there_are_several():
    cells = squares((0, 0), (30, 45), (0, 60), names=("a", "b"), classes=[1, 0, -1])
    html = cells._repr_html_()
    page = Page(html)
    assert "3 instances in 90 × 60 ·" in page.text
    assert re.findall(r"(\w+): (\d+)", page.text) == [("a", "1"), ("b", "1"), ("unknown", "1")]
    assert "scores" not in page.text
    for colour, (y, x) in (((230, 159, 0), (0, 0)), ((86, 180, 233), (30, 45))):
        assert f"#{bytes(colour).hex()}" in html
        assert (page.pictures[0][int(y * 4.46), int(x * 4.46)] == colour).all()


def test_large_and_odd_images_are_scaled_without_losing_a_cell():
    size = (30_000, 20_000)
    boxes = [[0, 0, 9, 9], [10, 10, 12, 12], [19_999, 29_999, 20_000, 30_000]]
    crops = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in boxes]
    (picture,) = Page(Instances.from_crops(size, boxes, crops)._repr_html_()).pictures
    assert picture.shape == (400, 267, 3)
    assert picture[0, 0].any()
    assert picture[-1, -1].any()
    assert np.count_nonzero(picture.any(2)) == 2
    (strip,) = Page(squares((0, 0), size=(3, 5000), side=3)._repr_html_()).pictures
    assert strip.shape == (1, 400, 3)


def test_soft_masks_are_cut_at_a_half():
    soft = np.zeros((2, 40, 40), np.uint8)
    soft[0, :20, :20] = 200
    soft[0, 20:, 20:] = 100
    soft[1, :, 30:] = 90
    page = Page(Instances.from_masks(soft, soft=True)._repr_html_())
    assert page.text.startswith("2 instances in 40 × 40")
    drawn = page.pictures[0].any(2)
    assert drawn[:200, :200].all()
    assert drawn.sum() == 200 * 200


@pytest.mark.parametrize("size", [(4, 5), (0, 5)])
def test_no_instance(size):
    page = Page(Instances.empty(size, ("cort",))._repr_html_())
    assert page.text == f"0 instances in 5 × {size[0]}"
    assert [p.shape for p in page.pictures] == ([(320, 400, 3)] if size[0] else [])
    assert not any(p.any() for p in page.pictures)


def test_names_of_classes_are_escaped():
    html = squares((0, 0), names=(BAD,))._repr_html_()
    assert "<script" not in html
    assert f"{BAD}: 1" in Page(html).text


# Data sets.


def test_a_data_set_is_a_table_and_pictures(data):
    page = Page(data._repr_html_())
    assert page.text.startswith(f"6 images · {data.source}")
    head, *rows, last = page.rows
    assert head == ["class", "images", "instances", "median diameter, px"]
    assert [row[0] for row in rows] == list(data.names)
    for index, (name, images, cells, diameter) in enumerate(rows):
        own = [s for s in data if s.image_class == name]
        areas = np.concatenate([s.instances.areas[s.instances.classes == index] for s in own])
        assert (int(images), int(cells)) == (len(own), len(areas))
        assert float(diameter) == pytest.approx(np.median(2 * np.sqrt(areas / np.pi)), abs=0.051)
    assert last[:3] == ["all", "6", str(sum(len(s.instances) for s in data))]
    assert [p.shape for p in page.pictures] == 4 * [(180, 240, 3)]
    for name in data.names:  # each has a picture
        assert re.search(rf", {name}, \d+ instances?", page.text)
    for picture in page.pictures:
        gray = picture[(picture == picture[..., :1]).all(2)]
        assert gray.min() < 30  # the contrast is stretched
        assert gray.max() > 225
        assert np.ptp(picture.astype(int), axis=2).max() > 100  # outlines in colour
    first = (page.pictures[0] == (86, 180, 233)).all(2)  # of its class
    assert first.sum() > 100
    assert np.count_nonzero(np.ptp(page.pictures[0].astype(int), axis=2)) == first.sum()


def test_an_image_that_cannot_be_read_is_told(data, tmp_path):
    broken = tmp_path / "broken<i>.png"
    broken.write_bytes(b"no image")
    first, second, *_ = data.samples
    samples = (
        dataclasses.replace(first, image_path=broken),
        dataclasses.replace(second, image_path=None),
        Sample("wrong size", (50, 50), second.image_path),
        data.samples[2],
    )
    html = dataclasses.replace(data, samples=samples)._repr_html_()
    page = Page(html)
    assert len(page.pictures) == 4
    assert page.text.count("the image cannot be read") == 3
    assert "not annotated, the image cannot be read" in page.text
    assert "4 images · 3 annotated" in page.text
    assert "<i>" not in html
    assert any("broken<i>.png" in title for title in page.titles)
    assert any("its file was not found" in title for title in page.titles)
    assert sum((picture == 0).all(2).mean() > 0.2 for picture in page.pictures) == 3


def test_values_that_are_not_finite_break_nothing(tmp_path):
    import tifffile

    image = np.zeros((30, 40), np.float32)
    image[3, 3] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image)
    page = Page(Dataset((Sample("a", (30, 40), tmp_path / "a.tif"),), (), "s")._repr_html_())
    assert "a, not annotated, the image cannot be read" in page.text
    assert "not finite" in page.titles[0]


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 0), ("float32", 0), ("uint8", 3)])
def test_any_type_of_pixels_is_shown(tmp_path, dtype, channels):
    import tifffile

    ramp = np.tile(np.linspace(0, 200, 2000), (1000, 1)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([ramp] * channels, 2) if channels else ramp)
    page = Page(Dataset((Sample("a", (1000, 2000), tmp_path / "a.tif"),), (), "s")._repr_html_())
    (picture,) = page.pictures
    assert picture.shape == (120, 240, 3)
    assert picture[:, 0].max() < 10
    assert picture[:, -1].min() > (190 if channels else 245)


@pytest.mark.parametrize("names", [(), ("cort",), ("cort", "astro")])
def test_an_empty_data_set(names):
    page = Page(Dataset((), names, "here")._repr_html_())
    assert page.text.startswith("0 images · here")
    assert not page.pictures
    assert [row[0] for row in page.rows[1:]] == ([*names, "all"] if len(names) != 1 else [*names])
    assert all(row[1:] == ["0", "0", "–"] for row in page.rows[1:])


def test_text_from_files_is_escaped():
    cells = squares((0, 0), names=(BAD,))
    sample = Sample(BAD, (60, 90), None, cells, BAD)
    html = Dataset((sample,), (BAD,), BAD)._repr_html_()
    assert "<script" not in html
    page = Page(html)
    assert page.rows[1][:3] == [BAD, "1", "1"]
    assert f"{BAD}, {BAD}, 1 instance" in page.text


def test_nothing_of_it_is_imported_before_it_is_needed():
    code = (
        "import sys, somaseg, somaseg.instances, somaseg.data.types\n"
        "late = 'torch', 'matplotlib', 'jinja2', 'somaseg.report'\n"
        "print([name for name in late if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
