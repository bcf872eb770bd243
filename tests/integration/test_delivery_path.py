"""From POST to the provider and back into the status document, on real sockets and a real store."""

from __future__ import annotations

from pathlib import Path

from .harness import apns, fcm, running_service


async def test_every_kind_of_answer_ends_as_the_contract_says(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        push = await service.push(
            apns("ok", 1, 2)
            + fcm("ok", 1, 2)
            + apns("Unregistered", "dead")
            + fcm("UNREGISTERED", "dead")
            + apns("BadDeviceToken", "suspect")
            + fcm("SENDER_ID_MISMATCH", "suspect")
            + apns("BadPriority", "bad")
            + apns("ServiceUnavailable.2", "later")
            + apns("TooManyRequests.1", "later")
            + fcm("INTERNAL.1", "later")
            + fcm("QUOTA_EXCEEDED.1", "later")
        )
        counts = await service.done(push)
        assert counts == {"total": 13, "sent": 8, "invalid": 2, "failed": 3}
        rows = {(row["platform"], row["reason"]): row for row in await service.rows(push) if row["outcome"] != "sent"}
        assert {key: row["outcome"] for key, row in rows.items()} == {
            ("apns", "Unregistered"): "invalid",
            ("fcm", "UNREGISTERED"): "invalid",
            ("apns", "BadDeviceToken"): "failed",
            ("fcm", "SENDER_ID_MISMATCH"): "failed",
            ("apns", "BadPriority"): "failed",
        }
        assert rows["apns", "Unregistered"]["status"] == 410
        assert service.simulator.record.apns.duplicates == 0


async def test_a_dead_token_comes_up_in_feedback_and_is_not_sent_to_again(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        dead = apns("Unregistered", "gone")
        await service.done(await service.push(dead))

        async def suppressed() -> bool:
            async with service.session.get("/v1/feedback") as answer:
                events = (await answer.json())["items"]
            return [(event["token"], event["action"]) for event in events] == [(dead[0]["token"], "suppressed")]

        await service.until("the feedback event is there", suppressed)
        counts = await service.done(await service.push(dead + apns("ok", "alive")))
        assert counts == {"total": 2, "suppressed": 1, "sent": 1}
        assert service.simulator.record.apns.requests_of(dead[0]["token"]) == 1


async def test_an_earlier_push_that_waits_never_replaces_a_later_one(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        scenario = "ServiceUnavailable.1,retry-after-1"
        phones = apns(scenario, "a") + fcm("UNAVAILABLE.1,retry-after-1", "a")
        content = {"notification": {"title": "shipped"}, "collapse": "order-7"}
        earlier = await service.push(phones, **content)

        async def waits() -> bool:
            return bool((await service.status(earlier))["counts"]["retrying"] == 2)

        await service.until("the earlier push waits", waits)
        assert await service.done(await service.push(phones, **content)) == {"total": 2, "sent": 2}
        assert await service.done(earlier) == {"total": 2, "suppressed": 2}
        assert {row["reason"] for row in await service.rows(earlier)} == {"superseded"}
        record = service.simulator.record
        assert [record.apns.requests_of(phones[0]["token"]), record.fcm.requests_of(phones[1]["token"])] == [2, 2]


async def test_ten_thousand_dead_tokens_in_a_row_do_not_stall_the_connection(tmp_path: Path) -> None:
    async with running_service(tmp_path, connections=1) as service:
        push = await service.push(apns("Unregistered", *range(10_000)))
        assert await service.done(push) == {"total": 10_000, "invalid": 10_000}
        assert await service.done(await service.push(apns("ok", "after"))) == {"total": 1, "sent": 1}
        record = service.simulator.record.apns
        assert record.traffic.connections == 1
        assert record.totals == {"410 Unregistered": 10_000, "200": 1}


async def test_goaway_with_200_in_flight_loses_nothing_and_sends_nothing_twice(tmp_path: Path) -> None:
    async with running_service(tmp_path, connections=1) as service:
        await service.done(await service.push(apns("ok", "warm")))
        service.simulator.control("stall", on=True, platform="apns")
        push = await service.push(apns("ok", *range(200)), lane="urgent", notification={"title": "hello"})
        waiting = service.simulator.state
        await service.until("200 are in flight", lambda: waiting()["apns"]["waiting"] == 200)
        service.simulator.control("goaway", keep=50, platform="apns")
        service.simulator.control("stall", on=False, platform="apns")
        assert await service.done(push) == {"total": 200, "sent": 200}
        record = service.simulator.record.apns
        assert record.duplicates == 0
        assert record.accepted == 201


async def test_a_silent_answer_ends_by_the_request_timeout_and_is_tried_again(tmp_path: Path) -> None:
    async with running_service(tmp_path, request_timeout=1.0) as service:
        neighbours = apns("ok", *range(100))
        push = await service.push(apns("stall.1", "silent") + neighbours)
        counts = await service.done(push)
        assert counts == {"total": 101, "sent": 101}
        attempts = sorted(row["attempts"] for row in await service.rows(push))
        assert attempts == [1] * 100 + [2]
        record = service.simulator.record.apns
        assert all(record.requests_of(target["token"]) == 1 for target in neighbours)
        silent = record.requests(token=apns("stall.1", "silent")[0]["token"])
        assert [item.fields["apns-id"] for item in silent] == [silent[0].fields["apns-id"]] * 2


async def test_the_rate_recovers_from_a_stream_limit_of_one(tmp_path: Path) -> None:
    async with running_service(tmp_path, connections=1, one_stream_at_start=True, throttle_rejections=True) as service:
        # One stream at the start, a thousand after the first good answer, one again after each rejection.
        push = await service.push(
            apns("ok", *range(1000)) + apns("BadPriority", *range(5)) + apns("ok", *range(1000, 2000))
        )
        assert await service.done(push) == {"total": 2005, "sent": 2000, "failed": 5}
        record = service.simulator.record.apns
        assert record.duplicates == 0
        assert record.traffic.peak_streams > 100
        again = await service.push(apns("ok", *range(2000, 4000)))
        assert await service.done(again) == {"total": 2000, "sent": 2000}


async def test_refused_credentials_hold_the_route_and_lose_nothing(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.simulator.break_credentials("apns")
        push = await service.push(apns("ok", *range(500)) + fcm("ok", *range(500)))

        async def held() -> bool:
            async with service.session.get("/metrics") as answer:
                text = await answer.text()
            return 'pushsvc_route_held{app="shop",platform="apns",reason="InvalidProviderToken"} 1.0' in text

        await service.until("the route is held", held)

        async def fcm_sent() -> bool:
            return bool((await service.status(push))["counts"]["sent"] == 500)

        await service.until("FCM is not held up", fcm_sent)
        assert (await service.status(push))["counts"]["failed"] == 0
        service.simulator.restore_credentials("apns")
        assert await service.done(push) == {"total": 1000, "sent": 1000}
        assert service.simulator.record.apns.duplicates == 0


async def test_a_provider_in_trouble_delays_and_loses_nothing(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.simulator.control("unavailable", on=True, seconds=1.0)
        pushes = [await service.push(apns("ok", f"a{n}") + fcm("ok", f"f{n}")) for n in range(50)]
        assert await service.done(*pushes) == {"total": 100, "sent": 100}
        service.simulator.control("drop")
        assert await service.done(await service.push(apns("ok", "x") + fcm("ok", "x"))) == {"total": 2, "sent": 2}


async def test_a_cancelled_push_stops_where_it_is(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.simulator.break_credentials("apns")
        push = await service.push(apns("ok", *range(2000)))
        async with service.session.delete(f"/v1/push/{push}") as answer:
            assert answer.status == 200

        async def cancelled() -> bool:  # a request that was in flight is waited for
            return bool((await service.status(push))["state"] == "cancelled")

        await service.until("nothing of it is open", cancelled)
        assert (await service.status(push))["counts"]["cancelled"] == 2000
        service.simulator.restore_credentials("apns")
        assert await service.done(await service.push(apns("ok", "after"))) == {"total": 1, "sent": 1}
        counts = (await service.status(push))["counts"]
        assert counts["sent"] == service.simulator.record.apns.accepted - 1
        assert counts["cancelled"] == 2000 - counts["sent"]


async def test_two_dispatchers_share_the_work_and_send_nothing_twice(tmp_path: Path) -> None:
    async with running_service(tmp_path, dispatchers=2) as service:
        pushes = [
            await service.push(
                apns("ok", *(f"{n}-{m}" for m in range(1000))) + fcm("ok", *(f"{n}-{m}" for m in range(1000)))
            )
            for n in range(5)
        ]
        assert await service.done(*pushes) == {"total": 10_000, "sent": 10_000}
        assert service.simulator.record.apns.duplicates == 0
        assert service.simulator.record.fcm.duplicates == 0
