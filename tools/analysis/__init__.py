"""Analyses: ``benchmark.py`` measures speed and memory, ``complexity.py`` counts.

Of the former, ``authors`` is the reference it measures against, ``networks`` what it
measures, ``measure`` how, and ``report`` writes the results down. Of the latter,
``figures`` are those that the paper prints, ``settings`` what builds each network,
``tables`` the two together, ``paper_rule`` how the paper counts, and ``zoo`` counts the
tables and writes them down.
"""
