"""Runs: cross-validation, their files, their models."""
