"""The plan: what is chosen for which data, machine and time; and its YAML."""

import pytest
import yaml

from somaseg.data import load_dataset
from somaseg.data.fingerprint import fingerprint
from somaseg.data.synthetic import write_dataset
from somaseg.errors import SomasegError
from somaseg.models.registry import load_preset
from somaseg.runs.machine import GIB, Hardware, find_hardware
from somaseg.runs.plan import (
    CANDIDATES,
    LEAST_STEPS,
    MOST_STEPS,
    TRAINING_SHARE,
    make_plan,
)
from somaseg.runs.plan_file import read_plan, write_plan
from somaseg.runs.run import DataConfig

LAPTOP = Hardware(cores=2, memory=16 * GIB)
SPEED = dict.fromkeys(CANDIDATES["cpu"], 1.0)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, n_per_class=2, size=(96, 96), n_test=0)
    return fingerprint(load_dataset(folder))


def planned(facts, budget=7200.0, hardware=LAPTOP, seconds=SPEED, **options):
    return make_plan(DataConfig(path="data"), facts, hardware, budget, seconds, **options)


def test_training_fills_the_time_given(facts):
    plan = planned(facts, budget=7200).plan
    cost = plan.folds * sum(m.training.steps * SPEED[m.preset] for m in plan.members)
    assert cost == pytest.approx(7200 * TRAINING_SHARE * 2, rel=0.01)


def test_little_time_buys_fewer_members_not_worse_ones(facts):
    least = load_preset(CANDIDATES["cpu"][0]).training["steps"]
    short = planned(facts, budget=3 * least * 0.7 / TRAINING_SHARE / 2).plan
    assert [m.name for m in short.members] == [CANDIDATES["cpu"][0]]
    assert short.members[0].training.steps >= LEAST_STEPS * least
    long = planned(facts, budget=86_400).plan
    assert [m.name for m in long.members] == list(CANDIDATES["cpu"])
    for member in long.members:
        assert member.training.steps <= MOST_STEPS * load_preset(member.preset).training["steps"]


def test_too_little_time_says_how_much_is_needed(facts):
    with pytest.raises(SomasegError, match=r"--budget: there is time for 0%.*give at least \d"):
        planned(facts, budget=1)


def test_too_few_images(facts):
    few = facts.model_copy(update={"annotated": 3})
    with pytest.raises(SomasegError, match="3 annotated images; four are the least"):
        planned(few)


def test_small_images_get_small_crops(facts):
    plan = planned(facts).plan
    assert all(m.training.crop == 192 for m in plan.members)


@pytest.mark.parametrize(
    ("hardware", "jobs"),
    [
        (Hardware(8, 64 * GIB), 8),
        (Hardware(8, 8 * GIB), 2),
        (Hardware(2, 0), 2),
        (Hardware(8, 64 * GIB, 2, 24 * GIB), 2),
    ],
)
def test_jobs_fit_the_machine(hardware, jobs):
    assert hardware.jobs == jobs


def test_this_machine():
    found = find_hardware()
    assert found.cores >= 1
    assert found.memory > GIB


def test_the_file_says_why_and_reads_back(facts, tmp_path):
    made = planned(facts, weights={"cort": 2.0, "astro": 1.0, "shsy5y": 1.0}, seed=3)
    path = tmp_path / "plan.yaml"
    write_plan(path, made)
    assert read_plan(path) == made.plan
    lines = path.read_text().splitlines()
    for name, reason in made.reasons.items():
        field = name.rpartition(".")[2]
        at = next(i for i, line in enumerate(lines) if line.strip() == f"# {reason}")
        assert lines[at + 1].strip().removeprefix("- ").startswith(f"{field}:") or field.isdigit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds: Input should be greater than or equal to 2"),
        ({"members": []}, "members: Tuple should have at least 1 item"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_plan_is_told_in_one_line(facts, tmp_path, change, message):
    path = tmp_path / "plan.yaml"
    write_plan(path, planned(facts))
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(SomasegError) as caught:
        read_plan(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_members(facts, tmp_path):
    path = tmp_path / "plan.yaml"
    write_plan(path, planned(facts))
    fields = yaml.safe_load(path.read_text())
    fields["members"].append(fields["members"][0])
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(SomasegError, match="two members have one name"):
        read_plan(path)
    fields["members"][-1] = fields["members"][0] | {"name": "b", "model": {"family": "oracle"}}
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(SomasegError, match="member b: family 'oracle' is not one of"):
        read_plan(path)


def test_refitting_takes_its_share_of_the_time(facts):
    plain = planned(facts).plan
    again = planned(facts, refit=True)
    assert again.plan.refit
    assert not plain.refit
    for one, other in zip(plain.members, again.plan.members, strict=True):
        share = plain.folds / (plain.folds + 1)
        assert other.training.steps == pytest.approx(one.training.steps * share, abs=1.5)
    assert "all images" in again.reasons["members.0.training.steps"]
