import json
import subprocess
import sys

import pytest
import typer
import yaml
from typer.testing import CliRunner

from somaseg.cli.models import models
from somaseg.models import catalogue
from somaseg.models.registry import families, preset_names
from tests.cli.run import somaseg
from tests.models.test_catalogue import ONE

app = typer.Typer()
app.command()(models)


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def measured(tmp_path, monkeypatch):
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"flow_lite": ONE.model_dump()}))
    monkeypatch.setattr(catalogue, "measured_file", lambda: path)


def test_table(measured):
    lines = {words[0]: line for line in run().splitlines() if (words := line.split())}
    assert set(preset_names()) <= set(lines)
    assert set(families()) <= set(lines)
    assert "12.3 M" in lines["flow_lite"]
    assert "3.0 GiB" in lines["flow_lite"]
    assert "not measured" in lines["pixel_forest"]


def test_json(measured):
    listed = json.loads(run("--json"))
    assert set(listed["families"]) == set(families())
    by_name = {preset["name"]: preset for preset in listed["presets"]}
    assert by_name["flow_lite"]["measured"] == ONE.model_dump()
    assert by_name["pixel_forest"]["measured"] is None


def test_one_preset_as_yaml_and_json():
    fields = yaml.safe_load(run("pixel_forest"))
    assert fields["model"]["family"] == "pixel_forest"
    assert json.loads(run("pixel_forest", "--json")) == fields


def test_help_needs_no_model():
    code = (
        "import sys\nfrom somaseg.cli.models import models\n"
        "print([m for m in ('torch', 'xgboost', 'pydantic', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_card_of_the_shipped_model_tells_data_licence_and_score():
    facts = yaml.safe_load(run("--card"))
    assert "Sartorius" in facts["data"]
    assert "non-commercial" in facts["licence"]
    assert "out of fold" in facts["scores"]
    assert set(facts["settings"]) == {"astro", "cort", "shsy5y"}
    assert json.loads(run("--card", "--json")) == facts


def test_a_card_of_what_is_not_there():
    done = somaseg("models", "nothing.safetensors", "--card", check=False)
    assert done.returncode == 2
    assert "nothing.safetensors: no such model or run" in done.stderr


def test_names_are_whole_in_a_narrow_terminal():
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, catch_exceptions=False).stdout
    assert set(preset_names()) <= set(shown.split())


def test_the_table_needs_no_network():
    code = (
        "import sys\nfrom somaseg.cli.models import models\nmodels()\n"
        "heavy = [m for m in ('torch', 'numba', 'cv2', 'scipy', 'numpy') if m in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flow_lite" in done.stdout
    assert done.stderr.strip() == "[]"
