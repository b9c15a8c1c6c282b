"""Draw the rooms of somaseg from its imports: ``python docs/draw_house.py`` writes docs/house.svg.

Each box is a room with its lines of code, each arrow the imports from one room of another: the
wider, the more. One that ran up would be red and dashed. The site draws it anew at each build.
"""

import ast
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "somaseg"
PICTURE = Path(__file__).parent / "house.svg"
FLOORS = (  # from the top; rooms of one floor stand side by side
    ("napari_plugin", "the same in napari's window"),
    ("cli", "parse, call, print"),
    ("runs", "plan, train, search, fit: folders of experiments"),
    ("predict", "tiles, views, stitching, outputs"),
    ("report", "pages and pictures"),
    ("decide", "fuse, settle, tune, choose; the nested engine"),
    ("scoring", "the metric, COCO, panoptic, where it is lost"),
    ("models", "families, networks, the training loop, the model file"),
    ("data", "data sets, formats, images, folds"),
    ("instances", "the cells of one image"),
    ("masks", "compiled algebra on cropped masks"),
)
LOW = ("looks", "folders", "files", "limits", "numba_cache", "errors")
WIDTH, HEIGHT, GAP, LEFT, SPREAD = 380, 46, 20, 20, 22


def rooms() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Lines of each room, and imports between rooms."""
    lines: Counter[str] = Counter()
    arrows: Counter[tuple[str, str]] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        text = path.read_text(encoding="utf-8")
        lines[room] += sum(bool(line.strip()) for line in text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("somaseg."):
                other = str(node.module).split(".")[1]
                if other != room:
                    arrows[room, other] += 1
    return lines, arrows


def draw() -> str:
    """The picture as SVG."""
    lines, arrows = rooms()
    y = {name: 20 + i * (HEIGHT + GAP) for i, (name, _) in enumerate(FLOORS)}
    height = 20 + len(FLOORS) * (HEIGHT + GAP) + HEIGHT + 20
    columns = [name for name, _ in FLOORS]
    width = LEFT + WIDTH + SPREAD * (len(columns) + 1) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" role="img">',
        "<title>The rooms of somaseg and the imports between them, all downwards</title>",
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerUnits="userSpaceOnUse" '
        'markerWidth="9" markerHeight="9" orient="auto"><path d="M0 0L6 3L0 6z" '
        'fill="#00695c"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for name, what in FLOORS:
        parts += [
            f'<rect x="{LEFT}" y="{y[name]}" width="{WIDTH}" height="{HEIGHT}" rx="6" '
            'fill="#e0f2f1" stroke="#00695c"/>',
            f'<text x="{LEFT + 12}" y="{y[name] + 19}" font-weight="bold" font-size="14" '
            f'fill="#000">{name}</text>',
            f'<text x="{LEFT + WIDTH - 12}" y="{y[name] + 19}" font-size="11" text-anchor="end" '
            f'fill="#333">{lines[name]:,} lines</text>',
            f'<text x="{LEFT + 12}" y="{y[name] + 37}" font-size="11.5" fill="#333">{what}</text>',
        ]
    low = 20 + len(FLOORS) * (HEIGHT + GAP)
    for i, name in enumerate(LOW):
        x = LEFT + i * (WIDTH + 10) // len(LOW)
        parts += [
            f'<rect x="{x}" y="{low}" width="{WIDTH // len(LOW) - 6}" height="{HEIGHT - 12}" '
            'rx="6" fill="#f5f5f5" stroke="#777"/>',
            f'<text x="{x + 10}" y="{low + 21}" font-size="11.5" fill="#000">{name}.py</text>',
        ]
    for (one, other), count in sorted(arrows.items()):
        if one not in y or other not in y:
            continue
        # Each room's imports run down a line of their own, to the right of the boxes.
        x = LEFT + WIDTH + SPREAD * (columns.index(one) + 1)
        start, end = y[one] + HEIGHT / 2 - 6, y[other] + HEIGHT / 2 + 6
        weight = 0.8 + min(count, 30) / 10
        down = "" if end > start else ' stroke-dasharray="4 2"'
        parts.append(
            f'<path d="M{LEFT + WIDTH} {start}H{x}V{end}H{LEFT + WIDTH + 2}" fill="none" '
            f'stroke="{"#00695c" if end > start else "#c62828"}" stroke-width="{weight:.1f}" '
            f'opacity="0.75" marker-end="url(#tip)"{down}><title>{one} imports {other} '
            f"{count} times</title></path>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
