"""Traces: what processes wrote, epoch by epoch, in a directory that Parquet readers open without our code.

``writer.py`` records, ``reader.py`` reads back; ``docs/trace-format.md`` has the grammar and the reasons.
In memory everything is NumPy (``blocks.py``); only ``files.py``, ``to_arrow.py`` and ``from_arrow.py``
touch Arrow, which is an optional dependency.
"""
