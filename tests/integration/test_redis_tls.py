"""Redis over TLS: each way in which the URL does not fit the server is named with its remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.store import StoreConfig, open_store

from .ports import free_ports
from .servers import running_server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a URL may name: files, and the ports of servers with TLS, without, and that wants certificates."""
    folder = tmp_path_factory.mktemp("tls")
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout k.pem -out c.pem -days 3 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(make.split(), cwd=folder, check=True, capture_output=True)
    ca, key = str(folder / "c.pem"), str(folder / "k.pem")
    own = ("--tls-cert-file", ca, "--tls-key-file", key, "--tls-ca-cert-file", ca)
    tls, strict = free_ports(), free_ports()
    with (
        running_server("redis", tcp=True, options=("--tls-port", str(tls), "--tls-auth-clients", "no", *own)) as server,
        running_server("redis", options=("--tls-port", str(strict), *own)),
    ):
        yield {"ca": ca, "key": key, "tls": str(tls), "plain": str(server.port), "strict": str(strict)}


@pytest.mark.parametrize("kind", ["", "+cluster"])
@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("rediss{kind}://127.0.0.1:{tls}/0", "append ?ssl_ca_certs=/path/ca.pem to redis.url"),
        ("rediss{kind}://127.0.0.1:{tls}/0?ssl_ca_certs=/no/ca.pem", "ssl_ca_certs in redis.url names /no/ca.pem"),
        ("rediss{kind}://127.0.0.1:{tls}/0?ssl_ca_certs={key}", "name a file with a certificate in PEM"),
        ("rediss{kind}://127.0.0.1:{tls}/0?ssl_ca_certs={ca}", "connect by a name that its certificate is for"),
        ("rediss{kind}://localhost:{tls}/0?ssl_ca_certs={ca}&ssl_certfile=/no", "ssl_certfile in redis.url names /no"),
        ("redis{kind}://:SECRET@127.0.0.1:{tls}/0", "begin redis.url with rediss{kind}://"),
        ("rediss{kind}://:SECRET@127.0.0.1:{plain}/0", "one without TLS, begin redis.url with redis{kind}://"),
    ],
)
async def test_a_url_that_does_not_fit_is_named_with_the_remedy(
    place: dict[str, str], kind: str, url: str, fix: str
) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        async with open_store(url.format(kind=kind, **place), StoreConfig(timeout=0.5)):
            pass
    assert fix.format(kind=kind) in caught.value.fix, caught.value
    assert "SECRET" not in f"{caught.value} {caught.value.fix}"


async def test_a_server_that_wants_a_certificate_of_its_clients_is_named(place: dict[str, str]) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        async with open_store("rediss://localhost:{strict}/0?ssl_ca_certs={ca}".format(**place)):
            pass
    assert "append ?ssl_certfile=/path/own.pem" in caught.value.fix


async def test_a_url_that_fits_is_used(place: dict[str, str]) -> None:
    async with open_store("rediss://localhost:{tls}/0?ssl_ca_certs={ca}".format(**place)) as store:
        await store.pushes.ping()
