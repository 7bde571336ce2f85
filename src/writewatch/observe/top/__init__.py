"""``writewatch top``: a live screen of what processes write.

``view.py`` is what is on display and what the keys do to it, ``heat.py`` the picture of time and addresses,
both without a terminal; ``reporters/top.py`` turns them into text; ``app.py`` shows the text and passes keys
on.
"""
