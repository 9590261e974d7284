"""Files that would run code are refused, and so are those that are not whole."""

import os
import threading

import numpy as np
import pytest
import torch

from odconv_det.checkpoints import (
    CheckpointError,
    read_tensors,
    read_torch,
    untrusted,
    write_tensors,
)
from odconv_det.checkpoints.errors import shown
from tests.checkpoints.malicious import (
    ATTACKS,
    GARBLED,
    MARK,
    REASONS,
    RunsCode,
    behind_its_part,
    instead,
    left_out,
    saved,
    text,
)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(content: bytes):
    with open("weights.pth", "wb") as file:
        file.write(content)
    return "weights.pth"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_malicious_file_is_refused_and_leaves_nothing(attack):
    path = write(ATTACKS[attack]())
    reason = REASONS.get(attack, r"could run code \(it names \S+\)")
    with pytest.raises(CheckpointError, match=f"weights.pth.*({reason})") as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1
    assert os.listdir() == ["weights.pth"]


def test_numbers_that_a_file_leaves_out_are_no_memory_of_the_process():
    assert read_tensors(write(left_out()))["weight"].tolist() == [0] * 7


def test_no_tensor_has_numbers_from_outside_its_file():
    content = behind_its_part()
    weight = read_tensors(write(content))["weight"]
    assert len(weight) == 10_000
    assert weight.numpy().tobytes() in content


def test_tensors_do_not_change_with_their_file():
    tensors = read_tensors(write(saved({"weight": torch.ones(1000)})))
    write(bytes(10_000))
    assert tensors["weight"].eq(1).all()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_another_protocol_of_pickle_is_named(protocol, zipped):
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    path = write(saved({"weight": torch.ones(2)}, **options))
    with pytest.raises(CheckpointError, match="another pickle_protocol"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_nobody_is_told_to_open_a_file_of_another_protocol(protocol, zipped):
    """To save it again it would have to be read, which may run code."""
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    path = write(saved({"weight": RunsCode()}, **options))
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert "was refused" in str(caught.value)
    assert "run code" in str(caught.value)
    assert "save it" not in str(caught.value)


def test_what_a_file_says_is_cut_and_printable_in_a_message():
    said = shown("\x1b[31m" + "x" * 10_000)
    assert said == "?[31m" + "x" * 75
    assert shown([[]] * 1000) == "a list"


def test_a_trusted_file_that_is_damaged_is_one_line(monkeypatch):
    monkeypatch.setattr(untrusted, "_trusted", True)
    path = write(b"\x80\x02broken")
    with pytest.raises(CheckpointError, match="weights.pth cannot be read"):
        read_tensors(path)


def test_a_dict_cannot_hide_what_it_holds():
    found = read_torch(write(ATTACKS["dict that hides a config"]()))
    assert vars(found) == {}
    assert "config" in found.get("meta")


def test_a_tensor_brings_no_attributes():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.numel = "many"
    found = read_tensors(write(saved({"weight": parameter})))["weight"]
    assert vars(found) == {}
    assert found.numel() == 2


@pytest.mark.parametrize("method", ["min", "max", "current", "mean", "__init__"])
def test_a_history_lists_methods_and_nothing_else(method):
    """As MMEngine saves it; getattr of anything else would be a way to everything."""
    history = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
    listed = b"cbuiltins\ngetattr\n" + history + text(method) + b"\x86R"
    path = write(instead(b"\x80\x02}" + text(method) + listed + b"s."))
    if method == "__init__":
        with pytest.raises(CheckpointError, match="asks for the attribute __init__"):
            read_torch(path)
    else:
        assert read_torch(path) == {method: None}


@pytest.mark.parametrize(
    "attack", [name for name in ATTACKS if "os.system" in name and "bare" not in name]
)
def test_the_attacks_are_real(attack):
    torch.load(write(ATTACKS[attack]()), weights_only=False)
    assert os.path.exists(MARK)


@pytest.mark.parametrize("defect", GARBLED)
def test_a_file_that_is_not_whole_is_named_with_what_to_do(defect):
    path = write(GARBLED[defect]())
    with pytest.raises(CheckpointError, match="weights.pth") as error:
        read_tensors(path)
    assert len(str(error.value).splitlines()) == 1
    assert "weights_only" not in str(error.value)


def test_numbers_of_numpy_come_back_as_they_were():
    content = {
        "score": np.float64(0.25),
        "arrays": [
            np.arange(6, dtype=">i4").reshape(2, 3),
            np.asfortranarray(np.random.rand(3, 4).astype("f4")),
            np.array([], dtype="f8"),
            np.array([True, False]),
            np.array(7, dtype="u1"),
        ],
    }
    found = read_torch(write(saved(content)))
    assert found["score"] == 0.25
    assert isinstance(found["score"], np.float64)
    for array, expected in zip(found["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert array.flags.writeable


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.zeros(1, [("x", "f4")])]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(CheckpointError, match="NumPy array of"):
        read_torch(write(saved({"array": array})))


def test_what_is_shared_in_a_file_is_read_once():
    shared = {"weight": torch.rand(2)}
    for _ in range(60):  # 2**60 paths lead to the tensor
        shared = [shared, shared]
    found = read_torch(write(saved(shared)))
    assert found[0] is found[1]


def test_tied_and_transposed_weights_are_no_attack():
    weight = torch.rand(3, 4)
    found = read_tensors(write(saved({"a": weight, "b": weight, "c": weight.t()})))
    assert torch.equal(found["c"], weight.t())


def test_metadata_of_a_state_dict_stays():
    state = torch.nn.BatchNorm2d(3).state_dict()
    found = read_torch(write(saved({"state_dict": state})))["state_dict"]
    assert found._metadata == state._metadata


def test_what_others_allow_is_not_allowed_here_and_stays_allowed_there():
    class Mine:
        pass

    Mine.__qualname__ = Mine.__name__ = "Mine"
    globals()["Mine"] = Mine
    path = write(saved({"state_dict": {"weight": torch.rand(1)}, "extra": Mine()}))
    torch.serialization.add_safe_globals([Mine])
    try:
        torch.load(path, weights_only=True)
        with pytest.raises(CheckpointError, match="could run code"):
            read_tensors(path)
        torch.load(path, weights_only=True)
    finally:
        torch.serialization.clear_safe_globals()
        del globals()["Mine"]


def test_threads_read_at_the_same_time():
    path = write(saved({"score": np.float64(1), "weight": torch.rand(100)}))
    errors = []

    def read():
        try:
            for _ in range(20):
                read_torch(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_trust_is_loud_and_runs_the_code(monkeypatch, capsys):
    monkeypatch.setattr(untrusted, "_trusted", False)
    path = write(ATTACKS["calls os.system"]())
    untrusted.trust_files()
    assert read_tensors(path)
    assert os.path.exists(MARK)
    assert f"WARNING: --trust-checkpoint: {path} may run any code" in (
        capsys.readouterr().err
    )


def test_what_this_package_writes_it_reads(tmp_path):
    tensors = {"weight": torch.rand(2, 3)}
    for name in ("a.pth", "a.safetensors"):
        write_tensors(tmp_path / name, tensors)
        assert torch.equal(read_tensors(tmp_path / name)["weight"], tensors["weight"])
