"""Pixel forest: gradient-boosted trees on features of each pixel, then a watershed."""
