"""Bad inputs and what a person is told: the cases behind docs/bad-input.md.

Each case is data: what is wrong, how to provoke it, and the message. Three dots in a
message stand for what differs from run to run. `python -m tests.bad_inputs` writes the
tables of the page.
"""

from collections.abc import Mapping, Sequence

from tests.bad_inputs.case import Case
from tests.bad_inputs.checkpoints import CHECKPOINTS
from tests.bad_inputs.configs import CONFIGS
from tests.bad_inputs.data import DATA
from tests.bad_inputs.environment import ENVIRONMENT
from tests.bad_inputs.layers import LAYERS
from tests.bad_inputs.output import OUTPUT

__all__ = ["CASES"]

CASES: Mapping[str, Sequence[Case]] = {
    "Configs": CONFIGS,
    "Checkpoints": CHECKPOINTS,
    "Data": DATA,
    "Output and command lines": OUTPUT,
    "Layers": LAYERS,
    "Environment": ENVIRONMENT,
}
