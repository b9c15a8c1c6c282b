"""Train a network on images."""
