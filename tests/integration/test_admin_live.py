"""What an operator does with live connections, against a real gateway with the official client as the phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pushsvc.api.pushes.audiences import FEW

from .test_live_flow import LOOP as LOOP, Town, open_town
from .test_replay_flow import worker


async def ask(town: Town, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with town.session.request(method, f"/v1/admin/{path}", json=body) as answer:
        return answer.status, None if answer.status == 204 else await answer.json()


async def test_a_connection_is_cut_and_a_gateway_drained_and_the_phone_comes_back(tmp_path: Path) -> None:
    async with open_town(tmp_path) as town:

        async def connected() -> list[str]:
            _, live = await ask(town, "GET", "live")
            return [each["gateway"] for each in live["gateways"] if each["connections"]]

        async def unacknowledged() -> bool:
            return bool((await ask(town, "GET", "stats"))[1]["unacknowledged"] == 1)

        await town.register("phone")
        assert (await ask(town, "POST", "live/cut", {"device_id": "phone"}))[0] == 409, "it is not online"
        assert (await ask(town, "POST", "live/cut", {"device_id": "unknown"}))[0] == 404
        async with town.phone("phone", acks=False) as phone:
            assert phone.connections == 1
            assert (await ask(town, "POST", "live/cut", {"device_id": "phone"}))[0] == 204
            await town.until("it is back", lambda: phone.connections == 2)
            await town.until("it is counted", connected)
            (gateway,) = await connected()
            assert await ask(town, "POST", "live/drain", {"gateway": gateway}) == (202, {"connections": 1})
            await town.until("it is back again", lambda: phone.connections == 3)
            assert (await ask(town, "POST", "live/drain", {"gateway": "gone"}))[0] == 404

            # What it has not acknowledged is counted, and what is sent after both is there.
            push = await town.send("phone", ack_within=60)
            await town.until("it is shown", lambda: phone.ids == [push])
            await town.until("it is recorded that it waits", unacknowledged)
            device = (await ask(town, "GET", "devices/phone"))[1]
            assert (device["live"]["online"], device["live"]["unacked"]) == (True, 1)


async def test_the_copy_of_a_push_that_the_live_channel_carried_is_accepted_as_it_is(tmp_path: Path) -> None:
    async with open_town(tmp_path) as town:
        await town.register("web", "live")
        await town.register("phone")
        content = {"notification": {"title": "hello", "badge": "unread"}, "data": {"a": "b"}, "collapse": "c"}
        dark: dict[str, Any] = {"overrides": {"live": {"theme": "dark"}}}
        odd: dict[str, Any] = {"overrides": {"live": {"notification": {"title": 5}}}}
        for fields, copied, lacks in (
            (content | {"ttl": 600}, content, "overrides"),
            (dark, dark | {"notification": {"title": "hello"}}, "overrides.apns"),
            (odd, odd, "overrides.apns"),  # no document may have such a title
        ):
            async with town.phone("web"), town.phone("phone"):
                push = await town.send("web", "phone", **fields)
                assert await town.done(push) == {"total": 2, "sent": 2}
            _, shown = await ask(town, "GET", f"pushes/{push}")
            copy = shown["copy"]
            assert copy["to"] == {"devices": ["web", "phone"]}
            assert copy == copied | {"to": copy["to"], "lane": "normal"}
            assert {"ttl", lacks} <= {*shown["copy_lacks"]}
            assert ("overrides" in shown["copy_lacks"]) == ("overrides" not in copy)
            status, answer = await town.post(copy)
            assert status == 202, answer


async def test_what_a_push_was_addressed_to_is_known_once_it_has_ended(tmp_path: Path) -> None:
    async with open_town(tmp_path) as town:
        await town.register("web", "live", user="ann")
        async with town.session.put("/v1/topics/news/devices/web") as put:
            assert put.status == 204
        devices, more = {"devices": ["web"]}, [f"user-{number}" for number in range(FEW)]
        async with worker(tmp_path), town.phone("web"):
            for to, shown_to, exact in (
                ({"topic": "news"}, {"topic": "news"}, True),
                ({"all": True}, {"all": True}, True),
                (devices, devices, True),
                # The erasure of a user must leave no name.
                ({"users": ["ann", *more]}, devices, False),
                ({"where": "user == 'ann'"}, devices, False),
            ):
                status, answer = await town.post({"to": to, "data": {"a": "b"}})
                assert status == 202, answer
                assert await town.done(answer["id"]) == {"total": 1, "sent": 1}
                _, shown = await ask(town, "GET", f"pushes/{answer['id']}")
                assert (shown["to"], shown["copy"]["to"]) == (shown_to, shown_to)
                assert ("to" not in shown["copy_lacks"]) == exact, to
