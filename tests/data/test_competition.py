import gzip

import numpy as np
import pytest

from somaseg.data import load_dataset, read_dataset
from somaseg.data.reading import well_group
from somaseg.errors import SomasegError
from tests.data.make import competition, write_image, write_table

HEADER = "id,annotation,width,height,cell_type"
FULL = HEADER + ",plate_time,sample_date,sample_id,elapsed_timedelta"


def test_masks_classes_and_images(tmp_path):
    image = write_image(tmp_path / "train" / "b.png", seed=1)
    rows = ["b,1 2 17 2,16,12,cort", "a,192 1,16,12,astro", "b,4 1,16,12,cort"]
    competition(tmp_path, rows)
    dataset = load_dataset(tmp_path)
    assert dataset.ids == ["b", "a"]
    assert dataset.names == ("astro", "cort")
    assert dataset.image_classes == {"b": "cort", "a": "astro"}
    assert dataset.source == str(tmp_path / "train.csv")
    b = dataset["b"]
    expected = np.zeros((2, 12, 16), bool)
    expected[0, :2, :2] = True
    expected[1, 0, 3] = True
    np.testing.assert_array_equal([b.instances.mask(0), b.instances.mask(1)], expected)
    assert b.instances.classes.tolist() == [1, 1]
    assert dataset["a"].instances.mask(0)[11, 15]  # the last pixel is number 192
    np.testing.assert_array_equal(b.image(), image)


def test_the_competitions_empty_metadata_make_no_groups(tmp_path):
    competition(tmp_path, ["a,1 2,16,12,cort,,,,"], images=["a"], header=FULL)
    assert load_dataset(tmp_path)["a"].group is None


def test_images_of_a_well_are_one_group(tmp_path):
    sample = "shsy5y[diff]_E10-{}_Vessel-714_Ph_3"
    rows = [
        f"a,1 2,16,12,cort,11h30m00s,2019-06-16,{sample.format(4)},0 days",
        f"b,1 2,16,12,cort,11h30m00s,2019-06-16,{sample.format(1)},0 days",
        "c,1 2,16,12,cort,11h30m00s,2019-06-16,dish 7,0 days",
    ]
    competition(tmp_path, rows, images="abc", header=FULL)
    groups = {sample.id: sample.group for sample in load_dataset(tmp_path)}
    assert groups == {
        "a": "shsy5y[diff]_E10_Vessel-714",
        "b": "shsy5y[diff]_E10_Vessel-714",
        "c": "dish 7",
    }


def test_groups_from_plate_and_well_columns_or_named(tmp_path):
    header = HEADER + ",plate,well,group"
    rows = ["a,1 2,16,12,cort,p1,B3,", "b,1 2,16,12,cort,,B3,", "c,1 2,16,12,cort,p1,B3,mine"]
    competition(tmp_path, rows, images="abc", header=header)
    assert [sample.group for sample in load_dataset(tmp_path)] == ["p1_B3", "B3", "mine"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("A172_Phase_C7_1_00d20h00m_4", "A172_C7"),
        ("shsy5y[diff]_E10-4_Vessel-714_Ph_3", "shsy5y[diff]_E10_Vessel-714"),
        ("04928f0866b0", None),
        ("cort_12", None),
        ("", None),
    ],
)
def test_wells_in_names(name, group):
    assert well_group(name) == group
    if group:
        assert well_group(group) is None, "a group's name is not cut again"


@pytest.mark.parametrize("name", ["train.csv.gz", "other.csv", "other.csv.gz"])
def test_a_bare_table_with_images_beside_it(tmp_path, name):
    write_image(tmp_path / "a.png")
    path = write_table(tmp_path / name, [("a", "1 2")])
    for given in (path, tmp_path):
        assert load_dataset(given)["a"].image_path == tmp_path / "a.png"


def test_a_table_from_a_spreadsheet(tmp_path):
    """Byte order mark, CRLF, blanks after commas in the header, quoted cells."""
    write_image(tmp_path / "a.png")
    text = '\ufeffid, annotation, width, height, cell_type\r\n"a","1 2",16,12,"cort"\r\n'
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert load_dataset(tmp_path)["a"].image_class == "cort"


def test_without_cell_types_there_is_one_class(tmp_path):
    header = "id,annotation,width,height"
    competition(tmp_path, ["a,1 2,16,12"], images=["a"], header=header)
    dataset = load_dataset(tmp_path)
    assert dataset.names == ("cell",)
    assert dataset["a"].image_class == "cell"
    assert dataset["a"].instances.classes.tolist() == [0]


def test_sizes_come_from_the_images_where_the_table_has_none(tmp_path):
    competition(tmp_path, ["a,17 1"], images=["a"], header="id,predicted")
    dataset = load_dataset(tmp_path)
    assert dataset["a"].size == (12, 16)
    assert dataset["a"].instances.mask(0)[1, 0]


def test_a_row_with_an_empty_cell_is_an_image_without_cells(tmp_path):
    competition(tmp_path, [("a", "1 2"), ("b", "")])
    dataset = load_dataset(tmp_path)
    assert len(dataset["b"].instances) == 0


def test_annotations_alone_are_enough_to_score(tmp_path):
    write_table(tmp_path / "train.csv.gz", [("a", "1 2")])
    dataset = load_dataset(tmp_path, need_images=False)
    assert dataset["a"].image_path is None
    assert dataset["a"].size == (12, 16)
    with pytest.raises(SomasegError, match="image a: its file was not found"):
        dataset["a"].image()


def test_images_may_lie_elsewhere_and_be_tiff(tmp_path):
    write_image(tmp_path / "pictures" / "a.tif")
    write_table(tmp_path / "table" / "train.csv", [("a", "1 2")])
    dataset = load_dataset(tmp_path / "table", images=tmp_path / "pictures")
    assert dataset["a"].image_path == tmp_path / "pictures" / "a.tif"


BAD_ROWS = {
    "odd count": ("1 2 17", "3 numbers, an odd count"),
    "not a number": ("1 2 x 4", r"'x' \(number 3\) is not a whole number"),
    "run outside": ("191 3", r"run 191 3 ends outside the image"),
    "run overlap": ("1 5 3 2", "run 3 2 overlaps run 1 5"),
    "bad run": ("0 2", "starts count from 1"),
    "empty mask": ("", "the mask is empty"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_each_bad_row_is_named_by_file_and_line(tmp_path, kind):
    runs, message = BAD_ROWS[kind]
    competition(tmp_path, [("a", "1 2"), ("a", runs)], images=["a"])
    with pytest.raises(SomasegError, match=rf"train\.csv line 3 \(image a\): .*{message}"):
        load_dataset(tmp_path)
    reading = read_dataset(tmp_path)
    assert [fault.kind for fault in reading.faults] == [kind]
    assert len(reading.dataset["a"].instances) == 1, "the sound row is read"
    assert reading.rows["a"] == ["line 2"]


def test_all_bad_rows_are_reported_not_only_the_first(tmp_path):
    rows = [("a", runs) for runs, _ in BAD_ROWS.values()]
    competition(tmp_path, [*rows, ("b", "900 1"), ("b", "1 2")])
    with pytest.raises(SomasegError) as caught:
        load_dataset(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 faults in the data:"
    assert sorted(int(line.split("line ")[1].split()[0]) for line in lines[1:]) == list(range(2, 9))


def test_a_long_list_is_cut_and_says_so(tmp_path):
    competition(tmp_path, [("a", "1")] * 31, images=["a"])
    with pytest.raises(SomasegError) as caught:
        load_dataset(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "31 faults in the data:"
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 11 more; `somaseg data check` lists them all"


def test_lenient_loading_counts_what_it_leaves_out(tmp_path):
    competition(tmp_path, [("a", "1 2"), ("a", "5")], images=["a"])
    with pytest.warns(UserWarning, match="1 faulty rows or images left out; the first: .*line 3"):
        dataset = load_dataset(tmp_path, strict=False)
    assert len(dataset["a"].instances) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1 2,16,12", r"line 3 \(image a\): 4 columns, the header has 5"),
        ("a,1 2,16,12,cort,more", r"line 3 \(image a\): 6 columns, the header has 5"),
        (",1 2,16,12,cort", "line 3: no image id"),
        ("a,1 2,sixteen,12,cort", "width 'sixteen' and height '12' must be whole numbers"),
        (f"a,1 2,{'9' * 4500},12,cort", "must be whole numbers above 0"),
        ("a,1 2,0,12,cort", "must be whole numbers above 0"),
        ("a,1 2,12,16,cort", "12×16 pixels, but 16×12 in line 2"),
        ("a,1 2,16,12,astro", "cell_type 'astro', but 'cort' in line 2"),
        ("b,1 2,16,12,", r"line 3 \(image b\): no cell_type, while other images have one of cort"),
    ],
)
def test_rows_that_contradict_the_others(tmp_path, row, message):
    competition(tmp_path, [("a", "1 2"), row], images=["a", "b"])
    with pytest.raises(SomasegError, match=message):
        load_dataset(tmp_path)


def test_missing_and_wrong_images(tmp_path):
    write_image(tmp_path / "train" / "b.png", size=(16, 12))
    (tmp_path / "train" / "c.png").write_bytes(b"no image")
    write_image(tmp_path / "train" / "d.png")
    write_image(tmp_path / "train" / "d.tif")
    write_table(tmp_path / "train.csv", [(name, "1 2") for name in "abcd"])
    with pytest.raises(SomasegError) as caught:
        load_dataset(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 faults in the data:"
    assert "image a): no image a in" in lines[1]
    assert "annotated on 16×12 pixels, but b.png has 12×16" in lines[2]
    assert "c.png (image c): named .png but holds no PNG" in lines[3]
    assert "d.png and d.tif could both be image d" in lines[4]


def test_images_without_rows_are_noted(tmp_path):
    competition(tmp_path, [("a", "1 2")], images=["a", "extra"])
    reading = read_dataset(tmp_path)
    assert reading.dataset.ids == ["a"]
    (fault,) = reading.faults
    assert (fault.kind, fault.severity, fault.image) == (
        "image without annotation",
        "warning",
        "extra",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected a CSV table with a header"),
        (b"id,annotation\n", "no images in it"),
        (b"name,runs\na,1 2\n", "has the columns name, runs; expected id and annotation"),
        (b"id,annotation\n\xff\xfe,1 2\n", "not a CSV table in UTF-8"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(SomasegError, match=rf"train\.csv: .*{message}|train\.csv: {message}"):
        load_dataset(path)


def test_a_truncated_gzip_is_named(tmp_path):
    text = "id,annotation,width,height\n" + "a,1 2,16,12\n" * 5000
    data = gzip.compress(np.random.default_rng(0).bytes(9) + text.encode())
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(text.encode())[:-30])
    with pytest.raises(SomasegError, match=r"train\.csv\.gz: truncated or no gzip file"):
        load_dataset(tmp_path)
    (tmp_path / "train.csv.gz").write_bytes(data[5:])
    with pytest.raises(SomasegError, match=r"train\.csv\.gz: truncated or no gzip file"):
        load_dataset(tmp_path / "train.csv.gz")


def test_a_mask_longer_than_the_csv_modules_limit(tmp_path):
    """Every other pixel of a large image: 2 MB in one cell."""
    size = (600, 1000)
    write_image(tmp_path / "a.png", size=size)
    runs = " ".join(f"{start} 1" for start in range(1, 600_000, 2))
    (tmp_path / "train.csv").write_text(f"id,annotation,width,height\na,{runs},1000,600\n")
    assert load_dataset(tmp_path)["a"].instances.areas.tolist() == [300_000]
