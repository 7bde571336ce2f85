"""Measuring: this library beside the same work in C and other ways to find changed memory, in one run."""
