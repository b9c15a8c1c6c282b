"""Tasks on a Dask cluster: a real scheduler and two real workers, killed and restarted."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from somaseg.data.synthetic import make_image, write_dataset
from somaseg.errors import SomasegError
from somaseg.runs import cluster as module
from somaseg.runs.cluster import connected
from somaseg.runs.execute import execute, executor
from somaseg.runs.queues import read_needs
from tests.cli.run import somaseg
from tests.test_house import SOURCE

Client = pytest.importorskip("distributed").Client

MODEL = {"family": "flow", "decoder": [16, 16, 8, 8], "diameter": 16, "pretrained": "none"}
TRAINING = {"steps": 8, "batch": 1, "crop": 64, "log_every": 1, "checkpoint_minutes": 0.0001}
TASK = """
import json, os, sys, time
what, path = sys.argv[1:]
told = {"pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
print(json.dumps(told | {"malloc": [n for n in os.environ if n.startswith("MALLOC")]}), flush=True)
for step in range(200 if what == "long" else 3):
    print(json.dumps({"stage": "train", "done": step, "total": 600}), flush=True)
    time.sleep(0.05)
if what == "fail":
    print(json.dumps({"error": "no such image"}), flush=True)
    sys.exit(2)
if what == "once":  # the worker dies under the first one alone
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getppid(), 9)
        time.sleep(60)
with open(path, "a") as file:
    file.write(what)
"""


class Place:
    """A scheduler at an address that stays, and its workers."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        (folder / "task_of_a_test.py").write_text(TASK)
        self.port = 0
        self.start()

    def dask(self, *words):
        log = (self.folder / f"{words[0]}.log").open("a")
        path = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path},
            )
        )

    def start(self):
        told = self.folder / "scheduler.json"
        told.unlink(missing_ok=True)
        here = ("--host", "127.0.0.1")
        self.dask("scheduler", *here, "--port", self.port, "--scheduler-file", told)
        wait_for(lambda: told.exists() and told.read_text().endswith("}"))
        self.address = json.loads(told.read_text())["address"]
        self.port = int(self.address.rpartition(":")[2])
        for _ in range(2):
            self.dask(
                "worker", self.address, *here, "--nthreads", 1, "--local-directory", "scratch"
            )

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(2)

    def stop(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes = []


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("cluster"))
    data = write_dataset(place.folder / "data", n_per_class=1, size=(64, 64), n_test=1)
    plan = {
        "data": {"path": str(data)},
        "folds": 2,
        "jobs": 2,
        "members": [{"name": "one", "model": MODEL, "training": TRAINING}],
    }
    (place.folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    yield place
    place.stop()


@pytest.fixture(scope="module")
def local(place):
    somaseg("fit", "--plan", place.folder / "plan.yaml", "--out", place.folder / "local")
    return place.folder / "local"


def run(place, out, *tasks, jobs=2, report=lambda *_: None):
    with connected(place.address, out, []) as cluster:
        assert cluster.jobs == 2
        cluster.execute([(w, [w, str(out / w)]) for w in tasks], jobs, report, "task_of_a_test")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().split()[3])


def training(out):
    """Process that trains a fold, once it has a checkpoint."""

    def look():
        for checkpoint in out.glob("members/one/fold*/checkpoint.safetensors"):
            with contextlib.suppress(OSError, ValueError):
                return json.loads((checkpoint.parent / ".holder.json").read_text())["pid"]
        return None

    return wait_for(look)


def same(one, other):
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (one, other)]
    for found in scores:
        for member in found["members"].values():
            del member["training"]  # the time it took
    assert scores[0] == scores[1]
    models = sorted(one.glob("members/*/fold*/model.safetensors"))
    assert len(models) == 2
    for path in models:
        tensors, others = load_file(path), load_file(other / path.relative_to(one))
        assert all(np.array_equal(tensors[name], others[name]) for name in tensors)


def test_tasks_tell_as_they_go_and_leave_their_files(place, tmp_path):
    told = []
    run(place, tmp_path / "out", "a", "b", "c", report=lambda *event: told.append(event))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    for name in "abc":
        events = [event for task, event in told if task == name]
        assert "began" in events[0]
        assert events[1]["threads"] == "1"
        assert not events[1]["malloc"]  # what Dask sets makes networks slow
        assert any(event.get("stage") == "train" for event in events)
        assert events[-1] == {"ended": 0}
    assert len({event["began"] for _, event in told if "began" in event}) == 2


def test_a_task_that_fails_is_told_in_one_line(place, tmp_path):
    with pytest.raises(SomasegError, match=r"^fail: no such image$"):
        run(place, tmp_path, "fail", "late", jobs=1)
    assert not (tmp_path / "late").exists()


def test_ctrl_c_ends_the_processes_on_the_workers(place, tmp_path):
    pids = []

    def report(name, event):
        if "pid" in event:
            pids.append(event["pid"])
            if len(pids) == 2:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    tasks = [(name, ["long", str(tmp_path / name)]) for name in "ab"]
    with pytest.raises(KeyboardInterrupt), connected(place.address, tmp_path, []) as cluster:
        cluster.execute(tasks, 2, report, "task_of_a_test")
    assert len(pids) == 2
    assert not any(map(alive, pids))
    assert list(tmp_path.iterdir()) == []


COMMAND = """
import sys
from distributed import Client
from somaseg.runs.remote import work
client = Client(sys.argv[1])
client.submit(work, "a", "task_of_a_test", ["long", sys.argv[2]], {}, "killed", {}, []).result()
"""


def test_tasks_end_with_a_command_that_is_killed(place, tmp_path):
    words = [sys.executable, "-c", COMMAND, place.address, str(tmp_path / "a")]
    command = subprocess.Popen(words)
    with Client(place.address, set_as_default=False) as client:

        def pids():
            events = [message[1] for _, message in client.get_events("killed")]
            return [event["pid"] for event in events if "pid" in event]

        (pid,) = wait_for(pids)
    assert alive(pid)
    command.kill()
    command.wait()
    wait_for(lambda: not alive(pid), 5)
    assert not (tmp_path / "a").exists()


def test_a_task_whose_worker_dies_is_done_by_another(place, tmp_path):
    told = []
    run(place, tmp_path, "once", report=lambda *event: told.append(event))
    assert sum("began" in event for _, event in told) == 2
    assert (tmp_path / "once").read_text() == "once"


def test_a_fit_loses_nothing_with_a_worker_that_is_killed(place, local):
    """Its scores, and its weights to the bit, are those of the fit on this machine."""
    out = place.folder / "killed"
    killed = []

    def kill():
        task = training(out)
        killed.append(parent(task))
        os.kill(killed[0], signal.SIGKILL)
        wait_for(lambda: not alive(task), 5)

    thread = threading.Thread(target=kill)
    thread.start()
    plan = place.folder / "plan.yaml"
    somaseg("fit", "--plan", plan, "--out", out, "--cluster", place.address)
    thread.join()
    assert killed
    assert killed[0] != os.getpid()
    same(local, out)
    assert not list(out.glob(".cluster-*"))


def test_a_scheduler_that_is_restarted_loses_nothing(place, local):
    out = place.folder / "restarted"

    def restart():
        training(out)
        place.stop()

    thread = threading.Thread(target=restart)
    thread.start()
    plan = place.folder / "plan.yaml"
    words = ("fit", "--plan", plan, "--out", out, "--cluster", place.address)
    done = somaseg(*words, check=False)
    thread.join()
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the scheduler has gone" in done.stderr
    begun = list(out.glob("members/one/fold*/checkpoint.safetensors"))
    assert begun
    place.start()
    somaseg("fit", "--resume", "--out", out, "--cluster", place.address)
    same(local, out)


def done_images(out):
    indexes = (out / ".predict").glob("*/index.jsonl")
    return sorted(json.loads(line)["id"] for path in indexes for line in path.open())


def test_predictions_are_those_of_this_machine_and_none_is_made_twice(place, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        cv2.imwrite(str(images / f"{number}.png"), make_image("cort", number, (64, 64))[0])
    (images / "broken.png").write_bytes((images / "4.png").read_bytes()[:200])
    done = somaseg("predict", images, "--out", tmp_path / "here", check=False)
    assert done.returncode == 1
    words = ("predict", images, "--out", tmp_path / "there", "--cluster", place.address)
    done = somaseg(*words, check=False)
    assert done.returncode == 1  # an image was left out
    assert "5 images" in done.stdout
    assert done.stderr.count("broken.png") == 1
    assert done_images(tmp_path / "there") == list("01234")
    assert len(list((tmp_path / "there/.predict").glob("*-of-2/index.jsonl"))) == 2
    for path in (tmp_path / "here").rglob("*.*"):
        other = tmp_path / "there" / path.relative_to(tmp_path / "here")
        if path.suffix in (".tif", ".csv", ".json", ".png") and ".predict" not in path.parts:
            assert path.read_bytes() == other.read_bytes()
    (tmp_path / "there/labels/3.tif").unlink()
    assert somaseg(*words, check=False).returncode == 1
    assert done_images(tmp_path / "there") == list("012334")
    done = somaseg(*words, "--shard", "1/2", check=False)
    assert "--shard: leave it out" in done.stderr


def test_members_predict_on_workers_as_they_do_here(place, local, tmp_path):
    models = sorted(local.glob("**/fold?/model.safetensors"))
    assert len(models) == 2
    words = ("ensemble", *models, "--images", place.folder / "data" / "train", "--out")
    somaseg(*words, tmp_path / "here")
    done = somaseg(*words, tmp_path / "there", "--cluster", place.address)
    assert "3 images" in done.stdout
    here = {path.name: path for path in (tmp_path / "here").rglob("*.*")}
    there = {path.name: path for path in (tmp_path / "there").rglob("*.*")}
    assert here.keys() - {".holder.json"} == there.keys() - {".holder.json"}
    one, other = (np.load(found["predictions.npz"]) for found in (here, there))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert here["predictions.json"].read_bytes() == there["predictions.json"].read_bytes()

    words = ("ensemble", tmp_path / "here", "--out", tmp_path / "again")
    done = somaseg(*words, "--cluster", place.address, check=False)
    assert "no member predicts anything here; give --images" in done.stderr


# ---- bad input: one line each, before anything starts ----


@pytest.mark.parametrize("command", ["train", "fit", "search", "predict"])
def test_no_scheduler(command, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT", 0.5)
    data = write_dataset(tmp_path / "data", n_per_class=1, size=(64, 64), n_test=1)
    words = [data / "test" if command == "predict" else data]
    if command == "search":
        (tmp_path / "space.yaml").write_text("training.rate: {choices: [0.001, 0.002]}\n")
        words += ["--space", tmp_path / "space.yaml"]
    words += ["--out", tmp_path / "out", "--cluster", "tcp://127.0.0.1:9"]
    done = somaseg(command, *words, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no scheduler answers" in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_versions(place, tmp_path, monkeypatch):
    mine = module.versions() | {"torch": "0.1"}
    monkeypatch.setattr(module, "versions", lambda: mine)
    message = r"worker tcp://.* has torch [\d.+a-z]+ for 0\.1; install the same versions"
    with pytest.raises(SomasegError, match=message), connected(place.address, tmp_path / "out", []):
        pass
    assert not (tmp_path / "out").exists()


def test_files_that_workers_do_not_see(place, tmp_path):
    message = "does not see .*elsewhere; use a folder that all machines share"
    with (
        pytest.raises(SomasegError, match=message),
        connected(place.address, tmp_path / "out", [tmp_path / "elsewhere"]),
    ):
        pass


def test_more_than_workers_offer(place, tmp_path):
    (tmp_path / "c.yaml").write_text(f"scheduler: {place.address}\ncores: 2\ngpus: 1\n")
    message = r"no worker offers cores=2 GPU=1, .*dask worker .* --resources 'cores=2 GPU=1'"
    with (
        pytest.raises(SomasegError, match=message),
        connected(str(tmp_path / "c.yaml"), tmp_path, []),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduler: slurm\n", "memory: Field required; workers: Field required"),
        ("scheduler: tcp://a:1\nwalltime: 1h\n", "walltime: Extra inputs"),
        ("scheduler: slurm\nworkers: 2\nmemory: much\n", "memory: Value error"),
        ("scheduler: condor\n", "scheduler: String should match"),
        ("[1]", "expected fields"),
    ],
)
def test_files_of_clusters(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SomasegError, match=rf"c\.yaml: .*{message}") as told:
        read_needs(str(tmp_path / "c.yaml"))
    assert "\n" not in str(told.value)
    with pytest.raises(SomasegError, match="--cluster nowhere: scheduler"):
        read_needs("nowhere")


@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf", "sge"])
def test_a_batch_system_is_asked_for_what_the_file_says(system, tmp_path):
    jobqueue = pytest.importorskip("dask_jobqueue")
    (tmp_path / "c.yaml").write_text(
        f"scheduler: {system}\nworkers: 3\ncores: 4\nmemory: 16GB\ngpus: 1\nwalltime: '02:00'\n"
        "queue: fast\naccount: lab\nlifetime: 100m\ndirectives: [--gres=gpu:1]\n"
        "prologue: ['. env/bin/activate']\n"
    )
    needs = read_needs(str(tmp_path / "c.yaml"))
    assert needs.resources == {"cores": 4, "memory": 16e9, "GPU": 1}
    name = {"slurm": "SLURM", "pbs": "PBS", "lsf": "LSF", "sge": "SGE"}[system]
    options = needs.options()
    if system == "lsf":
        options |= {"lsf_units": "mb", "use_stdin": True}  # else its own command is asked
    with getattr(jobqueue, f"{name}Cluster")(**options) as found:
        script = found.job_script()
    for part in ("fast", "lab", "02:00", "--gres=gpu:1", ". env/bin/activate", "--lifetime 100m"):
        assert part in script
    assert "--resources cores=4,GPU=1,memory=16000000000" in script


def test_tasks_run_on_workers_that_a_queue_starts(tmp_path, monkeypatch):
    """A queue that starts its jobs at once, on this machine."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    from dask_jobqueue.local import LocalCluster

    def local(queue, account, **options):
        return LocalCluster(**options)

    monkeypatch.setattr(jobqueue, "SLURMCluster", local)
    (tmp_path / "c.yaml").write_text("scheduler: slurm\nworkers: 1\nmemory: 1GB\n")
    with (
        pytest.raises(SomasegError, match="no `sbatch` here"),
        connected(str(tmp_path / "c.yaml"), tmp_path / "out", []),
    ):
        pass
    monkeypatch.setattr("shutil.which", lambda name: name)
    (tmp_path / "task_of_a_test.py").write_text(TASK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    (tmp_path / "c.yaml").write_text(
        "scheduler: slurm\nworkers: 1\ncores: 2\nmemory: 2GB\n"
        f"interface: lo\nlocal_directory: {tmp_path}\nlog_directory: {tmp_path}\n"
    )
    told = []
    with connected(str(tmp_path / "c.yaml"), tmp_path / "out", []) as cluster:
        assert cluster.jobs == 1
        tasks = [("a", ["a", str(tmp_path / "out/a")])]
        cluster.execute(tasks, 5, lambda *event: told.append(event), "task_of_a_test")
    assert (tmp_path / "out/a").read_text() == "a"
    assert any(event.get("threads") == "2" for _, event in told)


def test_a_batch_system_that_takes_no_job_is_told_at_once(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    submit = tmp_path / "bin" / "sbatch"
    submit.parent.mkdir()
    submit.write_text("#!/bin/sh\necho 'sbatch: error: invalid\naccount lab' >&2\nexit 1\n")
    submit.chmod(0o755)
    monkeypatch.setenv("PATH", f"{submit.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "c.yaml").write_text("scheduler: slurm\nworkers: 2\nmemory: 1GB\ninterface: lo\n")
    begun = time.monotonic()
    with (
        pytest.raises(SomasegError) as told,
        connected(str(tmp_path / "c.yaml"), tmp_path / "out", []),
    ):
        pass
    assert time.monotonic() - begun < 30
    assert str(told.value) == (
        f"--cluster {tmp_path}/c.yaml: slurm takes no job: sbatch: error: invalid account lab"
    )


def test_here_is_where_tasks_run_without_a_cluster(tmp_path):
    with executor(None, tmp_path / "out") as found:
        assert found.execute is execute
        assert not found.cluster
    assert not (tmp_path / "out").exists()


def test_dask_is_imported_for_a_cluster_alone():
    """By functions, never by a module as it is imported."""
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"^(import|from) (dask|distributed)\b", path.read_text(), re.M), path
