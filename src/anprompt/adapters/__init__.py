"""Adapter folders: what beside the tensors makes a classifier the one that was saved."""
