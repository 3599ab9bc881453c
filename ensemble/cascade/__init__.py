"""Cascades: a committee asked in stages, where an image leaves at the first stage that is sure enough of it."""
