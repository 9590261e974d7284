"""What can be known of CUDA graphs without CUDA: when one is taken, kept and used."""

import contextlib
import gc
import weakref
from typing import NamedTuple

import pytest
import torch
from torch import nn

from odconv_det.fusion import graphs
from odconv_det.fusion.graphs import GraphedModule


class Recorder(GraphedModule):
    """Notes the inputs of every capture; a graph here is the module itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.captured = []

    def _capture(self, inputs):
        self.captured.append([tuple(x.shape) for x in inputs])
        return self.module


class Net(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.make = make

    def forward(self, x):
        return self.make(self.conv(x))


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def recorder(make=torch.relu, **kwargs):
    return Recorder(Net(make).eval(), **kwargs)


def of(width):
    return torch.rand(1, 2, 4, width)


def test_one_graph_serves_equal_shapes_with_other_values():
    graphed = recorder()
    for _ in range(3):
        x = of(5)
        torch.testing.assert_close(graphed(x), graphed.module(x))
    assert graphed.captured == [[(1, 2, 4, 5)]]


def test_one_pixel_more_is_another_graph():
    graphed = recorder()
    shapes = [graphed(of(width)).shape for width in (5, 6, 5)]
    assert shapes == [(1, 3, 4, 5), (1, 3, 4, 6), (1, 3, 4, 5)]
    assert graphed.captured == [[(1, 2, 4, 5)], [(1, 2, 4, 6)]]


@pytest.mark.parametrize(
    "other",
    [
        of(5).contiguous(memory_format=torch.channels_last),
        of(5).double(),
        of(10)[..., ::2],
    ],
    ids=["memory format", "dtype", "strides"],
)
def test_another_kind_of_equal_shape_is_another_graph(other):
    graphed = Recorder(nn.Identity().eval())
    graphed(of(5))
    graphed(other)
    assert graphed.captured == [[(1, 2, 4, 5)]] * 2


def test_each_setting_of_autocast_has_its_graph(monkeypatch):
    graphed = recorder()
    graphed(of(5))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    graphed(of(5))
    graphed(of(5))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    graphed(of(5))
    assert len(graphed.captured) == 3


def test_several_inputs_are_one_key():
    graphed = Recorder(nn.Bilinear(2, 3, 4).eval())
    a, b = torch.rand(5, 2), torch.rand(5, 3)
    torch.testing.assert_close(graphed(a, b), graphed.module(a, b))
    graphed(a, b)
    assert graphed.captured == [[(5, 2), (5, 3)]]


def test_the_graph_unused_for_longest_makes_room():
    graphed = recorder(max_graphs=2)
    for width in (1, 2, 1, 3, 1, 2):  # 3 evicts 2, and then 2 evicts 3
        graphed(of(width))
        assert len(graphed._graphs) <= 2
    assert [shapes[0][-1] for shapes in graphed.captured] == [1, 2, 3, 2]


def test_room_is_made_before_the_capture():
    held = []

    class Counting(Recorder):
        def _capture(self, inputs):
            held.append(len(self._graphs))
            return super()._capture(inputs)

    graphed = Counting(nn.Identity().eval(), max_graphs=1)
    for width in (1, 2, 3):
        graphed(of(width))
    assert held == [0, 0, 0]


def test_a_graph_that_made_room_is_gone():
    taken = []

    class Fake(nn.Module):
        def forward(self, x):
            return x

    class Weak(GraphedModule):
        def _capture(self, inputs):
            run = Fake()
            taken.append(weakref.ref(run))
            return run

    graphed = Weak(nn.Identity().eval(), max_graphs=3)
    for width in range(1, 101):
        graphed(of(width))
    gc.collect()
    assert [run() is not None for run in taken] == [False] * 97 + [True] * 3


def test_the_default_bound_is_16():
    graphed = recorder()
    for width in range(1, 19):
        graphed(of(width))
    assert len(graphed._graphs) == 16


def test_a_capture_that_fails_leaves_no_graph():
    def broken(y):
        raise RuntimeError("broken")

    graphed = recorder(broken)
    with pytest.raises(RuntimeError, match="broken"):
        graphed(of(5))
    graphed.module.make = torch.relu
    assert graphed(of(5)).shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: y,
        lambda y: (y, y + 1),
        lambda y: [y],
        lambda y: {"a": y, "b": (y, [y * 2])},
        lambda y: Pair(y, y - 1),
    ],
    ids=["tensor", "tuple", "list", "dict", "named tuple"],
)
@pytest.mark.parametrize("copy", [True, False])
def test_the_structure_of_the_outputs_is_kept(make, copy):
    graphed = recorder(make, copy_outputs=copy)
    x = of(5)
    outputs, expected = graphed(x), graphed.module(x)
    assert type(outputs) is type(expected)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("copy", [True, False])
def test_outputs_are_copied_unless_told_otherwise(copy):
    static = torch.zeros(3)
    graphed = recorder(lambda y: static, copy_outputs=copy)
    assert (graphed(of(5)).data_ptr() != static.data_ptr()) == copy


def test_copies_keep_their_memory_format():
    graphed = recorder(lambda y: y)
    x = torch.rand(2, 2, 4, 5).contiguous(memory_format=torch.channels_last)
    assert graphed(x).is_contiguous(memory_format=torch.channels_last)


def test_outputs_carry_no_gradient():
    graphed = recorder()
    assert not graphed(of(5).requires_grad_()).requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("value", [None, 1, "name"])
def test_other_outputs_than_tensors_are_refused(value):
    with pytest.raises(ValueError, match="must return tensors only, got"):
        recorder(lambda y: (y, value))(of(5))


def test_cpu_tensors_are_refused():
    graphed = GraphedModule(Net(torch.relu).eval())
    with pytest.raises(ValueError, match="CUDA graphs need CUDA tensors, got cpu"):
        graphed(of(5))
    with pytest.raises(ValueError, match="need CUDA tensors, got nothing"):
        graphed()
    with pytest.raises(ValueError, match="need CUDA tensors, got list"):
        graphed([of(5)])


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="the module is in training mode"):
        GraphedModule(nn.ReLU())
    graphed = recorder()
    graphed(of(5))
    graphed.train()
    with pytest.raises(ValueError, match="the module is in training mode"):
        graphed(of(5))
    assert graphed.eval()(of(5)).shape == (1, 3, 4, 5)


def test_no_graph_at_all_is_refused():
    with pytest.raises(ValueError, match="max_graphs must be at least 1, got 0"):
        recorder(max_graphs=0)


def test_moved_parameters_and_clear_delete_the_graphs():
    graphed = recorder()
    for change in (graphed.double, graphed.float, graphed.clear):
        graphed(of(5).to(graphed.module.conv.weight.dtype))
        assert len(graphed._graphs) == 1
        change()
        assert not graphed._graphs


class Streams:
    """What ``torch.cuda`` has to say about streams, without CUDA."""

    class Stream:
        def __init__(self, device=None):
            self.waited_for = []

        def wait_stream(self, other):
            self.waited_for.append(other)

    def __init__(self, monkeypatch):
        self.current = self.default = self.Stream()
        self.capturing = False
        monkeypatch.setattr(torch.cuda, "Stream", self.Stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: self.current)
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.capturing = True
        with self.stream(stream):
            yield
        self.capturing = False


def test_warms_up_on_the_one_stream_that_it_captures_on(monkeypatch):
    """What torch makes once for each stream is not made within a capture then."""
    streams, calls = Streams(monkeypatch), []

    class Spy(nn.Module):
        def forward(self, x):
            calls.append((streams.current, streams.capturing))
            return x

    graphs._stream.cache_clear()
    for _ in range(2):
        graphs._Captured(Spy(), [of(5)], pool=None)
    graphs._stream.cache_clear()
    own = calls[0][0]
    assert own is not streams.default
    each = [(own, False)] * graphs.WARM_UP + [(own, True)]
    assert calls == each * 2
    assert own.waited_for == [streams.default] * 2
    assert streams.default.waited_for == [own] * 2


def test_the_module_is_its_child():
    net = Net(torch.relu).eval()
    graphed = GraphedModule(net)
    assert not graphed.training
    assert set(graphed.state_dict()) == {f"module.{name}" for name in net.state_dict()}
