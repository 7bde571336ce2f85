"""Reports of traces: the figures, one page with pictures, and the heatmap as a file of its own.

``survey.py`` reads a trace twice: first for where anything was written, which makes the address axis
(``axis.py``), then for when, which makes everything else (``findings.py``). ``page.py`` writes it as HTML;
``picture.py`` as PNG or SVG.
"""
