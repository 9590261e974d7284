"""What comes over http is what its address says, or nothing."""

import hashlib
import http.server
import socket
import threading

import pytest
import torch

from odconv_det.checkpoints import (
    CheckpointError,
    MissingCheckpointError,
    locate,
    read_tensors,
    write_tensors,
)


@pytest.fixture
def server(tmp_path):
    """A server of the folder `site`; `requests` counts, `cut` shortens the answers."""
    site = tmp_path / "site"
    site.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def do_GET(self):
            server.requests += 1
            if server.cut:
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(b"PK")
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.cut, server.site = 0, False, site
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ODCONV_HOME", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):  # the server is on this machine
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "cache" / "downloads"


@pytest.fixture
def offered(server):
    """A file of the server, and its hash."""
    path = server.site / "w.safetensors"
    write_tensors(path, {"weight": torch.arange(3.0)})
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_with_the_right_hash_is_fetched_once(server, cache, offered):
    path, sha256 = offered
    address = f"{server.address}/w.safetensors?download=1#sha256={sha256.upper()}"
    for _ in range(2):
        found = locate(address)
        assert found == cache / f"{sha256}.safetensors"
        assert found.read_bytes() == path.read_bytes()
    assert server.requests == 1
    assert read_tensors(found)["weight"].tolist() == [0, 1, 2]


def test_a_changed_file_in_the_cache_is_fetched_anew(server, cache, offered):
    address = f"{server.address}/w.safetensors#sha256={offered[1]}"
    locate(address).write_bytes(b"changed")
    assert locate(address).read_bytes() == offered[0].read_bytes()
    assert server.requests == 2


def test_another_hash_is_an_error_and_leaves_nothing(server, cache, offered):
    with pytest.raises(CheckpointError, match=f"another sha256.*{offered[1]}"):
        locate(f"{server.address}/w.safetensors#sha256={'0' * 64}")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("digits", [8, 63])
def test_every_digit_of_the_hash_counts(digits, server, cache, offered):
    path, sha256 = offered
    last = "0" if sha256[-1] != "0" else "1"
    other = sha256[:digits] + (64 - digits) * last
    address = f"{server.address}/w.safetensors#sha256={other}"
    with pytest.raises(CheckpointError, match=f"another sha256.*{sha256}"):
        locate(address)
    (cache / f"{other}.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(MissingCheckpointError):
        locate(address, download=False)


@pytest.mark.parametrize("hash_", ["", "#sha256=", "#sha256=0676ba61", "#md5=1"])
def test_an_address_without_a_whole_hash_is_refused_unasked(server, cache, hash_):
    with pytest.raises(CheckpointError, match="refused without its hash.*#sha256="):
        locate(f"{server.address}/w.safetensors{hash_}")
    assert server.requests == 0


def test_the_address_does_not_choose_where_the_file_lies(server, cache, offered):
    name = "..%2f..%2fw.pth"
    (server.site / name).parent.mkdir(exist_ok=True)
    address = f"{server.address}/x/../w.safetensors/../../{name}#sha256={offered[1]}"
    with pytest.raises(CheckpointError):
        locate(address)
    assert not list(cache.parent.rglob("w*"))


def test_an_interrupted_download_leaves_nothing(server, cache, offered):
    server.cut = True
    with pytest.raises(CheckpointError):
        locate(f"{server.address}/w.safetensors#sha256={offered[1]}")
    assert not list(cache.iterdir())


def test_a_file_that_is_not_there_says_where_to_put_it(server, cache):
    with pytest.raises(
        MissingCheckpointError, match=r"failed.*404.*save it as .*\.pth"
    ):
        locate(f"{server.address}/gone.pth#sha256={'0' * 64}")


def test_a_server_that_does_not_end_is_stopped(server, cache, offered, monkeypatch):
    monkeypatch.setattr("odconv_det.checkpoints.download._GREATEST", 10)
    with pytest.raises(MissingCheckpointError, match="more than 10 bytes"):
        locate(f"{server.address}/w.safetensors#sha256={offered[1]}")
    assert not list(cache.iterdir())


def test_nothing_is_downloaded_where_that_is_not_wanted(server, cache, offered):
    address = f"{server.address}/w.safetensors#sha256={offered[1]}"
    with pytest.raises(MissingCheckpointError):
        locate(address, download=False)
    assert server.requests == 0


def test_a_server_that_says_nothing_is_given_up(cache, monkeypatch):
    monkeypatch.setattr("odconv_det.checkpoints.download._SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/w.pth#sha256={'0' * 64}"
        with pytest.raises(MissingCheckpointError, match="timed out"):
            locate(address)


@pytest.mark.parametrize("host", ["[::1", "\u2100.com"])
def test_what_is_no_address_is_one_line(cache, host):
    with pytest.raises(CheckpointError, match="is no address"):
        locate(f"http://{host}/w.pth#sha256={'0' * 64}")
