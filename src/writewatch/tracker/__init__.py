"""Trackers: which pages of these buffers were written since the last collect, on the best backend that works."""
