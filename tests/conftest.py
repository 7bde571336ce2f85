"""One setting for the whole suite: the same examples in every run. A failure is then everybody's, and nobody's luck.

``HYPOTHESIS_PROFILE=search`` looks for new ones; so do ``make soak`` and ``make differential``.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
