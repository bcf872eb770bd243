"""The command line against servers that misbehave: each answer is scripted, each ending is one clear line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pushsvc import cli
from pushsvc.cli.pushes import follow

Answer = tuple[int, dict[str, str], bytes]


def answer(status: int, body: object, **headers: str) -> Answer:
    return status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()


def status_document(state: str, **counts: int) -> dict[str, Any]:
    return {"id": "p1", "app": "shop", "state": state, "created_at": "a", "updated_at": "b", "counts": counts}


@contextmanager
def scripted(answers: Sequence[Answer]) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that gives these answers in turn; yields its URL and what it was asked."""
    asked: list[tuple[str, dict[str, str], bytes]] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((f"{self.command} {self.path}", dict(self.headers.items()), body))
            status, headers, content = left.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  # http.server's own names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as in the base class
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_KEY", "secret-key")
    monkeypatch.setattr(follow, "FIRST_LOOK", 0.0)
    monkeypatch.setattr(follow, "LAST_LOOK", 0.0)


def test_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--apns a1 --apns a2 --fcm f1 --fid i1 --title T --subtitle S --body B --image I --sound default --badge 0 "
        "--link L --category C --thread H --channel N --data k=v --data e= --lane bulk --priority high "
        "--push-type alert --silent --ttl 0 --collapse X --via auto --ack-within 2.5 --dry-run --idempotency-key once "
        "--send-at 2026-12-01T10:00:00.250+01:00"
    )
    with scripted([answer(202, {"id": "p1", "state": "sending", "deliveries": 4})]) as (url, asked):
        assert cli.main(["send", "--url", url + "/", *flags.split()]) == 0
    assert capsys.readouterr().out == "p1\n"
    ((call, headers, body),) = asked
    assert call == "POST /v1/push"
    assert headers["Authorization"] == "Bearer secret-key"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "once"
    assert json.loads(body) == {
        "to": {
            "tokens": [
                {"platform": "apns", "token": "a1"},
                {"platform": "apns", "token": "a2"},
                {"platform": "fcm", "token": "f1"},
                {"platform": "fcm", "fid": "i1"},
            ]
        },
        "notification": {
            "title": "T", "subtitle": "S", "body": "B", "image": "I", "sound": "default", "badge": 0, "link": "L",
            "category": "C", "thread": "H", "channel": "N",
        },
        "data": {"k": "v", "e": ""},
        "lane": "bulk", "priority": "high", "push_type": "alert", "silent": True, "ttl": 0, "collapse": "X",
        "via": "auto", "ack_within": 2.5, "dry_run": True, "send_at": "2026-12-01T09:00:00.250Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "to"),
    [
        (["--device", "d1", "--device", "d 2"], {"devices": ["d1", "d 2"]}),
        (["--user", "u1"], {"users": ["u1"]}),
        (["--topic", "news"], {"topic": "news"}),
        (["--where", "tags.plan == 'pro'"], {"where": "tags.plan == 'pro'"}),
        (["--all"], {"all": True}),
        # Which of the two is meant the API asks.
        (["--all", "--topic", ""], {"topic": "", "all": True}),
    ],
)
def test_its_receivers(flags: list[str], to: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "push.json"
    file.write_text('{"to": {"users": ["u9"]}, "lane": "bulk"}')
    with scripted([answer(202, {"id": "p1", "state": "expanding", "deliveries": None})]) as (url, asked):
        assert cli.main(["send", "--url", url, str(file), *flags, "--title", "T"]) == 0
    ((_, _, body),) = asked
    assert json.loads(body) == {"to": to, "lane": "bulk", "notification": {"title": "T"}}


def test_channels_are_made_listed_shown_and_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    channel = {"id": "a/b+c==", "storage": "latest"}
    answers = [
        answer(201, channel),
        answer(200, {"channels": ["a/b+c==", "d"]}),
        answer(200, channel),
        answer(204, b""),
        answer(409, {"title": "The state forbids it", "detail": "APNs answers 400 FeatureNotEnabled: .."}),
    ]
    with scripted(answers) as (url, asked):
        run = [
            cli.main(["channels", *words, "--url", url])
            for words in (["new", "--storage", "latest"], ["list"], ["show", "a/b+c=="], ["delete", "a/b+c=="], ["new"])
        ]
    assert run == [0, 0, 0, 0, 1]
    reported = capsys.readouterr()
    assert reported.out.splitlines() == ["a/b+c==", "a/b+c==", "d", "id\tstorage", "a/b+c==\tlatest", "deleted a/b+c=="]
    assert reported.err == "pushsvc: The state forbids it: APNs answers 400 FeatureNotEnabled: .. (409)\n"
    assert [(call, json.loads(body) if body else None) for call, _, body in asked] == [
        ("POST /v1/channels", {"storage": "latest"}),
        ("GET /v1/channels", None),
        ("GET /v1/channels/a%2Fb%2Bc%3D%3D", None),
        ("DELETE /v1/channels/a%2Fb%2Bc%3D%3D", None),
        ("POST /v1/channels", {"storage": "none"}),
    ]
    assert all(headers["Authorization"] == "Bearer secret-key" for _, headers, _ in asked)


def test_an_app_without_channels_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted([answer(200, {"channels": []})]) as (url, _):
        assert cli.main(["channels", "list", "--url", url]) == 0
    assert capsys.readouterr() == ("", "0 channels\n")


def test_channels_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    channel = {"id": "d", "storage": "none"}
    with scripted([answer(201, channel), answer(200, {"channels": ["d"]}), answer(200, channel), answer(204, b"")]) as (
        url,
        _,
    ):
        printed = []
        for words in (["new"], ["list"], ["show", "d"], ["delete", "d"]):
            assert cli.main(["channels", *words, "--url", url, "--json"]) == 0
            printed.append(json.loads(capsys.readouterr().out))
    assert printed == [channel, {"items": ["d"]}, channel, {"id": "d", "deleted": True}]
    assert cli.main(["channels", "new", "--storage", "all"]) == 2


def test_when_it_is_to_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    accepted = answer(202, {"id": "p1", "state": "scheduled", "deliveries": 1})
    with scripted([accepted, accepted]) as (url, asked):
        before = time.time()
        for when in ("30m", "99999w"):
            assert cli.main(["send", "--url", url, "--apns", "a1", "--title", "T", "--send-at", when]) == 0
        after = time.time()
    soon, far = (datetime.fromisoformat(json.loads(body)["send_at"]) for _, _, body in asked)
    assert before - 0.001 <= soon.timestamp() - 1800 <= after
    assert far.year > 3900  # which the API refuses with the reason
    capsys.readouterr()
    assert cli.main(["send", "--url", url, "--apns", "a1", "--title", "T", "--send-at", "soon"]) == 2
    assert "--send-at: 'soon' is not a time: give 2026-12-01T09:00:00Z, or 30m, 2h, 7d" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


@pytest.mark.parametrize("flags", [(), ("--follow",), ("--json",), ("--follow", "--json")])
def test_warnings_are_shown(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    warnings = [{"path": "to", "message": "no account of the app reaches 1 of the targets"}]
    accepted = answer(202, {"id": "p1", "state": "sending", "deliveries": 1, "warnings": warnings})
    with scripted([accepted, answer(200, status_document("done", total=1, failed=1))]) as (url, _):
        code = cli.main(["send", "--url", url, "--user", "u1", "--title", "T", *flags])
    assert code == ("--follow" in flags)
    reported = capsys.readouterr()
    if "--json" in flags:
        assert json.loads(reported.out)["warnings"] == warnings
        assert reported.err == ""
    else:
        assert reported.out.splitlines()[0] == "p1"
        assert reported.err == "warning: to: no account of the app reaches 1 of the targets\n"


def test_a_status_says_what_it_was_scheduled_for_and_who_carried_it(capsys: pytest.CaptureFixture[str]) -> None:
    document = {**status_document("scheduled", total=2, queued=2), "send_at": "2026-12-01T09:00:00.000Z"}
    nothing = dict.fromkeys(("arrived", "shown", "opened", "dismissed"), 0)
    done = status_document("done", total=2, sent=2)
    live = {"acked": 1234, "fallback": 1, "waiting": 0}
    with scripted([answer(200, {**document, "events": nothing}), answer(200, {**done, "live": live})]) as (url, _):
        for _ in range(2):
            assert cli.main(["status", "--url", url, "p1"]) == 0
    reported = capsys.readouterr().out.splitlines()
    assert reported[0] == "p1  scheduled"
    assert reported[2] == "created a, scheduled for 2026-12-01T09:00:00.000Z, updated b"
    assert reported[5:] == ["live: 1,234 acked, 1 fallback, 0 waiting", "created a, updated b"]


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        (answer(401, {"title": "No API key, or an unknown one"}), "pushsvc: No API key, or an unknown one (401)"),
        (
            answer(422, {"title": "Bad", "detail": "2 faults", "errors": [{"path": "to", "message": "missing"}]}),
            "pushsvc: Bad: 2 faults (422)\n  to: missing",
        ),
        (
            answer(429, {"title": "Too many", "detail": "Too many"}, Retry_After="7"),
            "pushsvc: Too many (429), try again in 7 s",
        ),
        (answer(502, b"<html>nginx"), "pushsvc: The server gives no reason (502)"),
        (answer(500, [1]), "pushsvc: The server gives no reason (500)"),
        (answer(200, b"hello"), "pushsvc: URL answered 200 without a JSON object: is it pushsvc?"),
        (answer(200, [1]), "pushsvc: URL answered 200 without a JSON object: is it pushsvc?"),
    ],
)
def test_a_refusal_is_reported(given: Answer, reported: str, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted([given]) as (url, _):
        assert cli.main(["status", "p1", "--url", url]) == 1
    captured = capsys.readouterr()
    assert captured.err.replace(url, "URL") == reported + "\n"
    assert captured.out == ""
    assert "secret-key" not in captured.err


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else can take the port meanwhile.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["cancel", "p1", "--url", url]) == 1
    reported = capsys.readouterr().err
    assert reported.startswith(f"pushsvc: {url} does not answer: connection refused (is the service running there?")


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "http://127.0.0.1:99999"])
def test_nowhere(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cancel", "p1", "--url", url]) == 1
    assert capsys.readouterr().err.startswith(f"pushsvc: {url.rstrip('/')} does not answer: ")


def test_an_audience_that_is_not_known_yet_has_no_counts(capsys: pytest.CaptureFixture[str]) -> None:
    states = [
        status_document("scheduled", total=0),
        status_document("expanding", total=0),
        status_document("done", total=1, sent=1),
    ]
    with scripted([answer(200, document) for document in states]) as (url, _):
        assert cli.main(["status", "--url", url, "p1", "--follow"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "scheduled: its audience is looked up when due",
        "expanding: its audience is being looked up",
        "done: 1 of 1: 1 sent",
    ]


def test_following_outlives_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    script = [
        answer(202, {"id": "p1"}),
        answer(200, status_document("sending", total=3, queued=3)),
        answer(503, {"title": "away"}),
        answer(502, {"title": "of a proxy"}),
        answer(200, status_document("sending", total=3, queued=3)),
        answer(429, {"title": "slower"}),
        answer(200, status_document("sending", total=3, sent=1, retrying=2)),
        answer(200, status_document("done", total=3, sent=2, expired=1)),
    ]
    with scripted(script) as (url, asked):
        assert cli.main(["send", "--url", url, "--apns", "a", "--title", "t", "--follow"]) == 0
    assert len(asked) == len(script)
    assert capsys.readouterr().out.splitlines() == [
        "p1",
        "sending: 0 of 3: 3 queued",
        "sending: 1 of 3: 1 sent, 2 retrying",
        "done: 3 of 3: 2 sent, 1 expired",
    ]


def test_what_waits_for_an_offline_device_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    sending = status_document("sending", total=2, sent=1, retrying=1)
    waits = {**sending, "live": {"acked": 1, "fallback": 0, "waiting": 1}}
    done = status_document("done", total=2, sent=1, expired=1)
    for script, times in (([waits] * 5, 1), ([sending] * 5, 0), ([waits, sending] * 4, 0)):
        with scripted([answer(200, document) for document in [*script, done]]) as (url, _):
            assert cli.main(["status", "--url", url, "p1", "--follow"]) == 0
        err = capsys.readouterr().err
        assert (
            err.count("1 delivery waits for its device: one that is offline gets the push once it is online") == times
        )
        assert err.count("`ttl`") == times


def test_following_gives_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 3)
    with scripted([answer(503, {"title": "away"})] * 3) as (url, asked):
        assert cli.main(["status", "p1", "--url", url, "--watch"]) == 1
    assert len(asked) == 3
    assert capsys.readouterr().err == "pushsvc: away (503)\n"
    with scripted([answer(404, {"title": "No such push"})]) as (url, _):
        assert cli.main(["status", "p1", "--url", url, "-f"]) == 1
    assert capsys.readouterr().err == "pushsvc: No such push (404)\n"


def test_a_bar_at_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    script = [
        answer(200, status_document("sending", total=3, sent=1, queued=2)),
        answer(200, status_document("done", total=3, sent=3)),
    ]
    with scripted(script) as (url, _):
        assert cli.main(["status", "p1", "--url", url, "-f"]) == 0
    out = capsys.readouterr().out
    assert "━" in out
    assert "3 of 3: 3 sent" in out


def test_rows_come_page_by_page(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"platform": "apns", "device_id": None, "token_hash": "ab", "outcome": "failed", "reason": "BadTopic"}
    script = [
        answer(200, status_document("done", total=2, failed=2)),
        answer(200, {"items": [row], "cursor": "c+1&x"}),
        answer(200, {"items": [row], "cursor": None}),
    ]
    with scripted(script) as (url, asked):
        assert cli.main(["status", "a/b", "--url", url, "--deliveries", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deliveries"] == [row, row]
    assert [call for call, _, _ in asked] == [
        "GET /v1/push/a%2Fb",
        "GET /v1/push/a%2Fb/deliveries?limit=1000",
        "GET /v1/push/a%2Fb/deliveries?limit=1000&cursor=c%2B1%26x",
    ]


def test_tls_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """OpenSSL's numbers are not the system's: 1 is not `operation not permitted`."""
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def refuse() -> None:
            connection, _ = plain.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        answering = threading.Thread(target=refuse)
        answering.start()
        assert cli.main(["status", "p1", "--url", f"https://127.0.0.1:{plain.getsockname()[1]}"]) == 1
        answering.join()
    reported = capsys.readouterr().err
    assert "does not answer: it does not speak TLS, or not as we do: is it http://?" in reported


def test_as_a_process_of_its_own() -> None:
    """A signal is answered with what goes on, and a reader that has gone is no traceback."""
    environ = {**os.environ, "PUSHSVC_KEY": "k"}
    waiting = [answer(200, status_document("sending", total=1, queued=1))] * 1000
    with scripted(waiting) as (url, asked):
        command = [sys.executable, "-m", "pushsvc", "status", "p1", "--url", url, "--follow"]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = subprocess.Popen(command, env=environ, stdout=-1, stderr=-1, text=True)
            assert process.stdout is not None
            assert process.stdout.readline() == "sending: 0 of 1: 1 queued\n"
            process.send_signal(number)
            out, err = process.communicate()
            reported = "interrupted: the push continues; `pushsvc cancel p1` cancels what has not been sent\n"
            assert (process.returncode, out, err) == (128 + number, "", reported)

        piped = subprocess.Popen([*command[:-1], "--json"], env=environ, stdout=-1, stderr=-1, text=True, pipesize=4096)
        assert piped.stdout is not None
        piped.stdout.close()
        assert piped.stderr is not None
        assert "Traceback" not in piped.stderr.read()
        piped.stderr.close()
        assert piped.wait() != 0
    assert asked
