"""A comparison of backbones: composed scenes, one recipe, a table and a plot.

``garments`` fetches and reads the pictures, ``backgrounds`` and ``scenes`` compose
them, ``dataset`` writes COCO files. ``backbones`` says what is compared, ``recipe``
how, ``start`` makes the common start, ``one_run`` trains one backbone and ``sweep`` all
of them; ``report`` writes what came out. ``tools/compare.py`` is the command line.
"""
