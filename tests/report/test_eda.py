import base64
import re

import cv2
import numpy as np
import pytest
import typer
from scipy.ndimage import binary_dilation
from typer.testing import CliRunner

from somaseg.data import Dataset, Sample, load_dataset
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.instances import Instances
from somaseg.report.eda import write_eda


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("set"), 2, (96, 128), seed=4)


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "eda.html"
    found = write_eda(load_dataset(folder), path, examples=2)
    return path.read_text(encoding="utf-8"), found


def uris(text, kind):
    data = re.findall(rf'src="data:image/{re.escape(kind)};base64,([^"]+)"', text)
    return [base64.b64decode(part) for part in data]


def test_page_stands_alone(page):
    text, _ = page
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []


def test_page_has_the_figures_of_the_fingerprint(page):
    text, found = page
    for name, group in found.by_class.items():
        row = text[text.index(f"</span> {name}</td>") :].split("</tr>")[0]
        cells = re.findall(r"<td>([^<]*)", row)
        assert cells[0] == str(group.images)
        assert cells[1] == str(group.cells)
        assert cells[3] == f"{group.diameter.median:.1f}"
        assert cells[5] == f"{group.density.median:.1%}"
        assert cells[7] == f"{group.touching:.0%}"
    assert f"{found.overall.cells} cells" in text
    assert found.source in text


def test_pictures_show_image_and_outlines_side_by_side(page, folder):
    text, _ = page
    pictures = [cv2.imdecode(np.frombuffer(p, np.uint8), -1) for p in uris(text, "jpeg")]
    assert len(pictures) == 6  # two of each class
    dataset = load_dataset(folder)
    ids = re.findall(r"<figcaption>(\S+-\d+): (\d+) cells", text)
    assert len(ids) == 6
    for picture, (id, cells) in zip(pictures, ids, strict=True):
        image = dataset[id].image()
        assert int(cells) == len(dataset[id].annotated())
        assert picture.shape == (96, 2 * 128 + 4, 3)
        # JPEG keeps gray values to a few levels, and lets colour run a little.
        assert np.abs(picture[:, :128] - image[..., None].astype(float)).mean() < 2
        colour = np.ptp(picture[:, 132:].astype(int), axis=2)
        inside = dataset[id].annotated().to_labels() > 0
        assert ((colour > 60) <= binary_dilation(inside)).all()  # outlines
        assert (colour[inside] > 12).mean() > 0.5


def test_charts_are_drawn_and_named(page):
    text, _ = page
    charts = [data.decode() for data in uris(text, "svg+xml")]
    titles = ["Cells an image", "Cell diameter", "Density", "Touching", "Overlap", "Gray values"]
    assert len(charts) == 7
    for title, chart in zip(titles, charts, strict=False):
        assert f">{title}</text>" in chart
        assert "shsy5y" in chart


def test_same_data_give_the_same_page(folder, page, tmp_path):
    write_eda(load_dataset(folder), tmp_path / "again.html", examples=2, workers=1)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[0]


def test_names_are_escaped(tmp_path):
    masks = np.zeros((1, 50, 50), bool)
    masks[0, 10:20, 10:20] = True
    cells = Instances.from_masks(masks, classes=[0], names=("<b>&",))
    dataset = Dataset((Sample("<i>", (50, 50), None, cells),), ("<b>&",), "<u>")
    write_eda(dataset, tmp_path / "eda.html")
    text = (tmp_path / "eda.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in text
    assert not re.search(r"<[biu]>", text)


def test_what_is_missing_is_left_out(tmp_path, folder):
    masks = np.zeros((1, 50, 50), bool)
    masks[0, 10:20, 10:20] = True
    alone = Sample("a", (50, 50), None, Instances.from_masks(masks))
    write_eda(Dataset((alone,), (), "s"), tmp_path / "alone.html")
    text = (tmp_path / "alone.html").read_text(encoding="utf-8")
    assert "nothing to look at" in text
    assert len(uris(text, "svg+xml")) == 4  # no overlap, gray values or contrast

    bare = load_dataset(folder / "train", "images")
    write_eda(bare, tmp_path / "bare.html")
    text = (tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "6 images, 0 of them annotated" in text
    assert len(uris(text, "svg+xml")) == 1  # gray values only

    with pytest.raises(SomasegError, match="holds no image"):
        write_eda(Dataset((), (), "empty"), tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_command_writes_the_page(folder, tmp_path):
    from somaseg.cli.eda import eda

    app = typer.Typer()
    app.command()(eda)
    out = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app, [str(folder), "--out", str(out), "--examples", "1"])
    assert result.exit_code == 0, result.output
    assert "6 images" in result.output
    assert len(uris(out.read_text(encoding="utf-8"), "jpeg")) == 3
