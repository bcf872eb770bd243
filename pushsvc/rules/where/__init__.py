"""Expressions that say which devices a push is for: `tags.plan == 'pro' and locale in ('de', 'at')`. Pure.

    expression := term (or term)*           term  := factor (and factor)*
    factor     := not factor | ( expression ) | comparison | tags.NAME
    comparison := FIELD OPERATOR value | value OPERATOR FIELD | FIELD [not] in LIST | value [not] in FIELD
    OPERATOR   := == != < <= > >=
    FIELD      := platform user locale timezone app_version environment registered last_seen tags.NAME tags['any name']
    value      := 'text' "text" 12 -3.5 true false null        LIST := ( value, .. ) or [ value, .. ]

    words.py    text to words, each with its column
    fields.py   what a comparison means, field by field: the closures
    reading.py  words to closures; every fault with its column

What a comparison means is decided here, for whoever wonders:

- A value that the device does not have equals nothing and has no order: `==`, `<`, `in` are false. `!=` is always the
  opposite of `==`, and `not in` of `in`, so both are true for it; write `tags.plan != null and tags.plan != 'pro'`
  where that is not meant. `null` says "has none" and goes with `==` and `!=`.
- `locale` matches as RFC 4647 basic filtering does: `'de'` means `de` and everything below it, as `de-AT`; `'de-AT'`
  does not mean `de`. Case does not matter, and `de_AT` is `de-AT`.
- `app_version` is compared number by number: `3.9` is before `3.10`, and `3.2` is `3.2.0`. As in SemVer `3.2.0-beta`
  comes before `3.2.0`, and what stands behind `+` or a space is not looked at. What is no such version, as `nightly`,
  is as if the device had none.
- `registered` and `last_seen` are compared with instants, by `<`, `<=`, `>`, `>=`: RFC 3339, a date (midnight UTC), or
  a span before now. `'30d'` *is* the instant of 30 days ago: `last_seen > '30d'` means "seen within the last 30 days".
  Units are s, m, h, d, w; `'30d ago'` is the same. Now is when the push was accepted, however long its expansion takes.
- A tag that is a list stands for each of its values: a comparison is true when it is so for one of them. So
  `'beta' in tags.groups`, `tags.groups == 'beta'` and `tags.groups in ('beta', 'alpha')` all do what they say.
- Values of different kinds are never equal and have no order: `'5'` is not 5, and true is not 1. Text is ordered by
  code point. `tags.beta` alone means `tags.beta == true`.

An expression reads nothing but the device and calls nothing: there is no arithmetic, no function, no pattern. Its
length, its depth and the number of its comparisons are bounded, so that a hostile one is refused before it costs
anything. Source of the locale rule: https://www.rfc-editor.org/rfc/rfc4647#section-3.3.1
"""

from .fields import Predicate, never
from .reading import MAX_COMPARISONS, MAX_DEPTH, compile_where
from .words import MAX_LENGTH, WhereError

__all__ = ["compile_where", "never", "Predicate", "WhereError", "MAX_LENGTH", "MAX_DEPTH", "MAX_COMPARISONS"]
