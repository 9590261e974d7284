"""The demo: real nuclei, real ImageNet weights, one Mask R-CNN, on a CPU.

``run.py`` is the only module that knows the others; ``fetch``, ``hela``,
``weights`` and ``pictures`` each do one step and do not import one another.
"""
