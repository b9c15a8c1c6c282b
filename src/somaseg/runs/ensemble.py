"""Join members into an ensemble, score it honestly, and write it down.

::

    OUT/ensemble.yaml        what was joined, how, and what it scores
    OUT/predictions.npz      raw joined predictions, as those of a run's folds
    OUT/folds.json           fold of each image, if all members predicted it out of the same fold
    OUT/settle.json          settings by class: tuned, given, or the defaults
    OUT/scores.json          out-of-fold scores
    OUT/model.safetensors    predicts new images so, if all members are models
    OUT/labels/ID.tif        final masks, also in predictions.json and submission.csv
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from somaseg import __version__
from somaseg.data import load_dataset
from somaseg.data.folds import save_folds
from somaseg.data.formats.label_files import write_labels
from somaseg.data.formats.results import write_results
from somaseg.data.formats.submission import write_submission
from somaseg.data.types import Dataset
from somaseg.decide import (
    Decision,
    Fusion,
    Settle,
    default_settings,
    dump_settings,
    has_one_class,
    parse_settings,
    settle_all,
)
from somaseg.decide.nested import headline
from somaseg.errors import SomasegError
from somaseg.files import check_apart, file_name, read_json, remove_folder, write_json, write_text
from somaseg.folders import (
    ENSEMBLE,
    FOLDS,
    IMAGES,
    LABELS,
    MODEL,
    PREDICTIONS,
    RESULTS,
    SCORES,
    SETTLE,
    SUBMISSION,
    hold,
    is_ours,
)
from somaseg.models.bundle import Bundle, write_bundle
from somaseg.predict.store import save_predictions
from somaseg.runs.bundling import bundle_of
from somaseg.runs.execute import Executor
from somaseg.runs.joining import (
    Joined,
    Raw,
    folds_for_tuning,
    join,
    left_out,
    redraw,
    score,
    select,
    silences,
)
from somaseg.runs.members import (
    Member,
    MemberProgress,
    common_ids,
    kind_of,
    load_images,
    read_members,
    shared_folds,
    with_names,
)
from somaseg.runs.raw_tasks import raw_by_tasks
from somaseg.scoring.inputs import read_truth

OWN = (ENSEMBLE, PREDICTIONS, FOLDS, SETTLE, SCORES, MODEL)
WORK = ".members"
"""What workers of a cluster have predicted, until the ensemble stands."""
FINAL = (LABELS, RESULTS, SUBMISSION, IMAGES)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        members: runs, model files, ensembles or predictions.
        fusions: ways of joining that are compared; the first one is kept.
        weights: of the members; equal by default.
        data: annotations to score with.
        images: what runs and models predict.
        choose: choose members and weights by their score.
        redraw: a second pass through the members' mask heads.
        settings: ``settle.json``, or the folder it is in.
        class_weights: weight of each class in the score.
        views: test-time views of ``images``.
        tile: larger images go through in tiles of this side.
        ignore_unknown: leave out images that ``data`` or ``images`` does not have.
    """

    members: tuple[Path, ...]
    fusions: tuple[Fusion, ...]
    weights: tuple[float, ...] | None = None
    data: Path | None = None
    images: Path | None = None
    choose: bool = False
    redraw: bool = False
    settings: Path | None = None
    class_weights: Mapping[str, float] | None = None
    views: str | None = None
    tile: int = 1024
    ignore_unknown: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        joined: the ensemble.
        final: its settled instances by image id; those of annotated images with settings that were
            tuned without their fold.
        settings: by class name, for new images.
        table: scores of each member and way of joining, by name.
        scores: of the ensemble, if there are annotations.
        selection: the choice of members, if that was asked for.
        notes: what the user should know, one line each.
        bundle: the model that predicts new images so, if all members are models.
    """

    joined: Joined
    final: Raw
    settings: Settle
    table: dict[str, Decision]
    scores: Decision | None
    selection: Decision | None
    notes: tuple[str, ...]
    bundle: Bundle | None


def run_ensemble(
    request: Request,
    out: Path,
    progress: MemberProgress | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Read or predict the members, join them, score them, settle; write all of it into a folder.

    Args:
        request: what is asked for.
        out: new, empty, or a folder that an ensemble was written to before.
        progress: told of each image that is predicted.
        executor: of a cluster, whose workers predict the images; by default this process does.

    Raises:
        SomasegError: a request that cannot be met, members that do not fit each other or the
            annotations, or a folder that holds something else.
    """
    _check(request)
    _check_out(out, request)
    with hold(out):
        outcome = _build(request, out, progress, executor)
        _write(out, outcome)
        remove_folder(out / WORK)
    return outcome


def _build(
    request: Request, out: Path, progress: MemberProgress | None, executor: Executor | None
) -> Outcome:
    predicts = request.images is not None or "model" in map(kind_of, request.members)
    truth = _read_annotated(request.data, predicts) if request.data is not None else None
    pictures = truth if predicts else None
    if request.images is not None:
        pictures = load_images(request.images)
    members = read_members(
        request.members,
        truth,
        pictures,
        runs_predict=request.images is not None,
        views=request.views,
        tile=request.tile,
        ignore_unknown=request.ignore_unknown,
        progress=progress,
    )
    if executor is not None and executor.cluster:
        if pictures is None:
            raise SomasegError("--cluster: no member predicts anything here; give --images")
        members = [_elsewhere(m, pictures, request, out, executor, progress) for m in members]
    ids = common_ids(members, truth)
    note = left_out(members, ids)
    folds: dict[str, int] = {}
    table: dict[str, Decision] = {}
    ways: list[Joined] = []
    if truth is not None:
        truth = truth.subset(ids)
        folds = folds_for_tuning(members, ids, truth)
        for member in members:
            raw = {name: member.raw[name] for name in ids}
            table[member.name] = score(raw, truth, folds, request.class_weights)
    for fusion in request.fusions:
        way = join(members, ids, request.weights, fusion, pictures, request.views, request.tile)
        ways.append(way)
        if truth is not None:
            table[way.label] = score(way.raw, truth, folds, request.class_weights)
    joined, selection = ways[0], None
    scores = table.get(joined.label)
    if request.choose and truth is not None:
        joined, selection = select(members, joined.fusion, truth, folds, request.class_weights)
        scores = table[f"{joined.label}, selected"] = selection
    if request.redraw:
        joined = redraw(joined, pictures)
        if truth is not None:
            scores = score(joined.raw, truth, folds, request.class_weights)
            table[joined.label] = scores
    names = truth.names if truth is not None else next(iter(joined.raw.values())).names
    if scores is not None and request.settings is None:
        settings, final = scores.choice.settings, scores.found
    else:
        settings = default_settings(names)
        if request.settings is not None:
            settings = read_settings(request.settings, names)
        one_class = any(member.one_class for member in members)
        if truth is not None:
            one_class = has_one_class(truth)
        final = settle_all(joined.raw, dict.fromkeys(ids, settings), one_class)
    bundle, reason = bundle_of(joined, settings, request.views)
    notes = [note, *silences(members, ids), reason]
    told = tuple(note for note in notes if note)
    return Outcome(joined, final, settings, table, scores, selection, told, bundle)


def _elsewhere(
    member: Member,
    images: Dataset,
    request: Request,
    out: Path,
    executor: Executor,
    progress: MemberProgress | None,
) -> Member:
    """A member whose images workers predict, if they are to be predicted."""
    if member.predictor is None:
        return member

    def load() -> Raw:
        where = request.views, request.tile, out / WORK, executor, progress
        raw = raw_by_tasks(member.path, images, *where)
        return {name: with_names(one, member.names) for name, one in raw.items()}

    return replace(member, load=load)


def _read_annotated(path: Path, need_images: bool) -> Dataset:
    """Annotated images; their files must be at hand only if they are predicted."""
    truth = load_dataset(path) if need_images else read_truth(path)
    annotated = [sample.id for sample in truth if sample.instances is not None]
    if not annotated:
        raise SomasegError(f"{path}: no image is annotated, so there is nothing to score")
    return truth.subset(annotated)


def _check(request: Request) -> None:
    if request.choose and request.data is None:
        raise SomasegError("--select chooses by a score; give the annotations with --data")
    if request.choose and request.redraw:
        raise SomasegError(
            "--select and --second-pass exclude each other; choose first, then give the chosen "
            "members and --weights"
        )
    if request.choose and request.weights is not None:
        raise SomasegError("--select finds the weights itself; leave --weights out")
    if len(set(request.members)) < len(request.members):
        raise SomasegError("a member is named twice; give it more weight with --weights")
    if request.weights is not None and len(request.weights) != len(request.members):
        raise SomasegError(
            f"--weights: {len(request.weights)} for {len(request.members)} members; "
            "give one for each"
        )


def read_settings(path: Path, names: Sequence[str]) -> Settle:
    """Settings by class name: of ``settle.json``, or of a run or ensemble that has one.

    Raises:
        SomasegError: no such file, or settings that do not fit the classes.
    """
    file = path / SETTLE if path.is_dir() else path
    return parse_settings(read_json(file), names)


def _check_out(out: Path, request: Request) -> None:
    if any(out.resolve() == path.resolve() for path in request.members):
        raise SomasegError(f"{out}: is a member itself; give another --out")
    read = [path for path in (request.data, request.images, request.settings) if path is not None]
    written = [*(out / name for name in (*OWN, *FINAL)), *(out / LABELS).glob("*")]
    check_apart([*request.members, *read], written)
    held = {path.name for path in out.iterdir() if not is_ours(path)} if out.is_dir() else set()
    ours = held <= {*OWN, *FINAL, WORK} and not held.isdisjoint({ENSEMBLE, PREDICTIONS, WORK})
    if (out.exists() and not out.is_dir()) or (held and not ours):
        raise SomasegError(f"{out}: exists and is no ensemble; give another --out")


def _write(out: Path, outcome: Outcome) -> None:
    """Write an ensemble, the manifest last: a folder with it is whole."""
    # Nothing of an ensemble that was here before must stay among the new files.
    for name in OWN:
        (out / name).unlink(missing_ok=True)
    for path in (out / LABELS).glob("*.tif"):
        path.unlink()
    joined, scores = outcome.joined, outcome.scores
    save_predictions(out / PREDICTIONS, joined.raw)
    folds = shared_folds(joined.members, list(joined.raw))
    if folds is not None:
        save_folds(out / FOLDS, folds)
    write_json(out / SETTLE, dump_settings(outcome.settings))
    if outcome.bundle is not None:
        write_bundle(out / MODEL, outcome.bundle)
    if scores is not None:
        kinds = ("nested", "untuned", "optimistic")
        write_json(out / SCORES, {kind: getattr(scores, kind).to_json() for kind in kinds})
    for name, instances in outcome.final.items():
        write_labels(out / LABELS / f"{file_name(name)}.tif", instances.to_labels())
    write_results(out / RESULTS, outcome.final)
    write_submission(out / SUBMISSION, outcome.final)
    manifest = {
        "somaseg": __version__,
        "fusion": joined.fusion.model_dump(mode="json"),
        "joined": "maps" if joined.of_maps else "instances",
        "second_pass": joined.redrawn,
        "members": [
            {"path": str(member.path.resolve()), "kind": member.kind, "weight": weight}
            for member, weight in zip(joined.members, joined.weights, strict=True)
        ],
        "images": len(joined.raw),
        "scores": {name: _figures(row) for name, row in outcome.table.items()},
    }
    write_text(out / ENSEMBLE, yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True))


def _figures(scores: Decision) -> dict[str, float]:
    return {
        kind: round(float(headline(getattr(scores, kind))), 5)
        for kind in ("untuned", "nested", "optimistic")
    }
