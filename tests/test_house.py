"""The house: imports go down only, private names stay in their file, no module is too long.

Imports inside functions and under ``TYPE_CHECKING`` count as well: what a room needs, it needs.
Only the front door, ``somaseg/__init__.py``, reaches up, and it does so lazily.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
# From the top of the house to its foundation; docs/architecture.md tells what each room is for.
ROOMS = (
    "__main__",
    "napari_plugin",
    "cli",
    "runs",
    "predict",
    "report",
    "decide",
    "scoring",
    "models",
    "data",
    "instances",
    "masks",
    "looks",
    "folders",
    "files",
    "limits",
    "numba_cache",
    "errors",
    "weights",
)
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
LONGEST = 350

# What does not keep the rules yet. These may only shrink: an entry without need fails the test.
UPWARDS: set[str] = set()
PRIVATE: set[str] = set()
LONG: set[str] = {
    "somaseg.instances",
}


def room(module):
    """The floor of a module, 0 at the top."""
    parts = module.split(".")
    return -1 if len(parts) == 1 else ROOMS.index(parts[1])


def imports(module, tree):
    """What a module imports: ``(module, name)``, the name None for a module taken as a whole."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level]
            origin = ".".join([*base, *filter(None, [node.module])]) if node.level else node.module
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield (whole, None) if whole in MODULES else (origin, alias.name)
                if whole in MODULES:
                    yield from reached(tree, whole, alias.asname or alias.name)


def reached(tree, module, name):
    """The private names taken from an imported module: ``module._name``."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == name
            and private(node.attr)
        ):
            yield module, node.attr


def private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


@pytest.fixture(scope="module")
def imported():
    """All imports of somaseg by somaseg: ``(importer, imported, name)``."""
    found = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            (module, origin, name)
            for origin, name in imports(module, tree)
            if origin.split(".")[0] == "somaseg"
        ]
    assert len(found) > 300
    return found


def test_every_module_has_a_room():
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(ROOMS)


def test_imports_go_down(imported):
    up = {
        f"{module} -> {origin}"
        for module, origin, name in imported
        if module != "somaseg"
        and (origin, name) != ("somaseg", "__version__")
        and room(origin) < room(module)
    }
    assert up == UPWARDS


def test_private_names_stay_in_their_file(imported):
    found = {
        f"{module} -> {origin}.{name}" if name else f"{module} -> {origin}"
        for module, origin, name in imported
        if private(name or origin.rpartition(".")[2])
    }
    assert found == PRIVATE


def test_no_module_is_too_long():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name for name, length in lengths.items() if length > LONGEST} == LONG


def test_the_rule_sees_what_it_forbids():
    source = """
def f():
    from ..report import html
    from somaseg.masks.rle import _encode
    return html._page
"""
    found = list(imports("somaseg.data.load", ast.parse(source)))
    page, name = ("somaseg.report.html", "_page"), ("somaseg.masks.rle", "_encode")
    assert found == [("somaseg.report.html", None), page, name]
    assert room("somaseg.report.html") < room("somaseg.data.load") < room("somaseg.masks.rle")
    assert private("_encode")
    assert not private("__version__")
