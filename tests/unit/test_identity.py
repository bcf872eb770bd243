"""When two texts name one target."""

from __future__ import annotations

import pytest

from pushsvc.model.identity import canonical, identity, recognised


@pytest.mark.parametrize(
    ("platform", "kind", "text", "kept"),
    [
        ("apns", "token", "AB12", "ab12"),
        ("apns", "activity", "AB12", "ab12"),
        ("apns", "push_to_start", "AB12", "ab12"),
        ("apns", "channel", "AB12", "AB12"),
        ("fcm", "token", "AB12", "AB12"),
        ("fcm", "fid", "AB12", "AB12"),
    ],
)
def test_hexadecimal_is_kept_in_lower_case_and_nothing_else(platform: str, kind: str, text: str, kept: str) -> None:
    assert canonical(platform, text, kind) == kept == canonical(platform, kept, kind)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("F", "F"),
        ("F:APA91bXyz", "F"),
        ("ab12", "ab12"),
        ("sim:ok:1", "sim:ok:1"),
        ("a:b", "a:b"),
        ("APA91bX", "APA91bX"),
    ],
)
def test_a_registration_token_is_its_installation(text: str, same: str) -> None:
    assert identity(text) == same == identity(same)


def test_a_text_of_an_unknown_kind_is_hexadecimal_where_it_can_be() -> None:
    assert recognised("apns", "AB12") == "ab12"
    assert recognised("apns", "dHN0LXNyY2gtY2hubA==") == "dHN0LXNyY2gtY2hubA=="
