import json
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somaseg.data import Dataset, Sample, load_folds, make_folds, save_folds
from somaseg.errors import SomasegError
from somaseg.instances import Instances

NAMES = ("astro", "cort", "shsy5y")


def cells(count, label=0):
    masks = Instances.empty((1, 1), NAMES)
    if not count:
        return masks
    one = Instances.from_runs((1, 1), ["1 1"], classes=label, names=NAMES)
    return one[[0] * count]


def dataset(images):
    """Images from (class, cells, group)."""
    samples = tuple(
        Sample(f"i{n:03d}", (1, 1), None, cells(count), kind, group)
        for n, (kind, count, group) in enumerate(images)
    )
    return Dataset(samples, NAMES, "here")


image = st.tuples(
    st.sampled_from([*NAMES, None]), st.integers(0, 30), st.sampled_from([None, "A", "B", "C"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(image, min_size=2, max_size=40), st.integers(2, 6), st.integers(0, 5), st.data())
def test_every_image_has_a_fold_groups_stay_together_and_order_does_not_matter(
    images, k, seed, data
):
    whole = dataset(images)
    units = {sample.group or sample.id for sample in whole}
    if len(units) < k:
        with pytest.raises(SomasegError, match=f"here: {len(units)} .* cannot fill {k} folds"):
            make_folds(whole, k, seed)
        return
    folds = make_folds(whole, k, seed)
    assert list(folds) == sorted(whole.ids)
    assert set(folds.values()) == set(range(k)), "no fold is empty"
    by_group = defaultdict(set)
    for sample in whole:
        by_group[sample.group].add(folds[sample.id])
    assert all(len(found) == 1 for group, found in by_group.items() if group)
    shuffled = whole.subset(data.draw(st.permutations(whole.ids)))
    assert make_folds(shuffled, k, seed) == folds


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 500), st.none()), min_size=6),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_without_groups_each_class_is_spread_to_within_one_image(images, k, seed):
    whole = dataset(images)
    folds = make_folds(whole, k, seed)
    for name in NAMES:
        counts = [0] * k
        for sample in whole:
            counts[folds[sample.id]] += sample.image_class == name
        assert max(counts) - min(counts) <= 1
    total = Counter(folds.values())
    assert max(total.values()) - min(total.values()) <= 2, "the rests do not pile up"


def test_cells_are_spread_as_well():
    """24 images of one class, from 1 to 24² cells: a third each, to within a tenth."""
    whole = dataset([("cort", n * n, None) for n in range(1, 25)])
    for seed in range(5):
        folds = make_folds(whole, 3, seed)
        sums = Counter()
        for sample in whole:
            sums[folds[sample.id]] += len(sample.instances)
        mean = sum(sums.values()) / 3
        assert all(abs(count - mean) < 0.1 * mean for count in sums.values()), sums


def test_seeds_differ():
    whole = dataset([("cort", 5, None)] * 12)
    assert len({tuple(make_folds(whole, 3, seed).values()) for seed in range(5)}) > 1


def test_large_groups_are_spread_before_small_ones():
    """Wells of 8, 4, 4 and single images: 8 on either side, not 12 and 4."""
    groups = ["A"] * 8 + ["B"] * 4 + ["C"] * 4
    folds = make_folds(dataset([("cort", 3, group) for group in groups]), 2, 0)
    assert Counter(folds.values()) == {0: 8, 1: 8}


def test_a_group_may_be_called_as_an_image():
    whole = dataset([("cort", 1, "i001"), ("cort", 1, None), ("cort", 1, "i001")])
    folds = make_folds(whole, 2, 0)
    assert folds["i000"] == folds["i002"] != folds["i001"]


def test_too_few():
    with pytest.raises(SomasegError, match="1 folds; at least 2 are needed"):
        make_folds(dataset([("cort", 1, None)] * 3), 1)
    with pytest.raises(SomasegError, match="here: 2 groups cannot fill 3 folds; ask for 2"):
        make_folds(dataset([("cort", 1, "A")] * 5 + [("cort", 1, "B")]), 3)


def test_saved_folds_come_back(tmp_path):
    whole = dataset([("cort", 1, None)] * 7)
    folds = make_folds(whole, 3, 0)
    save_folds(tmp_path / "folds.json", folds)
    assert load_folds(tmp_path / "folds.json", whole) == folds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no folds; expected"),
        ({"k": 2, "folds": {"i000": "0"}}, "no folds; expected"),
        ({"k": 3, "folds": {"i000": 0, "i001": 1}}, r"says k = 3 but uses folds \[0, 1\]"),
        ({"k": 3, "folds": {"i000": 0, "i001": 2}}, r"says k = 3 but uses folds \[0, 2\]"),
        ({"k": 1, "folds": {"i000": 0}}, r"1 images \(i001\) are in here but have no fold"),
        (
            {"k": 2, "folds": {"i000": 0, "i001": 1, "x": 1, "y": 1}},
            r"2 images \(x, y\) have a fold but are not in here; make folds anew",
        ),
    ],
)
def test_folds_of_other_images_are_refused(tmp_path, content, message):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SomasegError, match=rf"folds\.json: {message}"):
        load_folds(path, dataset([("cort", 1, None)] * 2))
