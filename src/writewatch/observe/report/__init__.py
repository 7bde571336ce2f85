"""Reports of traces: the figures, one page with pictures, and the heatmap as a file of its own.

``survey.py`` reads a trace twice: for where anything was written (``where.py``), which makes the address axis
(``axis.py``), then for when (``when.py``); what it finds is in ``findings.py``. ``page.py`` writes it as HTML, with
the script and style beside it; ``picture.py`` as PNG or SVG.
"""
