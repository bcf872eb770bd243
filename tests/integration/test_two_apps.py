"""Two apps side by side: no call of the API shows or changes with the key of one what belongs to the other.

Every call of the route table that needs a key is made with the names of the other app in its path and its body. A new
call is among them by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from pushsvc.api.config import ApiConfig
from pushsvc.api.openapi import build
from pushsvc.api.routes import CALLS
from pushsvc.lab.simulator import Simulator
from pushsvc.runtime.providers import addresses

from .harness import KEY, Service, apns, running_service

ALL: Final = '["push", "devices", "feedback", "admin"]'
SECRET: Final = "their-"
"""The beginning of every name of the other app, which no answer has."""
USER, TOPIC, DEVICE, NAMED = (f"{SECRET}{what}" for what in ("user", "topic", "phone", "key"))
THEIRS: Final = "the-key-of-the-other-app"


def extra(simulator: Simulator, folder: Path) -> str:
    """Both apps have the live channel and an account at each provider; the other one has its keys and names."""
    account = simulator.write_credentials(folder / "simulator")
    keys = "".join(
        f"""
[[apps.other.keys]]
name = "{name}"
sha256 = "{hashlib.sha256(text.encode()).hexdigest()}"
scopes = {ALL}"""
        for name, text in (("all", THEIRS), (NAMED, "never used"))
    )
    return f"""
[apps.shop.live]
secret = "{"s" * 40}"
[apps.other]{keys}
[apps.other.live]
secret = "{"o" * 40}"
[apps.other.apns]
key_file = "{account.apns_key_file}"
key_id = "{account.key_id}"
team_id = "{account.team_id}"
topic = "{account.topic}"
endpoint = "{simulator.apns_url}"
channels_endpoint = "{simulator.apns_url}"
ca_file = "{account.ca_file}"
"""


async def ask(service: Service, method: str, path: str, body: object = None, *, key: str = KEY) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body)
    async with service.session.request(method, path, data=data, headers=headers) as answer:
        return answer.status, await answer.text()


async def make(service: Service) -> dict[str, str]:
    """What the other app has, by the names of paths: a device with user and topic, a push that failed and one that
    waits, and a replay."""
    target = apns("ok", SECRET)[0]
    assert (await ask(service, "PUT", f"/v1/devices/{DEVICE}", {**target, "user": USER}, key=THEIRS))[0] == 201
    assert (await ask(service, "PUT", f"/v1/topics/{TOPIC}/devices/{DEVICE}", key=THEIRS))[0] == 204
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    found: dict[str, str] = {}
    for name, to, more in (
        ("id", {"tokens": apns("BadPriority", SECRET)}, {}),
        ("waits", {"devices": [DEVICE]}, {"send_at": later}),
    ):
        document = {"to": to, "notification": {"title": f"{SECRET}title"}, "collapse": f"{SECRET}order", **more}
        status, text = await ask(service, "POST", "/v1/push", document, key=THEIRS)
        assert status == 202, text
        found[name] = json.loads(text)["id"]

    async def failed() -> bool:
        return '"failed":1' in (await ask(service, "GET", f"/v1/push/{found['id']}", key=THEIRS))[1]

    await service.until("the push of the other app has failed", failed)
    _, text = await ask(service, "POST", "/v1/failed/replay", {"push": found["id"], "limit": 1}, key=THEIRS)
    return {**found, "job": json.loads(text)["job"], "token": target["token"]}


def bodies(found: Mapping[str, str]) -> dict[str, list[Any]]:
    """Documents that name what the other app has, by the call; every call that changes something has one here, or needs
    none."""
    push = {"notification": {"title": "mine"}}
    to = [{"devices": [DEVICE]}, {"users": [USER]}, {"topic": TOPIC}, {"all": True}, {"where": f"user == '{USER}'"}]
    dead = {"push": found["id"], "dry_run": True}
    mine = apns("ok", "mine")[0]
    return {
        "post_push": [{**push, "to": each, "dry_run": True} for each in to],
        "post_batch": [[{**push, "to": each, "dry_run": True} for each in to]],
        "post_admin_preview": [{**push, "to": each} for each in to],
        "post_replay": [dead],
        "post_restore": [{"dry_run": True}],
        "put_device": [mine],
        "import_admin_devices": [{"devices": [{**mine, "id": "mine"}]}],
        "post_token": [{"ttl": 60}],
        "post_channel": [{"storage": "none"}],
        "post_admin_key": [{"name": "made"}],
        "post_admin_webhook_redeliver": [{"dry_run": True}],
        "post_admin_cleanup": [{"dry_run": True}],
        "post_admin_release": [{"route": "other/apns"}],
        "post_admin_keep": [{"route": "other/apns"}],
        "post_admin_cut": [{"device_id": DEVICE}],
        "post_admin_drain": [{"gateway": f"{SECRET}gateway"}],
    }


async def snapshot(service: Service, found: Mapping[str, str]) -> dict[str, Any]:
    """What the other app sees of its own, apart from what passes by itself."""
    paths = [
        *(f"/v1/push/{found['id']}", f"/v1/push/{found['waits']}", f"/v1/devices/{DEVICE}", f"/v1/topics/{TOPIC}"),
        *("/v1/devices", f"/v1/users/{USER}/devices", "/v1/admin/schedules", "/v1/failed", "/v1/admin/keys"),
        *(f"/v1/failed/replay/{found['job']}", "/v1/admin/pushes"),
    ]
    seen = {}
    for path in paths:
        status, text = await ask(service, "GET", path, key=THEIRS)
        assert status == 200, (path, text)
        seen[path] = json.loads(text)
    for key in seen["/v1/admin/keys"]["keys"]:
        key.pop("last_used_at")
    return seen


async def test_no_call_shows_or_changes_what_another_app_has(tmp_path: Path) -> None:
    document = build(addresses=addresses(), config=ApiConfig())
    shown = {call["operationId"] for path in document["paths"].values() for call in path.values()}

    async with running_service(tmp_path, extra=lambda simulator: extra(simulator, tmp_path)) as service:
        found = await make(service)
        before = await snapshot(service, found)
        documents = bodies(found)
        calls = [call for call in CALLS if call.keyed and call.name in shown]
        assert len(calls) > 50
        # What the other app has is in each place that the path of a call can name.
        places = {
            "device_id": [DEVICE],
            "user": [USER],
            "topic": [TOPIC],
            "name": [NAMED],
            "job": [found["job"]],
            "platform": ["apns"],
            "token": [found["token"]],
            "id": [found["id"], found["waits"]],
        }
        for call in calls:
            path, values = call.path, [""]
            for name in (each.name for each in call.names):
                path = path.replace(f"{{{name}}}", "{}", 1)
                values = [f"{start}\n{value}" for start in values for value in places[name]]
            body: list[Any] = documents.get(call.name, [None])
            assert call.name in documents or call.document is None, f"{call.name} needs a body in this test"
            for names in values:
                where = path.format(*(quote(each, safe="") for each in names.split("\n")[1:]))
                for each in body:
                    status, text = await ask(service, call.method, where, each)
                    named = {part for part in [where, json.dumps(each)] if SECRET in part}
                    assert status < 500, (call.name, text)
                    # What the caller has named itself may be repeated; nothing else begins like that.
                    leaked = text
                    for own in (DEVICE, USER, TOPIC, NAMED, f"{SECRET}gateway") if named else ():
                        leaked = leaked.replace(own, "")
                    assert SECRET not in leaked, (call.name, text)
        assert await snapshot(service, found) == before
