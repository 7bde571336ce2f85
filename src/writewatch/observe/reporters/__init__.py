"""Reporters turn frozen values into text; they open nothing and ask nothing."""
