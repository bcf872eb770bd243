"""Expressions that select the devices of a push: `tags.plan == 'pro' and locale in ('de', 'at')`. Pure.

    expression := term (or term)*           term  := factor (and factor)*
    factor     := not factor | ( expression ) | comparison | tags.NAME
    comparison := FIELD OPERATOR value | value OPERATOR FIELD | FIELD [not] in LIST | value [not] in FIELD
    OPERATOR   := == != < <= > >=
    FIELD      := platform user locale timezone app_version environment registered last_seen tags.NAME tags['any name']
    value      := 'text' "text" 12 -3.5 true false null        LIST := ( value, .. ) or [ value, .. ]

    words.py    text to words, each with its column
    fields.py   the meaning of a comparison, field by field: the closures
    reading.py  words to closures; every fault with its column

The semantics:

- A value that the device does not have equals nothing and has no order: `==`, `<`, `in` are false. `!=` is always the
  opposite of `==`, and `not in` of `in`, so both are true for it; write `tags.plan != null and tags.plan != 'pro'`
  to exclude it. `null` means "has none" and can be used with `==` and `!=`.
- `locale` matches by RFC 4647 basic filtering: `'de'` means `de` and everything below it, such as `de-AT`; `'de-AT'`
  does not match `de`. Case does not matter, and `de_AT` is `de-AT`.
- `app_version` is compared number by number: `3.9` is before `3.10`, and `3.2` is `3.2.0`. As in SemVer `3.2.0-beta`
  comes before `3.2.0`, and what follows `+` or a space is ignored. A value that is not such a version, as `nightly`,
  is treated as if the device had none.
- `registered` and `last_seen` are compared with times, by `<`, `<=`, `>`, `>=`: RFC 3339, a date (midnight UTC), or
  a span before now. `'30d'` *is* the time 30 days ago: `last_seen > '30d'` means "seen within the last 30 days".
  Units are s, m, h, d, w; `'30d ago'` is the same. Now is when the push was accepted, however long its expansion takes.
- A tag that is a list represents each of its values: a comparison is true if it is true for one of them. So
  `'beta' in tags.groups`, `tags.groups == 'beta'` and `tags.groups in ('beta', 'alpha')` all work as expected.
- Values of different kinds are never equal and have no order: `'5'` is not 5, and true is not 1. Text is ordered by
  code point. `tags.beta` alone means `tags.beta == true`.

An expression reads only the device and calls nothing: there is no arithmetic, no function, no pattern. Its length, its
depth and the number of its comparisons are bounded, so that a hostile one is refused at little cost. Source of the
locale rule: https://www.rfc-editor.org/rfc/rfc4647#section-3.3.1
"""

from .fields import Predicate, never
from .reading import MAX_COMPARISONS, MAX_DEPTH, compile_where
from .words import MAX_LENGTH, WhereError

__all__ = ["compile_where", "never", "Predicate", "WhereError", "MAX_LENGTH", "MAX_DEPTH", "MAX_COMPARISONS"]
