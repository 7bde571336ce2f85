"""A pytest plugin for guests: fewer Hypothesis examples, since an emulated processor is 20 to 30 times slower."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "emulated", deadline=None, derandomize=True, database=None, max_examples=10, stateful_step_count=20
)
# tests/conftest.py loads the profile of that name.
os.environ["HYPOTHESIS_PROFILE"] = "emulated"
