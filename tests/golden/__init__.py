"""Parity with the official implementations' tensors; `python -m tests.golden DIR [--splits DIR]`."""
