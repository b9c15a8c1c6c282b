"""Compiled algebra on cropped masks: runs, overlap, resolution, pieces, labels.

Everything here works on three flat arrays that describe the n masks of one image (see
``somaseg.masks.flat``), so that memory is the sum of the box areas and never n × height × width.
"""
