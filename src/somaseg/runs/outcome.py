"""What an experiment leaves to use and to look at: the bundle and the page."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from somaseg.decide import Choice, Decision, dump_settings
from somaseg.errors import SomasegError
from somaseg.folders import MODEL, REPORT
from somaseg.models.bundle import Bundle, BundleMember, load_model, write_bundle
from somaseg.models.training.journal import METRICS
from somaseg.report.experiment import ExperimentPage, LedgerPage, MemberPage, write_experiment
from somaseg.runs.ledger import BOARDS, read_ledger
from somaseg.runs.plan import Plan
from somaseg.runs.run import Run
from somaseg.runs.tuning import curves_figure

if TYPE_CHECKING:
    from somaseg.data.types import Dataset
    from somaseg.runs.fit import Fitted

_LEDGER_DEPTH = 3  # runs, their members, a search's trials


def write_outcome(folder: str | Path, plan: Plan, fitted: "Fitted") -> None:
    """Write ``model.safetensors`` (all that new images need) and ``report.html``.

    Raises:
        SomasegError: a file cannot be read or written.
    """
    folder = Path(folder)
    runs = {member.name: Run.open(folder / "members" / member.name) for member in plan.members}
    dataset = next(iter(runs.values())).dataset()
    write_model(folder / MODEL, plan, fitted, runs)
    write_page(folder / REPORT, plan, fitted, runs, dataset)


def write_model(path: Path, plan: Plan, fitted: "Fitted", runs: Mapping[str, Run]) -> None:
    """Join the chosen members' models of all folds and the tuned settings to one file."""
    choice = fitted.chosen.choice
    members = tuple(
        BundleMember(
            name=name,
            weight=float(choice.member_weights[name]),
            views=runs[name].config.views,
            models=tuple(load_model(model) for model in runs[name].model_paths()),
        )
        for name in runs
        if name in choice.member_weights
    )
    settings = dump_settings(choice.settings)
    bundle = Bundle(members, choice.method, settings, card=_card(plan, fitted))
    write_bundle(path, bundle, half=True)


def _card(plan: Plan, fitted: "Fitted") -> dict[str, Any]:
    score = fitted.chosen.nested
    return {
        "data": plan.data.path,
        "chosen": fitted.chosen.choice.label,
        "nested out-of-fold mAP": round(score.map, 4),
        "the same, classes weighted": None if score.weighted is None else round(score.weighted, 4),
        **({"fine-tuned": fitted.verdict} if fitted.verdict else {}),
        "by class": {name: round(value, 4) for name, value in score.by_class.items()},
    }


def write_page(
    path: Path, plan: Plan, fitted: "Fitted", runs: Mapping[str, Run], dataset: "Dataset"
) -> None:
    """Write the page of an experiment."""
    chosen = fitted.chosen
    folds = next(iter(runs.values())).folds(dataset)
    members = []
    for name, run in runs.items():
        scores, training = fitted.members[name], run.scores()["training"]
        parts = [run.part(fold) for fold in range(run.config.folds)]
        members.append(
            MemberPage(
                name=name,
                nested=scores.nested,
                optimistic=scores.optimistic,
                metrics={part.name: part / METRICS for part in parts},
                minutes=training["cpu_seconds"] / 60,
                parameters=training["parameters"],
            )
        )
    page = ExperimentPage(
        title=f"{path.parent.resolve().name}: {'/'.join(Path(plan.data.path).parts[-2:])}",
        dataset=dataset,
        folds=folds,
        members=members,
        chosen=chosen.choice.label,
        nested=chosen.nested,
        optimistic=chosen.optimistic,
        found=chosen.found,
        settings=chosen.choice.settings,
        tuning=curves_figure(chosen.tuned),
        ledger=ledger_page(path.parent),
        start=(fitted.start.nested, fitted.start.optimistic) if fitted.start else None,
        verdict=fitted.verdict,
    )
    write_experiment(path, page)


def ledger_page(run: Path) -> LedgerPage:
    """Compare CV and leaderboard of the runs beside a run, as ``somaseg ledger`` there does.

    A broken ledger is told on the page: it stops no experiment.
    """
    here = run.resolve()
    name = shlex.quote(str(run))
    add, again = f"somaseg ledger add {name} --public …", f"somaseg fit --resume --out {name}"
    shown = f"{here.parent.name}/"
    try:
        # Not deeper: what else lies beside the run may be a whole disk.
        ledger = read_ledger(here.parent, _LEDGER_DEPTH)
    except SomasegError as error:  # whatever others left there, this run's page is written
        return LedgerPage(shown, add, again, {}, notes=[f"The ledger cannot be read: {error}"])
    own, boards, current = f"{here.name} (this run)", {}, None
    for board in BOARDS:
        found = ledger.agreement(board)
        if found is None or found.n < 2:
            continue
        points = []
        for entry, cv, score in ledger.pairs(board):
            mine = entry.folder == here
            current = own if mine else current
            points.append((own if mine else entry.name, cv, score))
        boards[str(board)] = (points, found)
    kind = "nested out-of-fold mAP, " + (
        "weighted by class" if ledger.weighted else "mean over images"
    )
    # What is odd about runs that are not drawn is of no interest here.
    return LedgerPage(shown, add, again, boards, current, kind, ledger.problems if boards else ())


def describe_choice(chosen: Decision) -> str:
    """What was chosen, as YAML."""
    fields = {
        "choice": _fields(chosen.choice),
        "considered": [
            {"what": what, "score": round(score, 4)} for what, score in chosen.considered
        ],
        "by_fold": {fold: _fields(choice) for fold, choice in chosen.by_fold.items()},
    }
    head = "# Chosen on all images (for new ones), and on all but each fold's (for the score).\n"
    return head + yaml.safe_dump(fields, sort_keys=False)


def _fields(choice: Choice) -> dict[str, Any]:
    return {
        "method": choice.method,
        "members": choice.member_weights,
        "settings": dump_settings(choice.settings),
        "score": round(choice.score, 4),
    }


def scores_of(fitted: "Fitted", runs: Mapping[str, Run], dataset: "Dataset") -> dict[str, Any]:
    """What ``scores.json`` says of an experiment."""
    chosen = fitted.chosen
    return {
        "nested": chosen.nested.to_json(),
        "optimistic": chosen.optimistic.to_json(),
        "chosen": chosen.choice.label,
        "members": {
            name: {
                "nested": scores.nested.to_json(),
                "optimistic": scores.optimistic.to_json(),
                "training": runs[name].scores()["training"],
            }
            for name, scores in fitted.members.items()
        },
        "images": len(dataset),
        "start": fitted.start
        and {"nested": fitted.start.nested.to_json(), "verdict": fitted.verdict},
    }
