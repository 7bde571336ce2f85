"""Watching a process over time: the loop, what a mapping is over many epochs, rates, written working sets.

Everything here works on ``ProcessWrites`` values and on what ``face.py`` asks of a tracker; ``run``,
``record``, ``top`` and ``profile()`` are built on it. Time comes with the values: nothing here but the loop
looks at a clock.
"""
