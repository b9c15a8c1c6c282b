"""Names of files made of data, marked folders, regular files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from somaseg.errors import SomasegError
from somaseg.files import MARK, check_apart, check_regular, file_name, own_folder, remove_folder


@given(st.lists(st.text(max_size=300), min_size=2, max_size=6, unique=True))
def test_other_names_give_other_files(names: list[str]) -> None:
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    for one in made:
        assert "/" not in one
        assert "\\" not in one
        assert "\0" not in one
        assert one not in ("", ".", "..")
        assert not one.startswith(".")
        assert len(one.encode()) <= 170


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0140b3c8f445", "0140b3c8f445"),
        ("shsy5y[diff]_E10-4", "shsy5y[diff]_E10-4"),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("../../etc", "%2E.%2F..%2Fetc"),
        ("..", "%2E%2E"),
        ("/root/x", "%2Froot%2Fx"),
        ("NUL.tif", "%4EUL.tif"),
    ],
)
def test_names_are_readable_and_stay_in_their_folder(name: str, expected: str) -> None:
    assert file_name(name) == expected


def test_composed_and_decomposed_names_differ() -> None:
    assert file_name("\u00e9") != file_name("e\u0301")


def test_only_own_folders_are_removed(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "data.tif").write_text("precious")
    remove_folder(foreign)
    assert (foreign / "data.tif").exists()
    with pytest.raises(SomasegError, match="did not write"):
        own_folder(foreign)
    mine = own_folder(tmp_path / "mine")
    assert (own_folder(mine) / MARK).exists()
    (mine / "tile").write_text("x")
    remove_folder(mine)
    assert not mine.exists()


def test_two_that_take_up_one_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one marks it, and fills it, after this one has seen no mark."""
    listed = Path.iterdir

    def late(path: Path) -> Iterator[Path]:
        (path / MARK).touch()
        (path / "theirs").mkdir()
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", late)
    assert own_folder(tmp_path / "shared") == tmp_path / "shared"


def test_a_link_to_an_own_folder_is_left_alone(tmp_path: Path) -> None:
    mine = own_folder(tmp_path / "mine")
    link = tmp_path / "link"
    link.symlink_to(mine)
    remove_folder(link)
    assert mine.exists()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, reason in [
        ("pipe", "pipe"),
        ("gone", "link"),
        ("none", "no such file"),
        (".", "folder"),
    ]:
        with pytest.raises(SomasegError, match=reason):
            check_regular(tmp_path / name)
    with pytest.raises(SomasegError, match="device"):
        check_regular("/dev/zero")
    (tmp_path / "plain").touch()
    assert check_regular(tmp_path / "plain") == tmp_path / "plain"


def test_what_is_read_is_not_written_over(tmp_path):
    one, other = tmp_path / "one.tif", tmp_path / "other.tif"
    one.write_bytes(b"1")
    check_apart([one], [other, tmp_path / "missing" / "one.tif"])
    (tmp_path / "soft.tif").symlink_to(one)
    (tmp_path / "hard.tif").hardlink_to(one)
    for output in (one, tmp_path / "." / "one.tif", tmp_path / "soft.tif", tmp_path / "hard.tif"):
        with pytest.raises(SomasegError) as told:
            check_apart([other, one], [tmp_path / "new", output])
        assert str(told.value).startswith(f"{output}: would be written over {one}")
