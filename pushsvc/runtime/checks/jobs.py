"""What a check finds about the Redis in which rq stores the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import ConfigError, StoreError, StoreUnavailable
from ...ports.admin import CheckFinding
from ...settings.schema import Settings
from ...store import forbidden_to_jobs


async def check_jobs(settings: Settings) -> list[CheckFinding]:
    """Return the findings about the Redis of the jobs. The embedded store allows everything."""
    url = settings.jobs.url or settings.redis.url
    if not url:
        return []
    try:
        lacking = await forbidden_to_jobs(url)
    except ConfigError as error:
        return [CheckFinding("jobs.url", "error", error.message, error.remedy)]
    except StoreError as error:
        fix = error.fix if isinstance(error, StoreUnavailable) else ""
        if settings.jobs.url:
            fix = fix.replace("redis.url", "jobs.url")
        return [CheckFinding(_part(settings), "error", f"{settings.jobs.shown}: {error}".removeprefix(": "), fix)]
    return list(judge_jobs(_part(settings), lacking))


def judge_jobs(part: str, lacking: Sequence[str]) -> Iterator[CheckFinding]:
    """Yield a row if the user of Redis lacks these rules, which `pushsvc jobs` needs. Pure."""
    if lacking:
        yield CheckFinding(
            part,
            "error",
            f"this user lacks {' '.join(lacking)}, which `pushsvc jobs` needs for the keys `rq:*` of its queue: no "
            "push to an audience, replay, erasure or cleanup would run",
            f"allow it: ACL SETUSER .. ~rq:* {' '.join(rule for rule in lacking if rule != '~rq:*')}".rstrip(),
        )


def _part(settings: Settings) -> str:
    return "jobs.url" if settings.jobs.url else "redis"
