"""Cellpose 4: the network of the cellpose package, behind somaseg's interface."""
