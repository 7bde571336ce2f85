"""A pytest plugin for guests: fewer Hypothesis examples, since an emulated processor is 20 to 30 times slower."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("emulated", deadline=None, max_examples=10, stateful_step_count=20)
settings.load_profile("emulated")
