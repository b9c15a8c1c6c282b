"""Fuse the instances of several members."""
