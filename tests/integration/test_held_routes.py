"""A held route and a webhook in trouble are named by `readyz` and by `pushsvc stats`, and the service stays ready."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pushsvc import cli
from pushsvc.cli.pushes.status import print_status
from pushsvc.model.signing import write_secret
from pushsvc.runtime.plans import webhook_configs
from pushsvc.runtime.store import open_running_store
from pushsvc.stages.dispatch.evidence import UNANSWERED
from pushsvc.telemetry import configure_logging

from .harness import Service, apns, fcm, running_service


async def readyz(service: Service) -> Any:
    async with service.session.get("/readyz") as answer:
        assert answer.status == 200
        return await answer.json()


async def stats(service: Service, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    words = ["--config", str(service.settings.file), "stats", "--url", str(service.session._base_url), *more]
    assert await asyncio.to_thread(cli.main, words) == 0
    return capsys.readouterr().out


async def test_a_held_route_is_named_until_it_is_open_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", io.StringIO())
    async with running_service(tmp_path) as service:
        before = await service.push(apns("ok", "before"))
        assert await service.done(before) == {"total": 1, "sent": 1}
        service.simulator.break_credentials("apns")
        push = await service.push(apns("ok", *range(20)))
        held = {
            "shop/apns": "InvalidProviderToken: correct `key_file`, `key_id` or `team_id`; "
            "compare this machine's clock with the true time"
        }

        async def reported() -> bool:
            return bool((await readyz(service)).get("held") == held)

        await service.until("readyz names the route", reported)
        waiting = await service.status(push)
        assert waiting["held"] == held
        capsys.readouterr()
        print_status(waiting)
        assert "held: shop/apns: InvalidProviderToken: correct" in capsys.readouterr().out
        assert "held" not in await service.status(before)
        document = json.loads(await stats(service, capsys, "--json", "--every", "0.2"))
        assert document["held"] == held
        assert document["pending"]["normal"] == 20
        (route,) = [each for each in document["routes"] if each["platform"] == "apns"]
        assert (route["held"], route["outcomes"]["sent"] >= 1) == (held["shop/apns"], True)
        table = await stats(service, capsys, "--every", "0.2")
        assert "held      shop/apns: InvalidProviderToken" in table
        assert "shop\tapns\t0\t20\t0" in table
        # Another push that waits, but not for this route, does not name it: not over the API, and not from the store.
        other = await service.push(fcm("slow-4000", "other"))
        several = await service.push(fcm("slow-4000", *range(40)))
        for each in (other, several):
            status = await service.status(each)
            assert ("held" in status, status["counts"]["queued"] > 0) == (False, True)
            shown = await asyncio.to_thread(cli.main, ["--config", str(service.settings.file), "pushes", "show", each])
            assert (shown, "held: " in capsys.readouterr().out) == (0, False)
        shown = await asyncio.to_thread(cli.main, ["--config", str(service.settings.file), "pushes", "show", push])
        assert (shown, "held: shop/apns: InvalidProviderToken" in capsys.readouterr().out) == (0, True)
        service.simulator.restore_credentials("apns")
        assert await service.done(push) == {"total": 20, "sent": 20}

        async def cleared() -> bool:
            return "held" not in await readyz(service)

        await service.until("readyz names nothing any more", cleared)


async def test_a_provider_that_answers_503_to_the_few_requests_that_it_gets_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_service(tmp_path) as service:
        await service.push(fcm("UNAVAILABLE", *range(3)))
        cause = "unavailable: the provider is in trouble (503 UNAVAILABLE)"

        async def named() -> bool:
            return bool((await readyz(service)).get("held", {}).get("shop/fcm", "").startswith(f"{cause}: "))

        await service.until("readyz names the route", named)
        assert f"held      shop/fcm: {cause}" in await stats(service, capsys, "--every", "0.2")
        answered = await service.push(fcm("ok", 1))
        assert await service.done(answered) == {"total": 1, "sent": 1}

        async def cleared() -> bool:
            return "held" not in await readyz(service)

        await service.until("readyz names nothing any more", cleared)


async def test_a_provider_that_answers_nothing_but_pings_is_named_before_its_requests_time_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_service(tmp_path, request_timeout=30.0) as service:
        push = await service.push(apns("slow-12000", "one"))

        async def named() -> bool:
            why = (await readyz(service)).get("held", {}).get("shop/apns", "")
            return bool(why == f"timeout: {UNANSWERED}")

        async def cleared() -> bool:
            return "held" not in await readyz(service)

        await service.until("readyz names the route", named)
        assert (await service.status(push))["counts"]["queued"] == 1, "its request still waits"
        assert UNANSWERED in await stats(service, capsys, "--every", "0.2")
        labels = {"app": "shop", "platform": "apns", "reason": "timeout"}
        assert REGISTRY.get_sample_value("pushsvc_route_held", labels) == 1.0
        assert await service.done(push) == {"total": 1, "sent": 1}
        await service.until("readyz names nothing any more", cleared)


async def test_a_webhook_in_trouble_is_named_until_it_works_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = '[apps.shop.webhook]\nurl = "https://example.com/hook"\nsecret = "{}"\n'
    trouble = (
        "it is switched off because its receiver answered 410, the events wait: "
        "`pushsvc webhooks resume --app shop` when it takes calls again"
    )

    async with running_service(tmp_path, extra=hook.format(write_secret(bytes(range(32))))) as service:
        assert "notes" not in await readyz(service)
        place = webhook_configs(service.settings)["shop"].place
        async with open_running_store(service.settings) as store:
            async with store.webhooks.claimed("shop", place, lease=30) as claim:
                assert claim is not None
                assert await claim.switch_off("http_410")
            ready = await readyz(service)
            assert (ready["status"], ready["notes"]) == ("ready", [f"webhook of shop: {trouble}"])
            document = json.loads(await stats(service, capsys, "--json", "--every", "0.2"))
            assert document["webhooks"] == {"shop": trouble}
            await store.webhooks.resume("shop")
        assert "notes" not in await readyz(service)


def test_stats_without_a_service_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "shop.json"
    file = tmp_path / "pushsvc.toml"
    file.write_text(f'[apps.shop.fcm]\nservice_account_file = "{key}"\n')
    assert cli.main(["--config", str(file), "stats"]) == 1
    assert "no store runs in" in capsys.readouterr().err
