import http.client
import subprocess
import sys
import threading
import urllib.request
from http import HTTPStatus
from pathlib import Path

import pytest
import requests

from demo.static_server import Slice, choose_slice
from tests.support.repository import serve

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "served" / "deep").mkdir(parents=True)
    (tmp_path / "served" / "deep" / "file").write_bytes(CONTENT)
    (tmp_path / "served" / "empty").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "served"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, Slice(HTTPStatus.OK, 0, 100)),
        ("bytes=0-9", Slice(HTTPStatus.PARTIAL_CONTENT, 0, 10)),
        ("bytes=90-", Slice(HTTPStatus.PARTIAL_CONTENT, 90, 10)),
        ("bytes=-10", Slice(HTTPStatus.PARTIAL_CONTENT, 90, 10)),
        ("bytes=95-200", Slice(HTTPStatus.PARTIAL_CONTENT, 95, 5)),
        ("bytes=100-", Slice(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0)),
        ("bytes=0-1,5-6", Slice(HTTPStatus.OK, 0, 100)),
        ("bytes=-", Slice(HTTPStatus.OK, 0, 100)),
        ("lines=1-2", Slice(HTTPStatus.OK, 0, 100)),
    ],
)
def test_a_range_header_chooses_its_bytes(wanted: str | None, expected: Slice) -> None:
    assert choose_slice(100, wanted) == expected


def test_files_and_ranges_are_served_and_recorded(directory: Path) -> None:
    with serve(directory) as server, requests.Session() as session:
        assert session.get(f"{server.url}/deep/file", timeout=5).content == CONTENT
        part = session.get(f"{server.url}/deep/file", headers={"Range": "bytes=10-19"}, timeout=5)
        assert (part.status_code, part.content) == (206, CONTENT[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(CONTENT)}"
        assert session.head(f"{server.url}/deep/file", timeout=5).headers["Content-Length"] == str(len(CONTENT))
        assert session.get(f"{server.url}/empty", timeout=5).content == b""
        assert session.get(f"{server.url}/missing", timeout=5).status_code == 404
        assert server.paths() == ["deep/file", "deep/file", "deep/file", "empty", "missing"]
        assert server.bytes_sent() == len(CONTENT) + 10


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "//../secret", "/deep", "/", "/%00"])
def test_nothing_outside_the_directory_is_served(directory: Path, path: str) -> None:
    with serve(directory) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_planted_faults_happen_as_often_as_asked(directory: Path) -> None:
    with serve(directory) as server, requests.Session() as session:
        url = f"{server.url}/deep/file"
        server.plant("deep/file", status=503, times=2)
        assert [session.get(url, timeout=5).status_code for _ in range(3)] == [503, 503, 200]
        server.plant("deep/file", flip_at=15)
        part = session.get(url, headers={"Range": "bytes=10-19"}, timeout=5).content
        assert part == CONTENT[10:15] + bytes([CONTENT[15] ^ 0xFF]) + CONTENT[16:20]
        server.heal()
        server.plant("deep/file", ignore_range=True)
        assert session.get(url, headers={"Range": "bytes=10-19"}, timeout=5).status_code == 200
        server.heal("deep/file")
        server.plant("deep/file", truncate_to=7)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = session.get(url, timeout=5).content
        server.heal()
        assert session.get(url, timeout=5).content == CONTENT


def test_an_answer_can_be_held_back(directory: Path) -> None:
    go_on = threading.Event()
    with serve(directory) as server:
        server.plant("empty", wait_for=go_on)
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.get(f"{server.url}/empty", timeout=0.2)
        go_on.set()
        assert requests.get(f"{server.url}/empty", timeout=5).status_code == 200


def test_the_server_runs_from_the_command_line_and_prints_its_address(directory: Path) -> None:
    command = [sys.executable, "-m", "demo.static_server", str(directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/deep/file", timeout=5) as answer:
                assert answer.read() == CONTENT
        finally:
            process.terminate()
