"""The flow family: every pixel points the way to its cell's centre (Stringer et al. 2021)."""
