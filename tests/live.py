"""What a process holds; needs nothing but torch."""

import gc
from collections import OrderedDict, defaultdict, deque

import torch

__all__ = ["entries", "live_tensors"]

CONTAINERS = {dict, list, set, OrderedDict, defaultdict, deque}


def live_tensors() -> int:
    """How many tensors Python knows, once what nobody holds is gone."""
    for _ in range(3):  # cycles through C++, as torch.compile leaves, go in the second
        gc.collect()
    # By type: `isinstance` would wake lazy objects that answer with a __class__.
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def entries() -> int:
    """How many entries all containers of the process have together."""
    known = gc.get_objects()
    # The collector does not list a dict of numbers and strings; its owner knows it.
    dicts = (o for o in gc.get_referents(*known) if type(o) is dict)
    hidden = {id(o): o for o in dicts if not gc.is_tracked(o)}
    listed = (o for o in known if type(o) in CONTAINERS and o is not known)
    return sum(map(len, listed)) + sum(map(len, hidden.values()))
