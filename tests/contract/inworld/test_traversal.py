"""No path, body or header gets at anything outside the voices folder, or changes more than a workspace's clones."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx

from tests.contract.cloning import HOSTILE_NAMES, base64_clip, changed, snapshot
from tests.contract.inworld.calls import open_socket, post
from tests.contract.serving import PATIENCE_S, Served


def raw(server: Served, method: str, target: str, body: bytes = b"{}") -> int:
    """Send a request target as it is, which no client library would; returns the status."""
    line = "".join(char if " " < char < "\x7f" else f"%{ord(char):02x}" for char in target)
    request = f"{method} {line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request.encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b"outside" not in answer.partition(b"\r\n\r\n")[0]
    return int(answer.split(b" ", 2)[1])


def test_no_path_reaches_outside(cloning: Served, home: Path) -> None:
    post(cloning, "/voices/v1/workspaces/skyrim/voices:clone", _upload("Lydia"))
    before = snapshot(home)
    for name in HOSTILE_NAMES:
        name = name.replace("{home}", str(home))
        for base in ("/voices/v1/voices/", "/voices/v1/workspaces/skyrim/voices/"):
            for method in ("GET", "DELETE", "PATCH"):
                assert raw(cloning, method, base + name) in (400, 403, 404, 405), (method, base + name)
        for method, rest in (("GET", "/voices/anna%00"), ("DELETE", "/voices/skyrim__Lydia"), ("PATCH", "/voices/x")):
            status = raw(cloning, method, f"/voices/v1/workspaces/{name}{rest}")
            assert status in (400, 403, 404, 405), (method, name)
    assert changed(before, snapshot(home)) == set()


def test_a_workspace_of_any_name_only_makes_clones_of_its_own(cloning: Served, home: Path) -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        before = snapshot(home)
        target = f"/voices/v1/workspaces/{name.replace('{home}', str(home))}/voices:clone"
        status = raw(cloning, "POST", target, json.dumps(_upload(f"probe{number}")).encode())
        made = changed(before, snapshot(home))
        if status == 200:
            assert {Path(path).parent for path in made} == {Path("voices")}
            assert all(f"__probe{number}." in path for path in made)
        else:
            assert status in (400, 404, 405)
            assert made == set()


def test_no_field_of_a_body_reaches_outside(cloning: Served, home: Path) -> None:
    before = snapshot(home)
    for name in HOSTILE_NAMES:
        name = name.replace("{home}", str(home))
        for path in ("/tts/v1/voice", "/tts/v1/voice:stream"):
            answer = post(cloning, path, {"text": "Hi", "voiceId": name, "modelId": name})
            assert (answer.status_code, answer.json()["code"]) == (404, 5), name
            assert answer.json()["message"].startswith("Unknown voice '")
        for field in ("text", "modelId", "language"):
            answer = post(cloning, "/tts/v1/voice", {"text": "Hi", "voiceId": "anna", field: name})
            assert answer.status_code in (200, 400)
        upload = {**_upload("safe"), "description": name, "langCode": name[:32], "tags": [name[:64]]}
        assert post(cloning, "/voices/v1/workspaces/w/voices:clone", upload).status_code in (200, 400)
    assert all(path.startswith("voices/w__safe.") for path in changed(before, snapshot(home)))


def test_no_field_of_a_socket_message_reaches_outside(cloning: Served, home: Path) -> None:
    before = snapshot(home)
    with open_socket(cloning) as opened:
        for name in HOSTILE_NAMES:
            name = name.replace("{home}", str(home))
            opened.send({"create": {"voiceId": name}}, "c")
            assert opened.status()["code"] == 5
            opened.send({"create": {"voiceId": "anna"}}, name)
            opened.until("contextCreated")
            opened.send({"cancel_context": {}}, name)
            opened.until("contextClosed")
    assert changed(before, snapshot(home)) == set()


def test_no_header_reaches_outside(cloning: Served, home: Path) -> None:
    before = snapshot(home)
    for name in HOSTILE_NAMES:
        value = "".join(char for char in name if char.isprintable()) or "."
        headers = {"X-Request-Id": value, "X-User-Agent": value, "Authorization": f"Basic {value}", "Referer": value}
        answer = post(cloning, "/tts/v1/voice", {"text": "Hi", "voiceId": "anna"}, headers=headers)
        assert answer.status_code == 200
    assert changed(before, snapshot(home)) == set()


def test_a_link_out_of_the_folder_is_not_followed(cloning: Served, home: Path) -> None:
    (home / "voices" / "link.wav").symlink_to(home / "outside.wav")
    (home / "voices" / "w__link.clone.wav").symlink_to(home / "outside.wav")
    before = snapshot(home)
    for name in ("link", "w__link", "w__link.clone.wav"):
        assert post(cloning, "/tts/v1/voice", {"text": "Hi", "voiceId": name}).status_code == 404
        assert httpx.delete(cloning.url + f"/voices/v1/voices/{name}").status_code == 404
    post(cloning, "/voices/v1/workspaces/w/voices:clone", _upload("link"))
    assert snapshot(home)["outside.wav"] == before["outside.wav"]


def _upload(name: str) -> dict[str, object]:
    return {"displayName": name, "voiceSamples": [{"audioData": base64_clip()}]}
