"""The two-stage family: Mask R-CNN, Mask Scoring, Cascade, PointRend, and all that lies between."""
