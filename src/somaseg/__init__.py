"""somaseg: single cells in micrographs, from annotations to masks you can defend."""

__version__ = "0.1.0"
