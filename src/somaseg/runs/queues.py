"""What a cluster is: the address of a Dask scheduler, or a batch system that is asked for workers.

The file of ``--cluster FILE.yaml``::

    scheduler: slurm        # or pbs, lsf, sge; or tcp://ADDRESS:8786
    workers: 20             # jobs in the queue; each runs one task at a time
    cores: 4                # of a worker, and so of a task
    memory: 16GB
    walltime: "08:00:00"
    queue: gpu
    gpus: 1
    directives: ["--gres=gpu:1"]

With an address, ``cores``, ``memory`` and ``gpus`` are what a task takes of what the workers offer.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from somaseg.errors import SomasegError
from somaseg.files import read_yaml
from somaseg.models.registry import validate

if TYPE_CHECKING:
    from dask_jobqueue.core import JobQueueCluster

_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
_COMMANDS = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}


class Needs(BaseModel):
    """What a task takes of a worker."""

    model_config = ConfigDict(extra="forbid")

    scheduler: str = Field(pattern=r"^[a-z]+://.+|^[\w.-]+:\d+$")
    cores: int = Field(1, ge=1, description="threads of a task")
    memory: str | None = Field(None, description="such as 16GB")
    gpus: int = Field(0, ge=0)

    @field_validator("memory")
    @classmethod
    def _size(cls, text: str | None) -> str | None:
        from dask.utils import parse_bytes

        if text is not None:
            parse_bytes(text)
        return text

    @property
    def resources(self) -> dict[str, float]:
        """What is asked for, in Dask's terms; a single core is no resource, but a thread."""
        from dask.utils import parse_bytes

        asked = {"cores": self.cores if self.cores > 1 else 0, "GPU": self.gpus}
        asked["memory"] = parse_bytes(self.memory) if self.memory else 0
        return {name: float(amount) for name, amount in asked.items() if amount}


class Queue(Needs):
    """Workers that a batch system starts, one a job; each runs one task at a time."""

    scheduler: Literal["slurm", "pbs", "lsf", "sge"]  # type: ignore[assignment]
    memory: str
    workers: int = Field(ge=1, description="jobs in the queue")
    walltime: str = Field("08:00:00", description="of a job, as the batch system writes it")
    lifetime: str | None = Field(
        None, description="after which a worker hands its task on, below the walltime: 7h"
    )
    queue: str | None = Field(None, description="queue or partition")
    account: str | None = Field(None, description="account or project")
    interface: str | None = Field(None, description="network of the nodes, such as ib0")
    directives: tuple[str, ...] = Field((), description='further ones, as "--gres=gpu:1"')
    prologue: tuple[str, ...] = Field((), description="shell lines before the worker starts")
    log_directory: str | None = None
    local_directory: str | None = Field(None, description="a fast disk of the nodes")

    def options(self) -> dict[str, Any]:
        """Arguments of dask-jobqueue's class."""
        offered = ",".join(f"{name}={amount:.0f}" for name, amount in self.resources.items())
        extra = ["--resources", offered]
        extra += ["--lifetime", self.lifetime] if self.lifetime else []
        names = ("cores", "memory", "walltime", "queue", "interface", "log_directory")
        return {
            **{name: getattr(self, name) for name in (*names, "local_directory")},
            "project" if self.scheduler in ("lsf", "sge") else "account": self.account,
            "processes": 1,
            "worker_extra_args": extra,
            "job_extra_directives": list(self.directives),
            "job_script_prologue": list(self.prologue),
            "scheduler_options": {"dashboard_address": ":0"},  # any free port
        }

    @property
    def resources(self) -> dict[str, float]:
        """What a worker offers and a task takes: all of it."""
        return super().resources | {"cores": float(self.cores)}

    def start(self) -> "tuple[JobQueueCluster, list[str]]":
        """Ask the batch system for the workers.

        Returns:
            The workers' cluster, and a list that what the batch system says when it refuses a job
            is put into, as it comes.

        Raises:
            SomasegError: dask-jobqueue is not installed, or refuses the settings; no jobs can be
                submitted from here.
        """
        try:
            import dask_jobqueue
        except ImportError as error:
            raise SomasegError("--cluster: run `pip install 'somaseg[cluster]'` first") from error
        submit = _COMMANDS[self.scheduler]
        if shutil.which(submit) is None:
            raise SomasegError(
                f"--cluster: there is no `{submit}` here; run this where jobs can be submitted to "
                f"{self.scheduler}"
            )
        try:
            found = getattr(dask_jobqueue, _CLASSES[self.scheduler])(**self.options())
            refusals: list[str] = []
            found.new_spec["cls"] = _telling(found.new_spec["cls"], refusals)
            found.adapt(
                minimum_jobs=self.workers, maximum_jobs=self.workers
            )  # ended ones come anew
        except (ValueError, RuntimeError, OSError) as error:
            raise SomasegError(f"--cluster: {self.scheduler}: {error}") from error
        return found, refusals


def _telling(kind: Any, refusals: list[str]) -> Any:
    """Make a kind of jobs that tell when they are refused; Dask forgets it and asks again."""
    from distributed import Status

    class Job(kind):  # type: ignore[misc]
        async def _submit_job(self, script_filename: str) -> str:
            try:
                answer: str = await super()._submit_job(script_filename)
            except (RuntimeError, OSError) as error:
                # dask-jobqueue tells the command, its output and, at the end, what it complains of.
                refusals.append(" ".join(str(error).rpartition("stderr:")[2].split()))
                self.status = Status.failed  # else closing the cluster trips over it
                raise
            return answer

    return Job


def read_needs(text: str) -> Needs:
    """Read what ``--cluster`` says.

    Raises:
        SomasegError: neither an address nor a YAML file of a cluster.
    """
    if not text.endswith((".yaml", ".yml")):
        return validate(Needs, {"scheduler": text}, f"--cluster {text}")
    fields = read_yaml(Path(text))
    queue = isinstance(fields, dict) and fields.get("scheduler") in _CLASSES
    return validate(Queue if queue else Needs, fields, text)
