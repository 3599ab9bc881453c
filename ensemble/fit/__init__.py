"""Fitting on the validation split: which members and views, with which weights and temperatures. All in numpy."""
