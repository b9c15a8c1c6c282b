"""An ensemble as one model file that predicts new images."""

from dataclasses import replace

from somaseg.decide import Settle, dump_settings
from somaseg.errors import SomasegError
from somaseg.models.bundle import Bundle, BundleMember
from somaseg.predict.load import read_model
from somaseg.runs.joining import Joined


def bundle_of(
    joined: Joined, settings: Settle, views: str | None = None
) -> tuple[Bundle | None, str]:
    """Put the members' models into one bundle.

    Args:
        joined: the ensemble.
        settings: of the final instances, by class name.
        views: test-time views of all members; by default those that each was tuned with.

    Returns:
        The bundle, or none and, in one line, why there is none (empty: members are no models).
    """
    if joined.redrawn:
        return None, "no model.safetensors: new images get no second pass"
    members: list[BundleMember] = []
    for member, weight in zip(joined.members, joined.weights, strict=True):
        if member.kind not in ("run", "model"):
            return None, ""  # as whoever joins predictions knows
        try:
            parts = read_model(member.path).members
        except SomasegError as error:
            return None, f"no model.safetensors: {error}"
        if len(parts) > 1:
            return None, f"no model.safetensors: {member.path} is an ensemble itself"
        if set(parts[0].models[0].names) != set(settings):
            return None, f"no model.safetensors: {member.path} knows other classes than the data"
        name = member.path.resolve().stem
        if name in {other.name for other in members}:
            name = f"{name}-{len(members)}"
        members.append(replace(parts[0], name=name, weight=weight, views=views or parts[0].views))
    if joined.of_maps:
        models = tuple(model for member in members for model in member.models)
        members = [BundleMember("average", 1.0, views or "none", models)]
    fields = joined.fusion.model_dump(mode="json", exclude_defaults=True)
    # One member alone is joined with itself: soft-NMS, for one, changes its scores.
    method = None if joined.of_maps else fields | {"method": joined.fusion.method}
    card = {"members": [str(member.path) for member in joined.members]}
    return Bundle(tuple(members), method, dump_settings(settings), card=card), ""
