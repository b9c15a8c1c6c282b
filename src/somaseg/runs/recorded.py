"""What runs left in their folders, as the ledger reads it: of older and newer somasegs, too.

::

    RUN/config.yaml, scores.json   what a run was and scored (see ``store``)
    FIT/plan.yaml, scores.json     the same of an ensemble; its members are runs below it
    RUN/leaderboard.json           what was recorded of it: public, private, note, time
"""

import math
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from somaseg.errors import SomasegError
from somaseg.files import read_json, read_yaml, write_json
from somaseg.folders import CONFIG, LEADERBOARD, SCORES, kind_of, sole

_INSIDE_A_RUN = re.compile(r"fold\d+|all|tensorboard|wandb|mlflow|\..*")


def find_runs(folder: Path, depth: int | None) -> Iterator[Path]:
    """Yield the folders of all runs at and below a folder, ``depth`` levels down (none: all)."""
    for place, inside, _ in os.walk(folder):
        run = is_run(Path(place))
        if depth is not None and len(Path(place).relative_to(folder).parts) >= depth:
            inside.clear()
        # A run may hold other runs (a search its trials), but none among its own parts.
        inside[:] = sorted(
            n for n in inside if not (n.startswith(".") or (run and _INSIDE_A_RUN.fullmatch(n)))
        )
        if run:
            yield Path(place)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or the experiment of a ``fit``."""
    return kind_of(folder) in ("run", "fit")


def read_config(run: Path) -> dict[str, Any]:
    """Read a run's config as it stands; empty for an ensemble.

    Raises:
        SomasegError: a file that is broken or something else.
    """
    path = run / CONFIG
    if not path.exists():
        return {}  # an ensemble: its members have settings
    config = read_yaml(path)
    # Not parsed further: the ledger lists runs of older and newer somasegs, too.
    if not isinstance(config, dict):
        raise SomasegError(f"{path}: not the config of a run")
    return config


def read_scores(run: Path) -> dict[str, Any] | None:
    """Read what a run scored; none if it is not scored yet.

    Raises:
        SomasegError: a file that is broken or has no nested score.
    """
    path = run / SCORES
    if not path.exists():
        return None
    scores = read_json(path)
    nested = scores.get("nested") if isinstance(scores, dict) else None
    if not isinstance(nested, dict) or not is_number(nested.get("map")):
        raise SomasegError(f"{path}: has no nested score; write it again with `somaseg tune {run}`")
    return scores


def read_results(run: Path) -> list[dict[str, Any]]:
    """Read what :func:`add_result` recorded, in the order of recording.

    Raises:
        SomasegError: a file that is broken or something else.
    """
    path = run / LEADERBOARD
    results = read_json(path) if path.exists() else []
    if not isinstance(results, list) or not all(map(_is_result, results)):
        raise SomasegError(f"{path}: not a list of scores; mend it, or delete it and add them anew")
    return results


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_result(value: Any) -> bool:
    """Whether it is an entry of ``leaderboard.json``, as far as that is read."""
    if not isinstance(value, dict) or not isinstance(value.get("cv") or {}, dict):
        return False
    numbers = [value.get("public"), value.get("private"), *(value.get("cv") or {}).values()]
    return all(number is None or is_number(number) for number in numbers)


def training_cost(scores: dict[str, Any]) -> dict[str, Any]:
    """What the training took; of an ensemble, that of all its members."""
    members = scores.get("members") or {}
    parts = [scores] if "training" in scores else list(members.values())
    names = ("seconds", "cpu_seconds", "parameters")
    return {name: sum(part["training"][name] for part in parts) for name in names if parts}


def add_result(
    run: str | Path, public: float | None = None, private: float | None = None, note: str = ""
) -> dict[str, Any]:
    """Append a leaderboard's (or other external) scores to a run's ``leaderboard.json``.

    Args:
        run: the run's folder.
        public, private: the scores; one at least.
        note: what was submitted, where.

    Returns:
        what was recorded.

    Raises:
        SomasegError: not a run, no score, a score that is not finite, or a file that is broken.
    """
    run = Path(run)
    if not is_run(run):
        raise SomasegError(f"{run}: not a run (it has no config.yaml and folds.json, or plan.yaml)")
    if public is None and private is None:
        raise SomasegError(f"{run}: no score to record; give --public, --private or both")
    for value in (public, private):
        if value is not None and not math.isfinite(value):
            raise SomasegError(f"{run}: {value} is no score")
    scores = read_scores(run)
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "public": public,
        "private": private,
        "note": note,
        # A run that is tuned again later scores otherwise: this is what was submitted.
        "cv": scores and {key: scores["nested"].get(key) for key in ("map", "weighted")},
    }
    with sole(run / LEADERBOARD):
        write_json(run / LEADERBOARD, [*read_results(run), result])
    return result
