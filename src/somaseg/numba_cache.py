"""A place for compiled kernels where neither the package's folder nor the user's is writable.

numba keeps them beside the code, else in the user's cache; finding no place (a container, a
read-only HOME), it refuses to import anything. This module is imported before it.
"""

import os
import stat
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def _writable(folder: Path) -> bool:
    """Whether the folder is there or can be made, and files in it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _own_folder() -> str:
    """A folder that nobody else can write to: what lies in it will be run."""
    name = f"somaseg-numba-{os.getuid() if hasattr(os, 'getuid') else os.environ.get('USERNAME')}"
    folder = Path(tempfile.gettempdir()) / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
        if stat.S_ISDIR(found.st_mode) and not foreign and not found.st_mode & 0o022:
            return str(folder)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="somaseg-numba-")


def find_place() -> None:
    """Set ``NUMBA_CACHE_DIR`` to a temporary folder if numba would find no place."""
    given = os.environ.get(VARIABLE)
    # Not Path.expanduser, which raises where there is no home at all.
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    places = [given] if given else [str(Path(__file__).parent / "masks" / "__pycache__"), user]
    if not any(_writable(Path(place)) for place in places):
        os.environ[VARIABLE] = _own_folder()


find_place()
