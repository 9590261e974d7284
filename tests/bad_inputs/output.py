"""Where results are to go, and words of the command line."""

from tests.bad_inputs.case import COMPARE, COUNT, LAUNCH, TEST, TRAIN, Tool
from tests.bad_inputs.spoil import checkpoint

__all__ = ["OUTPUT"]

OUTPUT = [
    Tool(
        "out_suffix",
        "`--out` of another kind",
        "--out must name a .pkl or .pickle file, got new.json",
        (TEST, "tiny.py", "other.pth", "--out=new.json"),
    ),
    Tool(
        "out_folder",
        "`--out` that is a folder",
        "--out new.pkl is a folder: name a file",
        (TEST, "tiny.py", "other.pth", "--out=new.pkl"),
        spoil=lambda folder: (folder / "new.pkl").mkdir(),
    ),
    Tool(
        "out_below",
        "`--out` below a file",
        "--out tiny.py/new.pkl cannot be written: tiny.py is a file",
        (TEST, "tiny.py", "other.pth", "--out=tiny.py/new.pkl"),
    ),
    Tool(
        "painter",
        "pictures without a painter",
        "--show and --show-dir need a painter: give the config "
        "default_hooks.visualization=dict(type='DetVisualizationHook')",
        (TEST, "tiny.py", "other.pth", "--show-dir=pictures"),
        config="default_hooks = dict(visualization=None)",
        spoil=checkpoint(),
    ),
    Tool(
        "resume_nothing",
        "`--resume` with a variable that is empty",
        "--resume '' names no checkpoint (a variable that is not set?): name one, or "
        "leave the value out for the latest",
        (TRAIN, "tiny.py", "--resume="),
    ),
    Tool(
        "compare_out",
        "results into a file in place of a folder",
        "--out tiny.py is a file: name a folder",
        (COMPARE, "train", "--out=tiny.py"),
    ),
    Tool(
        "json_out",
        "`--json` that is a folder",
        "--json data is a folder: name a file",
        (COUNT, "tiny.py", "--json=data"),
    ),
    Tool(
        "count_size",
        "size that is none",
        "argument --size: 800 is not HEIGHTxWIDTH",
        (COUNT, "tiny.py", "--size=800"),
    ),
    Tool(
        "page",
        "page without a place for tables",
        "tiny.py: no place for a table, like <!-- table: COCO --> <!-- end -->",
        (COUNT, "--table", "--out=tiny.py"),
    ),
    Tool(
        "gpus",
        "number of GPUs that is none",
        "two is no number of GPUs: give how many processes to start",
        (LAUNCH, "two", "train.py"),
    ),
    Tool(
        "launch_nothing",
        "number of GPUs that is not there",
        "'' is no number of GPUs: give how many processes to start",
        (LAUNCH,),
    ),
    Tool(
        "launch_script",
        "nothing to start",
        "no script: give one behind the number of GPUs",
        (LAUNCH, "1"),
    ),
    Tool(
        "machine",
        "machine behind the last one",
        "NODE_RANK=3 is none of NNODES=1 machines, which are counted from 0",
        (LAUNCH, "1", "train.py"),
        environment={"NODE_RANK": "3"},
    ),
    Tool(
        "machines",
        "number of machines that is none",
        "NNODES=two is no number of machines: set it to 1 or more",
        (LAUNCH, "1", "train.py"),
        environment={"NNODES": "two"},
    ),
    Tool(
        "launcher",
        "`--launcher` without a launcher",
        "--launcher pytorch is for processes that a launcher starts: use "
        "tools/dist_train.sh, tools/dist_test.sh or tools/slurm_train.sh, or leave it "
        "out for one process",
        (TRAIN, "tiny.py", "--launcher=pytorch"),
    ),
    Tool(
        "port",
        "port that another run has",
        "port ... cannot be used (Address already in use), maybe because another "
        "run has it: set PORT to another number",
        (LAUNCH, "2", "train.py"),
        environment={"PORT": "BUSY_PORT"},
    ),
    Tool(
        "no_port",
        "`PORT` that is none",
        "PORT=http is no port: set PORT to a number from 1024 to 65535",
        (LAUNCH, "2", "train.py"),
        environment={"PORT": "http"},
    ),
    Tool(
        "no_docs",
        "tables into a page that is not there",
        "no page gone.md; name one with places for tables",
        (COUNT, "--table", "--out=gone.md"),
    ),
]
