"""``python -m somaseg``: the same as the command ``somaseg``."""

from somaseg.cli import main

if __name__ == "__main__":
    main()
