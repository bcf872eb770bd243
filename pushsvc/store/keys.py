"""Every key that pushsvc keeps in Redis: its name, type, lifetime and meaning.

`T` is the hash tag `{app.shard}`: all that one atomic step touches shares it, so that the step stays in one slot
of a Redis Cluster. The shard of a push is `crc32(push id) % shards`, that of a suppressed token
`crc32(digest) % shards`, where `shards` is the app's number in the configuration (1 by default). `D` is the hash tag
`{app.devices}`: the whole registry of an app; see registry.py.

| key                        | type   | lifetime               | meaning                                               |
|----------------------------|--------|------------------------|-------------------------------------------------------|
| `ps:T:q:<platform>:<lane>` | stream | entry: until settled   | the lane: `c` encoded Chunk, or several; `n` number   |
|                            |        |                        | of targets, `a` if it was added again: requeue.lua;   |
|                            |        |                        | consumer group `dispatch`                             |
| `ps:T:retry:<platform>`    | zset   | member: until due      | score due ms; member `<lane> <n> <encoded Chunk>`, and|
|                            |        |                        | of what a device may acknowledge see waiting.lua      |
| `ps:T:pending`             | hash   | permanent              | `<platform>:<lane>` deliveries that have not ended;   |
|                            |        |                        | of them `<platform>:ack` wait in `retry` for a device,|
|                            |        |                        | and `<platform>:retry` for the time of their retry;   |
|                            |        |                        | `scheduled` deliveries of pushes in `scheduled`       |
| `ps:T:scheduled`           | zset   | member: until due      | ids of scheduled pushes; score due ms                 |
| `ps:T:urgent`, `ps:T:normal` | zset | member: until due      | those of them in these lanes; score due ms            |
| `ps:T:urgent:<platform>`, `ps:T:normal:<platform>` | zset | member: until due | scores in `retry` at which those in |
|                            |        |                        | these lanes are due, as member and score: see         |
|                            |        |                        | waiting.lua                                           |
| `ps:T:s:<id>`              | list   | entry: until due       | what a scheduled push puts into the lanes: platform,  |
|                            |        |                        | lane, number of targets, encoded Chunk, and so on     |
| `ps:T:p:<id>`              | hash   | once done: status TTL  | one push: see below                                   |
| `ps:T:recent`              | stream | entry: status TTL, and | the accepted pushes in their order: `p` up to 16 of   |
|                            |        | a number of entries    | one write, see listing.py                             |
| `ps:T:v:<id>`              | hash   | its own TTL            | pushes of > 32: name of a variant -> encoded Message, |
|                            |        |                        | which its entries name; `#` dead letters that do      |
| `ps:T:b:<id>`              | string | once done: status TTL  | pushes of > 32: a bit a delivery that has ended       |
| `ps:T:r:<id>`              | zset   | once done: status TTL  | pushes of > 32: rows; score index, member `<index>    |
|                            |        |                        | <encoded rows>`, from that index on                   |
| `ps:T:t:<id>`              | hash   | field: until it ends   | index -> turn, of deliveries that were retried and    |
|                            |        |                        | have not ended; 1 where there is none. Of what a      |
|                            |        |                        | device may acknowledge also where: see fence.lua.     |
|                            |        |                        | Pushes of > 32 have those of 128 indexes in a field,  |
|                            |        |                        | `#<n / 128>`: see turns.lua. And where in `retry` they|
|                            |        |                        | wait: see waiting.lua                                 |
| `ps:T:x:<id>`              | hash   | until all are found    | the expansion of a push from its audience: `push`     |
|                            |        |                        | encoded Push, `step` steps taken, `cursor` of the next|
|                            |        |                        | and since the last step the `faults` that it met,     |
|                            |        |                        | the first at ms `failed`, the last one's name `why`   |
| `ps:T:expansions:<lane>`   | zset   | until done             | ids of pushes that are being expanded; score the ms   |
|                            |        |                        | at which one without a worker is taken up             |
| `ps:T:cancelled`           | zset   | member: until it ends  | ids of cancelled pushes that still have deliveries    |
|                            |        |                        | not ended; score cancelled at ms                      |
| `ps:T:recalled`            | hash   | field: a moment        | id of a cancelled push whose retries are to be due at |
|                            |        |                        | once -> how far that is done: see promote.lua         |
| `ps:T:w:<digest>`          | zset   | a wait's TTL, renewed  | of a target and a `collapse`, or a `collapse` alone,  |
|                            |        |                        | with a delivery that waits: each that does, and the   |
|                            |        |                        | latest push accepted: see supersede.lua               |
| `ps:T:latest`, `ps:T:latest:before` | hash | 24 h            | the same digests -> the latest push that was accepted |
|                            |        |                        | of it: see supersede.lua                              |
| `ps:T:epoch`               | string | permanent              | the revocation of the latest cancel: cheap to compare |
| `ps:T:revoked`, `ps:D:revoked` | stream | 3600 s, renewed    | what dispatchers must drop, see revocations.py:       |
|                            |        |                        | `p` a push id, `t` marks of tokens, `e` an entry      |
| `ps:T:heard`, `ps:D:heard` | hash   | field: its dispatcher  | consumer -> the last entry of `revoked` that it has   |
|                            |        |                        | applied                                               |
| `ps:T:dead`                | stream | entry: dead-letter TTL,| dead letters: `d` encoded DeadLetter                  |
|                            |        | and a number of an app |                                                       |
| `ps:T:replay:<job>`        | hash   | once done: 7 days      | a replay: `cursor`, `end`, `moved`, `skipped`, `up`;  |
|                            |        |                        | in shard 0 also `spec`, `st`, `at`, `matched`, `error`|
|                            |        |                        | and `due` ms of the next step of one with a rate      |
| `ps:T:answers:<platform>:<minute>` | hash | 24 h           | `sent:<s>`, `dead:<s>`, `suspect:<s>`: what was       |
|                            |        |                        | answered of tokens in ten seconds from second s on    |
| `ps:T:released`            | hash   | permanent              | in shard 0: platform of a route -> until when it may  |
|                            |        |                        | prune whatever its answers are, ms                    |
| `ps:T:flow:<minute>`       | hash   | a day and some seconds | in shard 0: `<s>:<name>` what was counted in the ten  |
|                            |        |                        | seconds from second s on: see flow.py; `:<process>`   |
|                            |        |                        | the mark of its last note                             |
| `ps:T:receipts`            | stream | entry: until recorded  | `r` encoded Receipt; consumer group `feedback`        |
| `ps:T:events`              | stream | entry: events TTL      | `e` encoded FeedbackEvent; capped                     |
| `ps:T:gone`                | string | permanent              | id of the last event that retention has removed       |
| `ps:T:reported`            | stream | entry: events TTL      | `e` encoded DeviceEvent; capped                       |
| `ps:T:gone:reported`       | string | permanent              | as `gone`, of `reported`                              |
| `ps:T:sup:<platform>`      | zset   | member: suppression TTL| by route: 16-byte digest of a token that is dead      |
|                            |        |                        | there; score recorded at ms; of one that was erased,  |
|                            |        |                        | for 29 days: see suppression.py                       |
| `ps:T:moved:<platform>`    | zset   | member: 29 days        | 16-byte digest of the token of a device that changed, |
|                            |        |                        | or may have, or of one and its new id: see            |
|                            |        |                        | presence.py; score marked at ms                       |
| `ps:T:lim:<platform>:<family>:<kind>:<number>` | hash | 2 spans, in seconds | digest -> TAT of those pushed to in a |
|                            |        |                        | span of time; see limiter.lua                         |
| `ps:{owner}:bucket:<name>` | hash   | till full, in seconds  | TAT of a rate that an app or an account shares: see   |
|                            |        |                        | lease.lua                                             |
| `ps:{owner}:asked:<who>`   | string | 60 seconds             | the last question of an asker to the limiter: its     |
|                            |        |                        | number and what was answered; see asked.lua           |
| `ps:T:hook`                | hash   | permanent              | in shard 0, the app's webhook: `after` event sent     |
|                            |        |                        | last; of the batch under way `last` event, `n` events,|
|                            |        |                        | `tries`; `fails` in a row, `why`, `since` ms; `own`er |
|                            |        |                        | and lease or rest `until` ms; the place that          |
|                            |        |                        | was last called `at`, the `most` events that a call   |
|                            |        |                        | there may have since a 413, `off` the place that      |
|                            |        |                        | answered 410, the last event of the `gap` that was    |
|                            |        |                        | reported last                                         |
| `ps:T:hook:dead`           | hash   | field: events TTL      | in shard 0: id -> DeadBatch as JSON, without events   |
| `ps:T:hook:asked`          | zset   | until tried            | in shard 0: ids of dead batches to be sent again;     |
|                            |        |                        | score last event recorded at ms                       |
| `ps:T:hook:calls`          | stream | 7 days, renewed        | in shard 0: the last 50 calls: `c` WebhookCallNote as |
|                            |        |                        | JSON                                                  |
| `ps:T:hook:reported`       | hash   | permanent              | as `hook`, of the webhook that reads `reported`; it   |
|                            |        |                        | has `hook:reported:dead`, `:asked` and `:calls`       |
| `ps:T:erase`               | hash   | field: until done      | in shard 0: digest of a user -> erasure under way,    |
|                            |        |                        | with ids and tokens; `pass`: where the present one is |
| `ps:T:erased:<digest>`     | string | 3600 seconds           | in shard 0: what an erasure has removed, as JSON      |
| `ps:T:i:<digest>`          | string | 24 h                   | record of an idempotency key: what the first call     |
|                            |        |                        | was and was answered; its pushes are in this shard    |
| `ps:T:mark`, `ps:D:mark`   | string | 60 seconds             | written before WAITAOF or WAIT, which wait for what   |
|                            |        |                        | was written last; see durable.py, replicas.py         |
| `ps:T:quarantine`          | stream | until an operator acts | what could not be decoded: `b` bytes, `from` key,     |
|                            |        |                        | `id` entry, `why`                                     |
| `ps:D:count`               | hash   | permanent              | `next` ordinal of a device; `active` devices          |
| `ps:D:d:<n / 128>`         | list   | while one is left      | first how many devices are left, then 128 encoded     |
|                            |        |                        | Devices by ordinal; empty where one is gone           |
| `ps:D:i:<b>`, `ps:D:k:<b>` | hash   | field: as its device   | digest of an id (`i`), a token (`k`) -> ordinal; `b`  |
|                            |        |                        | its first 2 bytes in hex, the field the other 10      |
| `ps:D:u:<b>`               | hash   | field: as its devices  | digest of a user -> ordinals with commas between      |
| `ps:D:t:<topic>`           | hash   | while it has a device  | `#` active devices; `<n / 4096>` -> which of these    |
|                            |        |                        | ordinals: 2 bytes each, or a bitmap of 512 bytes      |
| `ps:D:topics`              | zset   | member: as its topic   | names of topics, in the order of their bytes          |
| `ps:D:x:<platform>:<why>`  | zset   | member: until restored | ordinal of a tombstone; score pruned at ms            |
|                            |        | or buried              |                                                       |
| `ps:D:x`                   | hash   | field: as its zset     | `<platform>:<why>` -> number of tombstones            |
| `ps:D:streams:<n / 32>`    | list   | while one is left      | streams of the live channel by ordinal, see           |
|                            |        |                        | streams.py; empty where a device has none             |
| `ps:D:pushes:<hour>:<b>`   | hash   | the streams' TTL       | digest of a push -> what streams know of it; `<hour>` |
|                            |        |                        | of the push, `<b>` first byte of the digest           |
| `ps:D:displaced:<h>:<k>:<b>` | hash | 10 minutes             | ordinal modulo 128 -> what a push has displaced in    |
|                            |        |                        | the device's stream; `<h>` hour and `<k>` digest of   |
|                            |        |                        | the push, `<b>` ordinal / 128                         |
| `ps:D:gateways`            | hash   | field: an hour after   | name of a gateway -> until when its last sign of life |
|                            |        | its end                | is valid, ms, and its connections                     |
| `ps:D:refused`             | zset   | member: 400 days       | digest of a device's id; score the instant before     |
|                            |        |                        | which its tokens were issued that are refused, ms     |
| `ps:D:moved`               | zset   | 10 minutes, renewed    | ordinal of a device that has got another user; score  |
|                            |        |                        | the number of the change                              |
| `ps:D:live`                | hash   | permanent              | `moves` number of the last of these; `young` ordinal  |
|                            |        |                        | from which on devices are new, for two minutes from   |
|                            |        |                        | `born_at` ms on, and the next, `born`; `born_last` ms |
|                            |        |                        | when a device came last;                              |
|                            |        |                        | `server` its run id, `run` number of its run; `codes` |
|                            |        |                        | of platforms in streams, `code:<name>`,               |
|                            |        |                        | `platform:<code>`                                     |
| `ps:T:live:<id>`           | hash   | the streams' TTL       | `b` the content of a push in the live channel; beside |
|                            |        |                        | it a digest of each device that it is for, or `*`     |
|                            |        |                        | where these are more than FEW                         |
| `ps:T:seen:<id>`           | hash   | status TTL, renewed    | event -> devices that have reported it;               |
|                            |        |                        | `<event>:<n / 4096>` -> which, as in a topic          |
| `ps:{gateway}:inbox`       | stream | 60 seconds, renewed    | what a gateway is to do: `n` number of the entry, `i` |
|                            |        |                        | encoded items                                         |
| `ps:replays`               | zset   | until done             | `<app> <job>` of replays that are not done; score the |
|                            |        |                        | ms at which one without a worker is taken up          |
| `ps:cleanup`               | hash   | permanent              | cleanups: `at` began ms, `place` where the one that   |
|                            |        |                        | is under way goes on, `ended` ms; `run <app> <what>`  |
|                            |        |                        | and `all <app> <what>` removed by it and by all       |
| `ps:bell`                  | stream | permanent              | one entry, new when there is work for `jobs`          |
| `ps:lock:<name>`           | string | seconds                | owner of the lock, such as of periodic work           |
| `ps:alive:<consumer>`      | string | takeover, renewed      | the consumer lives; without it its entries are taken  |
| `ps:held`                  | hash   | field: see `held.py`   | `<consumer> app/platform` -> reported ms, until ms,   |
|                            |        |                        | and why the route is held                             |
| `ps:workers`               | hash   | field: see workers.py  | `<part> <consumer>` of a process -> until ms, and the |
|                            |        |                        | routes or apps that it serves                         |
| `ps:routes`                | set    | permanent              | `<app>/<platform>` of every route that a process had  |
|                            |        |                        | in its configuration: see removed.py                  |
| `ps:keys`                  | hash   | permanent              | SHA-256 of an API key -> ApiKey as JSON               |
| `ps:keys:used`             | hash   | field: as its key      | SHA-256 of an API key -> ms at which it was last noted|
|                            |        |                        | to be in use, once an hour at most                    |
| `ps:full`                  | hash   | 30 seconds, renewed    | app, or nothing for the whole queue -> until ms, and  |
|                            |        |                        | the numbers of the `Bound` that refused a push last   |
| `ps:probe`                 | stream | 60 seconds             | written to learn whether writes are taken: `/readyz`  |
| `ps:hash_key`              | string | permanent              | 32 random bytes that key every token hash             |
| `ps:emptied`               | string | 24 h                   | ms at which a running process first found that all    |
|                            |        |                        | else is lost: see keyring.py                          |
| `ps:format`                | string | permanent              | the format of all keys: see form.py                   |

The push's hash `ps:T:p:<id>` has `st` state, `n` total, `at` created ms, `up` updated ms once it was, `due` ms where it
was scheduled and `k` then the name of its API key, `tr` the id of its trace if it has one, `rt` how many are being
retried, `n:<end>` how many ended so, and for pushes of up to 32 deliveries under each index that has ended its encoded
DeliveryRow: that the field is there *is* the mark that the delivery ended. What is queued is not stored but computed,
`n - rt - sum of n:<end>`, so that the counts cannot disagree. Names are short because each is kept once a push for a
week. A push that was cancelled has `cx` its entry in `revoked`, `fi` how many of it the dispatchers had in flight then
and have not settled since, and `ck` 1 once every dispatcher has confirmed that. Of what the live channel carries, `la`
is how many devices have acknowledged, `lw` how many wait for that, and `lf` how many a provider has carried on. Of what
was replayed, `ff` is when the first of it had failed, ms, and `ra` when it was replayed last.

Of a larger push the marks are bits and the rows stand beside it. Each that did not end as `sent` is a member of its
own, since a replay takes it out again; those that were sent share one for each time that something was recorded of
their chunk, so that Redis has one value to write where it had hundreds. Up to 1,000 deliveries each has its row, beyond
that what was sent has none.

A push that is made from an audience has `x`, which notes how its `to` named it (named.py). Its `n` grows with each step
of its expansion; since their final number is unknown, it is kept like one of more than 32 from its first delivery on,
with rows also of the first 1,000 that end as `sent`: if there are no more than these, each delivery has its row.

Whatever still has work to do has no lifetime: a push's status, bitmap and rows while deliveries of it are open, its
chunks while it is scheduled, its audience while it is being expanded, a replay while it is not done. Their lifetime
begins with the step that ends the last of them (retire.lua), however long they waited before. Only the status of a push
to one target that lives for a day at most has one from its acceptance on: that life and the status TTL. Cleanup removes
a status whose deliveries were all lost: it has been open for longer than any of them may live (`OPEN_MOST`).

The content of a larger push stands once beside it, and whatever waits (entries, retries, a scheduled part, dead
letters) names a variant of it. It has a lifetime of its own, whatever becomes of the status: until a day after the push
expires, and for as long as a dead letter of it lives or what a replay has made of one. It goes with the end of the
push's last delivery where no dead letter is left. Smaller pushes carry their message in each entry; see model/codec.py.

The deliveries of a scheduled push are not counted by platform and lane: they wait for a clock, and no dispatcher could
make them fewer.

A push that has failed deliveries keeps all of this for as long as a dead letter lives, where that is longer than the
status TTL: a replay opens its deliveries again, and must know which have ended, in which turn.

On a Redis Cluster each script is called with one more key, `ps:T:whole`, which is never there. While a slot moves, some
of its keys are on one node and some on the other, and scripts make the names of most keys that they use from a prefix:
one that went on would make a second key of a name beside the first, or stop half-way. In a slot that moves, and only
there, Redis refuses a command of several keys that are not all there, with TRYAGAIN and before it begins
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#multiple-keys-operations).

Rows of large pushes sit in a sorted set, not in a hash, because `GET /v1/push/{id}/deliveries` pages in order of
index and a hash has no order. Suppression counts its age from the instant up to which the evidence reaches, at most a
day before the request (`policy.dead_until`), not from the provider's own date, which may lie months back and would let
the entry go at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from ..model.push import Lane, Platform
from ..model.routing import platform_of
from ..model.status import EventKind

BEFORE_BULK: Final = ("urgent", "normal")
"""The lanes of which something may wait among much of another lane, in their order."""
DISPATCH = "dispatch"
"""The consumer group of every lane."""
FEEDBACK = "feedback"
"""The consumer group of every receipts stream."""

HELD = "ps:held"
WORKERS = "ps:workers"
ROUTES = "ps:routes"
KEYRING = "ps:keys"
KEY_USES = "ps:keys:used"
HASH_KEY = "ps:hash_key"
EMPTIED = "ps:emptied"
FORMAT = "ps:format"
PROBE = "ps:probe"
FULL = "ps:full"
REPLAYS = "ps:replays"
CLEANUP = "ps:cleanup"
BELL = "ps:bell"

DEVICES = "devices"
"""The part of an app that is its registry; the other parts are the numbers of its shards."""
REGISTRY: Final = -1
"""Stands for that part where a shard is named."""
_NAME = re.compile(r"ps:\{([^{}]+)\.([^.{}]+)\}:([^:]+)(?::(.*))?", re.DOTALL)


class KeyName(NamedTuple):
    """The components of the name of an app's key."""

    app: str
    part: str
    kind: str
    """The first component after the hash tag, such as `p` or `dead`."""
    rest: str
    """The components after the kind, or the empty string."""


def parse(key: str) -> KeyName | None:
    """Return the components of a key, or None where it is not a key of an app."""
    found = _NAME.fullmatch(key)
    return None if found is None else KeyName(found[1], found[2], found[3], found[4] or "")


def shard_of(push_id: str, shards: int) -> int:
    """Return the app shard that has everything about a push."""
    return crc32(push_id.encode()) % shards if shards > 1 else 0


def token_shard(digest: bytes, shards: int) -> int:
    """Return the app shard whose suppression list may have the token."""
    return crc32(digest) % shards if shards > 1 else 0


@lru_cache(maxsize=4096)
def prefix(app: str, shard: int) -> str:
    """Return `ps:{app.shard}:`, the prefix of every key of an app shard, or that of its `REGISTRY`. Raises `ValueError`
    for an app whose name would break the hash tag; settings refuse such names earlier."""
    return _tagged(app, DEVICES if shard == REGISTRY else str(shard))


def _tagged(app: str, part: str) -> str:
    if not app or "{" in app or "}" in app:
        raise ValueError("the name of an app is neither empty nor contains curly brackets")
    return f"ps:{{{app}.{part}}}:"


@lru_cache(maxsize=1024)
def devices(app: str) -> str:
    """Return `ps:{app.devices}:`, the prefix of every key of an app's registry. Raises `ValueError` as `prefix`
    does."""
    return prefix(app, REGISTRY)


def _in_shard(kind: str) -> Callable[[str, int], str]:
    """Return the function from an app and a shard to their one key of a kind."""
    return lru_cache(maxsize=4096)(lambda app, shard: f"{prefix(app, shard)}{kind}")


def _in_shard_by(kind: str) -> Callable[[str, int, str | int], str]:
    """Return the function from an app, a shard, and an id or a number to the key of a kind."""
    return lambda app, shard, part: f"{prefix(app, shard)}{kind}:{part}"


def _by_route(kind: str) -> Callable[[str, int, Platform], str]:
    """Return the function from an app, a shard and a route to the key of a kind."""
    return lru_cache(maxsize=4096)(_in_shard_by(kind))


def _of_app(kind: str) -> Callable[[str], str]:
    """Return the function from an app to its one key of a kind, in its shard 0."""
    return lambda app: f"{prefix(app, 0)}{kind}"


def _of_app_by(kind: str) -> Callable[[str, str | int], str]:
    """Return the function from an app, and a name or a number to the key of a kind in its shard 0."""
    return lambda app, part: f"{prefix(app, 0)}{kind}:{part}"


def _in_registry(kind: str) -> Callable[[str], str]:
    """Return the function from an app to the one key of a kind in its registry."""
    return lru_cache(maxsize=1024)(lambda app: f"{devices(app)}{kind}")


def _in_registry_by(kind: str) -> Callable[[str, str | int], str]:
    """Return the function from an app, and a name or a number to the key of a kind in its registry."""
    return lambda app, part: f"{devices(app)}{kind}:{part}"


pending = _in_shard("pending")
recent = _in_shard("recent")
scheduled = _in_shard("scheduled")
cancelled = _in_shard("cancelled")
recalled = _in_shard("recalled")
epoch = _in_shard("epoch")
revoked = _in_shard("revoked")
heard = _in_shard("heard")
dead = _in_shard("dead")
receipts = _in_shard("receipts")
quarantine = _in_shard("quarantine")
mark = _in_shard("mark")
latest = _in_shard("latest")
latest_before = _in_shard("latest:before")

push = _in_shard_by("p")
waiting = _in_shard_by("s")
rows = _in_shard_by("r")
content = _in_shard_by("v")
expansion = _in_shard_by("x")
live_content = _in_shard_by("live")
seen = _in_shard_by("seen")
expansions = _in_shard_by("expansions")
replay = _in_shard_by("replay")

retries = _by_route("retry")
suppressed = _by_route("sup")

released = _of_app("released")
erase = _of_app("erase")
flow = _of_app_by("flow")
erased = _of_app_by("erased")

device_counts = _in_registry("count")
gateways = _in_registry("gateways")
refused = _in_registry("refused")
topics = _in_registry("topics")
device_block = _in_registry_by("d")
streams = _in_registry_by("streams")
topic = _in_registry_by("t")


@lru_cache(maxsize=16384)
def lane(app: str, shard: int, platform: Platform, lane: Lane) -> str:
    return f"{prefix(app, shard)}q:{platform}:{lane}"


def first_due(app: str, shard: int) -> list[str]:
    """Return the keys of the scheduled pushes that go before those of `bulk`, in their order."""
    return [f"{prefix(app, shard)}{lane}" for lane in BEFORE_BULK]


def first_retries(app: str, shard: int, platform: Platform) -> list[str]:
    """Return the keys of the instants of retries that go before those of `bulk`, in their order."""
    return [f"{prefix(app, shard)}{lane}:{platform}" for lane in BEFORE_BULK]


@lru_cache(maxsize=4096)
def moved(app: str, shard: int, platform: Platform) -> str:
    return f"{prefix(app, shard)}moved:{platform_of(platform)}"


@lru_cache(maxsize=4096)
def limits(app: str, shard: int, platform: Platform, family: str) -> str:
    return f"{prefix(app, shard)}lim:{platform}:{family}"


def answers(app: str, shard: int, platform: Platform, minute: int) -> str:
    return f"{prefix(app, shard)}answers:{platform}:{minute}"


def once(app: str, shard: int, key: bytes) -> str:
    return f"{prefix(app, shard)}i:{key.hex()}"


def tombstones(app: str, label: str = "") -> str:
    """Return the key of the tombstones of a label or, without one, of their numbers by label."""
    return f"{devices(app)}x:{label}" if label else f"{devices(app)}x"


# --- the logs of events, and their webhooks ---------------------------------------------------------


def events(app: str, shard: int, kind: EventKind = "feedback") -> str:
    """Return the key of a log of events of a shard."""
    return f"{prefix(app, shard)}{'events' if kind == 'feedback' else 'reported'}"


def gone(app: str, shard: int, kind: EventKind = "feedback") -> str:
    return f"{prefix(app, shard)}{'gone' if kind == 'feedback' else 'gone:reported'}"


def hook(app: str, kind: EventKind = "feedback") -> str:
    return f"{prefix(app, 0)}{'hook' if kind == 'feedback' else 'hook:reported'}"


def _of_hook(part: str) -> Callable[[str, EventKind], str]:
    return lambda app, kind: f"{hook(app, kind)}:{part}"


hook_dead = _of_hook("dead")
hook_calls = _of_hook("calls")
hook_asked = _of_hook("asked")


# --- of other owners --------------------------------------------------------------------------------


def bucket(owner: str, name: str) -> str:
    return f"ps:{{{owner}}}:bucket:{name}"


def asked(owner: str, who: str) -> str:
    return f"ps:{{{owner}}}:asked:{who}"


def inbox(gateway: str) -> str:
    return f"ps:{{{gateway}}}:inbox"


def lock(name: str) -> str:
    return f"ps:lock:{name}"


def alive(consumer: str) -> str:
    return f"ps:alive:{consumer}"


# --- the slot of a key ------------------------------------------------------------------------------


def mark_in_slot_of(key: str) -> str:
    """Return the mark in the slot of a key."""
    return f"{_tag_of(key)}:mark"


def absent_in_slot_of(key: str) -> str:
    """Return the key that never exists, in the slot of a key: see the module."""
    return f"{_tag_of(key)}:whole"


def _tag_of(key: str) -> str:
    return key[: key.index("}") + 1] if "}" in key else f"{{{key}}}"
