"""Whether a file, or a folder that is an image, is still what it was."""

import stat
from pathlib import Path


def file_state(path: str | Path) -> tuple[int, ...]:
    """Numbers that change with a file's content; of a folder, with that of the files in it.

    Raises:
        OSError: nothing is there, or it cannot be looked at.
    """
    state = Path(path).stat()
    if not stat.S_ISDIR(state.st_mode):
        return state.st_ino, state.st_size, state.st_mtime_ns
    states = [file.stat() for file in Path(path).rglob("*")]
    newest = max((s.st_mtime_ns for s in states), default=state.st_mtime_ns)
    return len(states), sum(s.st_size for s in states), newest
