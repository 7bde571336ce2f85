"""``writewatch simulate``: scripts of operations, replayed on the model and compared with the running kernel.

``language.py`` and ``statements.py`` read a script into operations, ``operations.py`` turns each into system
calls, and the two sides make those: ``model_side.py`` on the model, ``linux_side.py`` in child processes of the
running kernel. ``tables.py`` draws the model's page tables, ``observation.py`` says what both sides let see,
``replay.py`` puts it together.
"""
