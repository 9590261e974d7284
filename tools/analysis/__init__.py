"""Analyses: ``benchmark.py`` measures speed and memory.

``authors`` is the reference it measures against, ``networks`` what it measures,
``measure`` how, and ``report`` writes the results down.
"""
