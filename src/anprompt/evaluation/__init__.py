"""Metrics of a classifier, and how far they can be trusted."""
