"""`pushsvc failed` and `pushsvc replay` against a running service and a worker, as a shell would call them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest
import typer

from pushsvc.cli.instants import instant_option
from pushsvc.cli.pushes.replay import share

from .harness import apns, fcm
from .test_cli_commands import Shell


async def test_dead_letters_are_listed_and_sent_again(shell: Shell) -> None:
    service = shell.service
    code, out, _ = await shell("replay")
    assert (code, out) == (0, "no match among 0 dead letters, so nothing was replayed\n")
    bad = apns("BadPriority", 1, 2, 3)
    push = await service.push(bad + fcm("SENDER_ID_MISMATCH", 1) + apns("ok", "good"))
    assert await service.done(push) == {"total": 5, "failed": 4, "sent": 1}

    code, out, err = await shell("failed", "--push", push, "--reason", "BadPriority", "--limit", "2")
    assert code == 0
    reasons, why, titles, *rows = [line.split("\t") for line in out.splitlines()]
    assert reasons[:3] == ["deliveries", "reason", "retryable"]
    assert why[:3] == ["3", "BadPriority", "no"]
    assert why[5:] == ["apns", "400", "shop", "Correct this field in the overrides of the push, then send it again."]
    assert titles[:4] == ["at", "app", "push_id", "platform"]
    assert [row[1:6] for row in rows] == [["shop", push, "apns", "BadPriority", "400"]] * 2
    assert bad[0]["token"] not in out
    assert err == "2 of 3; --limit shows more"
    reported = await shell.json("failed", "--platform", "fcm", "--since", "1h")
    assert (reported["matched"], reported["items"][0]["reason"]) == (1, "SENDER_ID_MISMATCH")
    (group,) = reported["groups"]
    assert group.items() >= {"app": "shop", "platform": "fcm", "count": 1, "retryable": False}.items()
    assert (group["first_at"], reported["complete"]) == (reported["items"][0]["at"], True)
    every = await shell.json("failed")
    assert [(group["reason"], group["count"]) for group in every["groups"]] == [
        ("BadPriority", 3),
        ("SENDER_ID_MISMATCH", 1),
    ]
    nothing = await shell.json("failed", "--until", "2020-01-01")
    assert (nothing["matched"], nothing["groups"]) == (0, [])

    code, out, _ = await shell("replay", "--app", "shop", "--platform", "apns", "--dry-run")
    assert (code, out) == (0, "3 of 4 dead letters would be sent again\n")
    none = "no dead letter that is asked for has the reason 'Nonsense'; `pushsvc failed` shows those there are"
    code, out, err = await shell("replay", "--reason", "Nonsense")
    assert (code, out, err) == (0, "no match among 4 dead letters, so nothing was replayed\n", none)
    code, out, err = await shell("failed", "--reason", "Nonsense")
    assert (code, len(out.splitlines()), err.splitlines()) == (0, 1, [none, "0 dead letters"])
    code, _, err = await shell("failed", "--until", "2020-01-01")
    assert (code, err) == (0, "0 dead letters")
    code, _, err = await shell("replay", "--app", "shoop")
    assert code == 1
    assert "apps.shoop: no such app" in err
    assert (await shell("failed", "--since", "soon"))[0] == 2
    assert (await shell("replay", "--rate", "0.01"))[0] == 2

    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushsvc", "jobs"), env=os.environ.copy(), stderr=subprocess.DEVNULL
    )
    try:
        code, out, _ = await shell("replay", "--push", push, "--platform", "apns", "--limit", "2")
        assert (code, out.splitlines()[-2]) == (0, "shop: done, 2 of 2")
        assert out.splitlines()[-1] == "2 deliveries back in the queue; `pushsvc failed` lists those that fail again"
        # The simulator refuses them again: the same deliveries, with the same ids.
        assert await service.done(push) == {"total": 5, "failed": 4, "sent": 1}
        asked = [service.simulator.record.apns.requests(token=each["token"]) for each in bad]
        assert sorted(len(each) for each in asked) == [1, 2, 2]
        assert all(len({request.fields["apns-id"] for request in each}) == 1 for each in asked)
        reported = await shell.json("replay", "--reason", "SENDER_ID_MISMATCH")
        assert (reported["matched"], reported["jobs"][0]["state"], reported["jobs"][0]["moved"]) == (1, "done", 1)
        code, out, _ = await shell("replay", "--detach")
        assert (code, out.split()[1]) == (0, "shop")
    finally:
        worker.terminate()
        await worker.wait()


def test_a_limit_is_shared_by_the_apps() -> None:
    assert share({"a": 3, "b": 5}, 0) == {"a": 3, "b": 5}
    assert share({"a": 3, "b": 5}, 4) == {"a": 3, "b": 1}
    assert share({"a": 3, "b": 5}, 2) == {"a": 2, "b": 0}


def test_instants() -> None:
    assert instant_option("", option="--since") is None
    assert instant_option("1970-01-01T00:01:00Z", option="--since") == 60_000
    assert instant_option("2h", option="--since", now=7260.0) == 60_000
    assert instant_option("7d", option="--since", now=7 * 86400.0) == 0
    local = int(time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, -1)) * 1000)
    assert instant_option("2026-01-01", option="--since") == local
    with pytest.raises(typer.BadParameter, match="--until: 'soon' is not a time"):
        instant_option("soon", option="--until")
    assert instant_option("2016-12-31T23:59:60Z", option="--since") == 1_483_228_800_000
    # What is to be sent is sent at the same time wherever the command runs.
    assert instant_option("1970-01-01T00:01:00Z", option="--send-at", ahead=True) == 60_000
    assert instant_option("1970-01-01T02:01:00+02:00", option="--send-at", ahead=True) == 60_000
    for text in ("2026-12-01T09:00:00", "2026-12-01"):
        with pytest.raises(typer.BadParameter, match=f"--send-at: '{text}' has no offset from UTC"):
            instant_option(text, option="--send-at", ahead=True)
