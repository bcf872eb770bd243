"""The driver of aioapns: see `libraries`."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import sys
from pathlib import Path

import uvloop
from aioapns import APNs, NotificationRequest

MESSAGE = {"aps": {"alert": {"title": "Order 7 shipped", "body": "Arrives Friday"}, "sound": "default"}}
CALLS = 200
"""As many calls at once as do it best."""


async def main(key: str, key_id: str, team_id: str, topic: str, count: int) -> None:
    context = ssl.create_default_context(cafile=os.environ["APNS_CA_FILE"])
    context.set_alpn_protocols(["h2"])
    client = APNs(
        key=Path(key).read_text(), key_id=key_id, team_id=team_id, topic=topic, ssl_context=context, max_connections=2
    )
    numbers = itertools.count()

    async def send(total: int) -> int:
        rest, sent = iter(range(total)), 0

        async def worker() -> None:
            nonlocal sent
            for _ in rest:
                token = f"aa{os.getpid():06x}{next(numbers):056x}"
                answer = await client.send_notification(NotificationRequest(token, MESSAGE))
                sent += answer.is_successful  # read after the wait: the others count meanwhile

        await asyncio.gather(*(worker() for _ in range(CALLS)))
        return sent

    await send(count // 10)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print("done", await send(count), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    client.pool.close()


if __name__ == "__main__":
    KEY, KEY_ID, TEAM_ID, TOPIC, COUNT, _ = sys.argv[1:]
    uvloop.run(main(KEY, KEY_ID, TEAM_ID, TOPIC, int(COUNT)))
