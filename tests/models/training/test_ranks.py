"""Two processes on one processor train as one does with the whole batch; one of them writes."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from somaseg.models.flow.model import FlowModel
from somaseg.models.registry import parse_config
from somaseg.models.training.info import learn_info
from somaseg.models.training.loop import train_network
from somaseg.models.training.settings import TrainSettings
from tests.models.contract import training_samples

CONFIG = {"family": "flow", "decoder": (16, 16, 8, 8), "diameter": 16.0, "pretrained": "none"}


class Apart(FlowModel):
    """Without what is of a process's own crops: batch statistics, and the mean over their cells."""

    def losses(self, batch):
        losses = super().losses(batch)
        del losses["class"]
        return losses

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def train(data, folder, batch):
    """Train on the images in ``data``; leave the weights in ``folder``."""
    rank = os.environ.get("RANK", "0")
    (data / rank).mkdir(exist_ok=True)
    samples = training_samples(data / rank)
    torch.manual_seed(0)
    info = learn_info(samples)
    model = Apart(parse_config(CONFIG), info)
    # AdamW's first steps are as large for gradients of rounding alone as for any others.
    settings = TrainSettings(
        steps=4, batch=batch, crop=64, log_every=2, optimizer="sgd", rate=1e-2, average=0.5
    )
    seen = []
    train_network(model, samples, settings, folder, progress=lambda *told: seen.append(told[0]))
    assert seen == ([1, 2, 3, 4] if rank == "0" else [])
    torch.save(model.state_dict(), folder / f"weights{rank}.pt")


def torchrun(*arguments):
    options = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--standalone", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "SOMASEG_DEVICE": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    torchrun("tests.models.training.test_ranks", tmp_path, tmp_path / "two", 1)
    train(tmp_path, tmp_path / "one", 2)
    one = torch.load(tmp_path / "one/weights0.pt")
    for rank in range(2):
        two = torch.load(tmp_path / f"two/weights{rank}.pt")
        for name, weights in one.items():
            assert torch.allclose(weights, two[name], rtol=1e-4, atol=1e-6), name
    rows = [list(csv.DictReader((tmp_path / x / "metrics.csv").open())) for x in ("one", "two")]
    assert [row["step"] for row in rows[1]] == ["2", "4"]
    assert float(rows[0][0]["gradient"]) > 0.01
    for mine, theirs in zip(*rows, strict=True):
        for name in mine.keys() - {"seconds"}:
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-3, abs=2e-5), name


if __name__ == "__main__":
    from pathlib import Path

    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
