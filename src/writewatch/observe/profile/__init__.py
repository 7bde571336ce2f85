"""``profile()``: what this very process writes while a block of code runs, for scripts and notebooks.

``own.py`` and ``helper.py`` watch the whole process from another one, ``some.py`` watches buffers from a
thread; ``result.py`` is what both hand over.
"""
