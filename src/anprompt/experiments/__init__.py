"""Runs of protocols: what one is, how it is measured, its record, sweeps of many."""
