"""When a server counts as silent, by the times at which the pool looks."""

from __future__ import annotations

from math import inf

from pushsvc.net.http2.silence import DOUBT, Silence


def test_without_a_request_no_server_is_silent() -> None:
    silence = Silence()
    assert not silence.look(1000.0, received=0.0, asked=inf)
    assert not silence.look(1000.0, received=0.0, asked=1000.0 - DOUBT / 2), "it was asked just now, after a long rest"
    assert silence.seconds(1000.0) == 0.0


def test_a_slow_server_that_answers_the_ping_is_not_silent() -> None:
    silence = Silence()
    assert silence.look(DOUBT, received=0.0, asked=0.0)
    assert silence.seconds(DOUBT + 1.0) == DOUBT + 1.0
    assert not silence.look(DOUBT + 1.0, received=DOUBT + 0.1, asked=0.0)
    assert silence.seconds(DOUBT + 1.0) == 0.0


def test_it_outlasts_the_requests_and_the_connections_that_it_began_with() -> None:
    silence = Silence()
    assert silence.look(DOUBT, received=0.0, asked=0.0)
    assert silence.look(20.0, received=0.0, asked=inf), "they have timed out"
    assert silence.look(40.0, received=-inf, asked=inf), "no connection is left"
    assert silence.seconds(40.0) == 40.0
    assert not silence.look(60.0, received=59.0, asked=inf)


def test_a_pause_of_this_process_is_no_silence_of_the_server() -> None:
    silence = Silence()
    assert silence.look(3600.0, received=0.0, asked=0.0)
    assert silence.seconds(3600.0) == DOUBT
