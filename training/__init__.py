"""Training recipes behind one loop, from labelled images to zoo entries."""
