"""`pushsvc simulate`: the provider simulator, or phones of the live channel, until SIGINT or SIGTERM."""

from __future__ import annotations

import math
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
import uvloop

from ...errors import ConfigError
from ...lab.phones.behaviour import UnknownBehaviour
from ...lab.simulator import (
    COMMANDS,
    GRAMMAR,
    HALVES,
    Address,
    ScenarioError,
    SimulatorConfig,
    fault_of,
    run_simulator,
    sections_of,
    token_kinds,
    usage,
)
from ...wording import did_you_mean
from ..access import Access, App, Key, Url, access
from ..output import Missing, print_json
from ..process import print_message
from .phones import Plan, Signed, simulate_phones

_DEFAULTS = SimulatorConfig()


def simulate(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="The folder of keys and credentials, which are created once.")] = Path(
        "var/simulator"
    ),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = _DEFAULTS.host,
    apns_port: Annotated[int, typer.Option(min=0, max=65535, help="APNs over HTTP/2; 0: any free port.")] = 8443,
    fcm_port: Annotated[int, typer.Option(min=0, max=65535, help="FCM over HTTP/2; 0: any free port.")] = 8444,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="OAuth tokens, control and record over HTTP/1.1; 0: any free port.")
    ] = 8445,
    topic: Annotated[str, typer.Option(help="The app's bundle id.")] = _DEFAULTS.topic,
    key_id: Annotated[str, typer.Option(help="The id of the APNs key.")] = _DEFAULTS.key_id,
    team_id: Annotated[str, typer.Option(help="The Apple team.")] = _DEFAULTS.team_id,
    project: Annotated[str, typer.Option(help="The Firebase project.")] = _DEFAULTS.project_id,
    environment: Annotated[
        Literal["production", "sandbox"], typer.Option(help="The sandbox adds apns-unique-id.")
    ] = "production",
    latency_ms: Annotated[int, typer.Option(min=0, help="The delay of every answer in milliseconds.")] = 0,
    apns_streams: Annotated[int, typer.Option(min=1, help="Concurrent streams on an APNs connection.")] = 1000,
    fcm_streams: Annotated[int, typer.Option(min=1, help="Concurrent streams on an FCM connection.")] = 100,
    apple_throttle: Annotated[
        bool, typer.Option(help="Allow one stream at a time until a request has a valid provider token, as APNs does.")
    ] = True,
    throttle_rejections: Annotated[
        bool, typer.Option(help="Allow one stream at a time after a refusal, until a push is accepted.")
    ] = False,
    token_updates: Annotated[
        bool, typer.Option(help="Refuse provider tokens that change more often than every 20 minutes on a connection.")
    ] = True,
    record: Annotated[
        bool, typer.Option(help="Record requests so that they can be queried; otherwise only totals.")
    ] = True,
    keep: Annotated[int, typer.Option(min=0, help="How many of the latest requests are recorded.")] = 1000,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: addresses and files in one line, tokens, or what phones have seen."),
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(metavar="SCENARIO", help="Print tokens that play SCENARIO (Unregistered, stall.1) and exit."),
    ] = None,
    platform: Annotated[
        str, typer.Option(metavar="PLATFORM", help="With --token: print that of this platform alone (apns, fcm).")
    ] = "",
    phones: Annotated[
        int,
        typer.Option(min=0, help="Simulate this number of phones of the live channel, and no providers.", metavar="N"),
    ] = 0,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="How a share of the phones behaves: 10%:ack=never,stay=30.", metavar="SHARE%:WORDS"),
    ] = None,
    gateway: Annotated[
        str,
        typer.Option(
            help="Where phones connect, ws://HOST:PORT; by default the URL that the API names.", metavar="URL"
        ),
    ] = "",
    wire: Annotated[Literal["json", "protobuf", "both"], typer.Option(help="The format that phones speak.")] = "both",
    seconds: Annotated[float, typer.Option(min=0, help="How long phones run; 0: until Ctrl-C.")] = 0.0,
    seed: Annotated[str, typer.Option(help="The seed of random numbers; by default another one each time.")] = "",
    prefix: Annotated[str, typer.Option(help="The beginning of the phones' device ids.")] = "phone-",
    register: Annotated[
        bool, typer.Option(help="Register the phones at the API, as devices of the platform live.")
    ] = True,
    url: Url = "",
    key: Key = "",
    app: App = "",
    secret: Annotated[
        str,
        typer.Option(
            envvar="PUSHSVC_LIVE_SECRET",
            help="The live.secret of --app: phones sign their tokens themselves. Prefer the environment.",
            metavar="SECRET",
            show_envvar=True,
        ),
    ] = "",
) -> None:
    """Run APNs and FCM on loopback over TLS and HTTP/2, with the checks of the real providers; or phones.

    A device token may carry its own scenario: sim:ACTION[,ACTION]:ANY-TEXT. For FCM this text is the token, for APNs
    its bytes in hexadecimal; another ANY-TEXT makes another token. ACTION is the reason of an answer, such as
    Unregistered or UNREGISTERED, or one of stall, reset, drop, goaway, slow-500 (milliseconds) and others; with .N it
    applies to the first N requests. --token prints new tokens of this kind, --token list every action. Keys and
    credentials in the folder are created once and reused, so an app that was configured with them continues to work.

    With --phones they are devices of the live channel that connect, acknowledge and reconnect as the official clients
    do. They get their tokens from the API, which needs a key with the scope `devices`, or sign them with --secret for
    devices that are registered already. WORDS of --kind: ack=SECONDS or ack=never; stay and away, the mean SECONDS
    until a phone leaves and until it is back from another address; vanish (it leaves without a word); nat=SECONDS (its
    network forgets an idle connection); read=BYTES a second; torn, doubled (its frames); heartbeat=SECONDS, background,
    foreground. At the end, `shown` counts the pushes that apps would have shown, each once; `repeats` what came again
    and was dropped; `acks` the acknowledgements, one of which may cover several pushes. Exit with 1 if a phone missed
    something that was not announced, or showed something out of order.
    """
    if phones:
        _simulate_phones(
            Plan(
                count=phones,
                kinds=kind or (),
                gateway=gateway,
                wire=wire,
                seconds=seconds or math.inf,
                seed=seed,
                prefix=prefix,
                register=register,
            ),
            Signed(app, secret) if secret else access(context.obj, url, key, app),
            json=as_json,
        )
        return
    if token is not None:
        _print_tokens(token, platform, json=as_json)
        return
    config = SimulatorConfig(
        folder=str(folder),
        host=host,
        apns_port=apns_port,
        fcm_port=fcm_port,
        control_port=control_port,
        topic=topic,
        key_id=key_id,
        team_id=team_id,
        project_id=project,
        environment=environment,
        latency=latency_ms / 1000,
        apns_streams=apns_streams,
        fcm_streams=fcm_streams,
        one_stream_at_start=apple_throttle,
        throttle_rejections=throttle_rejections,
        token_updates=token_updates,
        record=record,
        keep=keep,
    )
    try:
        uvloop.run(run_simulator(config, _print_json if as_json else _print_snippet))
    except ConfigError as error:
        section, _, name = error.path.partition(".")
        if section == "simulator":  # which no configuration has: its values are options of this command
            error = ConfigError(f"--{name.replace('_', '-')}", error.message, error.remedy)
        print_message(f"pushsvc simulate: {error}")
        raise typer.Exit(1) from error


def _simulate_phones(plan: Plan, at: Access | Signed, *, json: bool) -> None:
    if isinstance(at, Signed) and not (at.app and plan.gateway):
        raise Missing("Phones that sign their own tokens need --app and --gateway.")
    try:
        simulate_phones(plan, at, json=json)
    except UnknownBehaviour as error:
        raise typer.BadParameter(str(error)) from None


def _print_json(address: Address) -> None:
    print(address.as_json().decode(), flush=True)


def _commands() -> str:
    """Return a line for each command of the simulator, with its fields."""
    return "\n".join(f"#     {name:11}  {usage(name)}" for name in COMMANDS)


def _print_snippet(address: Address) -> None:
    print(
        f"""\
# APNs     {address.apns_url}
# FCM      {address.fcm_url}
# control  {address.control_url}
#   POST /control/COMMAND  a fault, with these fields as JSON, and "platform": "apns" or "fcm" for one of them alone
{_commands()}
#                          calm ends everything
#     curl --cacert {address.credentials.ca_file} {address.control_url}/control/stall -X POST
#   GET /record            what came and how often; DELETE /record forgets it
# To push there, put this into the configuration, in the place of these sections if it has them:

{sections_of("shop", address.urls, address.credentials)}""",
        flush=True,
    )


def _print_tokens(scenario: str, platform: str, *, json: bool) -> None:
    """Print a token for each provider that knows the scenario; that of one platform alone, and when piped the only one
    for a device. Exit with 2 if none knows it. `list` prints all acts, and the reasons of each provider.

    Each call prints new tokens: a simulator remembers how many requests a token had, and `.N` counts them."""
    kinds = token_kinds()
    if platform:
        if platform not in kinds:
            raise typer.BadParameter(f"--platform: unknown platform {platform!r}; {did_you_mean(platform, kinds)}")
        kinds = {platform: kinds[platform]}
    if scenario == "list" and json:
        print_json({name: sorted(kind.reasons) for name, kind in kinds.items()})
        return
    if scenario == "list":
        print(GRAMMAR)
        for name, kind in kinds.items():
            print(f"Reasons that {name} answers with:", *(f"  {reason}" for reason in kind.reasons), sep="\n")
        return
    made, unique = {}, secrets.token_hex(4)
    for name, kind in kinds.items():
        with suppress(ScenarioError):
            made[name] = kind.make(scenario, unique)
    if not made:
        fault = fault_of(scenario, [reason for kind in kinds.values() for reason in kind.reasons])
        print_message(f"pushsvc simulate: --token: {fault} (`--token list` shows all)")
        raise typer.Exit(2)
    if json:
        print_json(made)
        return
    bare = [token for name, token in made.items() if platform or name in HALVES]
    if len(bare) == 1 and (platform or not sys.stdout.isatty()):
        print(*bare)
    else:
        print(*(f"{name:<8} {token}" for name, token in made.items()), sep="\n")
    sys.stdout.flush()
    sends = [f"--{name} TOKEN" for name in made if name in HALVES]
    if sends:
        typer.echo(f"send to one: pushsvc send {' or '.join(sends)} --title hi --follow", err=True)
