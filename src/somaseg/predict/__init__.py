"""Predict images: models in, raw or final instances out."""
