"""A few seconds of the fuzzer; the long run is by hand (docs/reliability.md)."""

import sys

import pytest

from tests.fuzz.fuzz import fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched in /proc")


def test_damaged_inputs_are_refused_in_one_line():
    done, findings = fuzz(150, seed=20)
    assert not findings, findings[0]
    assert sum(done.values()) == 150
    assert len(done) > 8


def test_damaged_models_and_runs_are_refused_in_one_line():
    done, findings = fuzz(60, seed=20, of="models")
    assert not findings, findings[0]
    assert sum(done.values()) == 60
    assert len(done) > 6
