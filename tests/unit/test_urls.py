"""URLs that are called exactly as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pushsvc.net.urls import exact_url

TARGETS = [
    "/h/a%40b%3Ac%2Fd/?x=%2F%3D&sig=abc%3D%3D",
    "/h/a@b:c/d/?x=/=&sig=abc==",
    "/%7Euser/%e9%C3%A9?%",
    "/a/../b/./c//d;e=f,g",
    "/?q=a+b%20c%2B%26&&=&;",
    "/workflows/x?sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=A-b_c~d",
    "/",
]


@pytest.mark.parametrize("target", TARGETS)
def test_golden(target: str) -> None:
    assert exact_url(f"https://example.com:8443{target}").raw_path_qs == target
    assert str(exact_url(f"https://example.com:8443{target}")) == f"https://example.com:8443{target}"


@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#")),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), min_size=1),
)
def test_what_a_request_line_may_have_stays(path: str, query: str) -> None:
    assert exact_url(f"https://example.com/{path}").raw_path_qs == f"/{path}"
    assert exact_url(f"https://example.com/{path}?{query}").raw_path_qs == f"/{path}?{query}"


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com?a=%3D", "https://example.com/?a=%3D"),
        ("https://example.com/a%2Fb#part", "https://example.com/a%2Fb"),
        ("https://bücher.example/ü%2F?ü=%3D", "https://xn--bcher-kva.example/%C3%BC%2F?%C3%BC=%3D"),
        ("http://[::1]:8080/a%3A", "http://[::1]:8080/a%3A"),
    ],
)
def test_what_becomes_of_the_rest(text: str, reported: str) -> None:
    assert str(exact_url(text)) == reported


@pytest.mark.parametrize("text", ["", "/a", "example.com/a", "https:///a"])
def test_what_is_no_absolute_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact_url(text)
