"""Weighted ensembles of zoo entries: members, merging, metrics and evaluation."""
