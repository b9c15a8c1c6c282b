"""Plans as YAML: what is done, and why, for users to read and change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from somaseg.files import read_yaml, write_text
from somaseg.models.registry import check_channels, parse_config, validate
from somaseg.runs.plan import Plan, Planned


def write_plan(path: str | Path, planned: Planned) -> None:
    """Write a plan as YAML, the reasons above the fields."""
    fields = planned.plan.model_dump(mode="json")
    head = "# What `somaseg fit` will do. Change what you know better and run it again:\n"
    head += "# members may be added (any `somaseg models`), removed or changed.\n"
    write_text(path, head + "\n".join(_lines(fields, planned.reasons, "", 0)) + "\n")


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        SomasegError: no such file, not YAML, or a field that is wrong: it is named.
    """
    fields = read_yaml(path)
    plan = validate(Plan, fields if isinstance(fields, dict) else {}, str(path))
    for member in plan.members:
        config = parse_config(member.model, f"{path}: member {member.name}")
        check_channels(config, plan.data.channels)
    return plan


def _lines(value: Any, reasons: Mapping[str, str], name: str, depth: int) -> list[str]:
    """Lay nested fields out as YAML, with comments; leaves are written by the YAML library."""
    pad = "  " * depth
    out: list[str] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        full = f"{name}.{key}" if name else str(key)
        if full in reasons:
            out.append(f"{pad}# {reasons[full]}")
        branch = (isinstance(item, dict) and bool(item)) or (
            isinstance(item, list) and any(isinstance(i, dict) for i in item)
        )
        if isinstance(value, list):
            inner = _lines(item, reasons, full, depth + 1)
            # The first field stands on the dash's own line; a comment above it goes before.
            first = next(i for i, line in enumerate(inner) if not line.lstrip().startswith("#"))
            out += [line[2:] for line in inner[:first]]
            out.append(f"{pad}- {inner[first].lstrip()}")
            out += inner[first + 1 :]
        elif branch:
            out.append(f"{pad}{key}:")
            out += _lines(item, reasons, full, depth + 1)
        else:
            # In a list of one, the library writes any leaf on one line.
            text = yaml.safe_dump([item], default_flow_style=True, width=10_000).strip()[1:-1]
            out.append(f"{pad}{key}: {text}")
    return out
