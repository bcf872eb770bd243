"""`pushsvc devices` against a running service, as a shell would call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pushsvc.model.devices import Device
from pushsvc.ports.live import Refused
from pushsvc.ports.registry import Prune
from pushsvc.runtime.store import open_running_store

from .harness import apns
from .test_cli_commands import serving
from .test_store_kit import moment


async def test_devices_are_shown_restored_and_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, capsys, monkeypatch, f'''[apps.shop.live]\nsecret = "{"5" * 32}"\n''') as shell:
        target = apns("ok", "phone")
        token = target[0]["token"]
        many = [Device(id=f"d{number}", platform="fcm", token=f"t{number}") for number in range(700)]
        phone = Device(
            id="phone",
            platform="apns",
            token=token,
            user="u1",
            tags={"plan": "pro", "likes": ("a", "b")},
            topics=("news",),
            registered_at=moment(),
        )
        async with open_running_store(shell.service.settings) as store:
            await store.registry.put_many("shop", [phone, *many[:400]])
            await store.registry.put_many("shop", many[400:])
            for page in ([phone, *many[:400]], many[400:]):
                prunes = [Prune(each.id, each.token, each.registered_at, "Unregistered", moment() + 1) for each in page]
                assert all(await store.registry.prune("shop", prunes))
                await store.suppressions.add("shop", [(each.platform, each.token, moment() + 1) for each in page])

            reported = (await shell.json("devices", "show", "phone"))["items"]
            assert [(each["app"], each["state"], each["pruned_for"]) for each in reported] == [
                ("shop", "pruned", "Unregistered")
            ]
            code, out, _ = await shell("devices", "show", "phone", "--app", "shop")
            assert code == 0
            assert "user\tu1\n" in out
            assert "topics\tnews\n" in out
            assert "tags\tplan=pro, likes=[a, b]\n" in out
            assert "timezone" not in out, "what it does not have is not listed"
            assert token not in out
            unsuppress = ("devices", "unsuppress", "apns", token.upper(), "--app", "shop")
            assert (await shell(*unsuppress))[0] == 0
            code, _, error = await shell(*unsuppress)
            assert code == 1
            assert token not in error.lower()
            assert (await shell("devices", "show", "nobody"))[0] == 1
            assert (await shell("devices", "show", "phone", "--app", "shoop"))[0] == 1

            code, out, _ = await shell("devices", "restore", "--dry-run", "--reason", "Unregistered")
            assert (code, out) == (0, "701 devices would be restored\n")
            code, out, _ = await shell("devices", "restore", "--platform", "apns", "--since", "1h")
            assert (code, out) == (0, "1 device restored\n")
            assert await store.registry.get("shop", "phone") == phone
            push = await shell.service.push(target)
            assert await shell.service.done(push) == {"total": 1, "sent": 1}
            reported = await shell.json("devices", "restore", "--app", "shop", "--until", "2099-01-01")
            assert reported == {"matched": 700, "restored": 700, "apps": {"shop": 700}}
            assert await store.registry.count("shop") == 701
            assert (await shell("devices", "restore", "--since", "soon"))[0] == 2

            assert await shell.json("devices", "delete", "phone", "--app", "shop") == {
                "app": "shop",
                "id": "phone",
                "deleted": True,
            }
            assert (await shell("devices", "delete", "phone", "--app", "shop"))[0] == 1
            assert (await shell("devices", "delete", "d1", "--app", "shop"))[1] == "deleted d1 of shop\n"
            await store.registry.put_many("shop", many[1:2])
            assert await store.live.admits("shop", "d1", issued_at=0) == Refused("revoked")
