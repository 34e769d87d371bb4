"""Values that names may hold, clean and odd."""

from hypothesis import strategies as st

from tests.kit.certs import CN, DC, EMAIL, OU, ST, SURNAME, UID, C, L, O, encoded, oid

# What a person's or a machine's name may hold: see is_treacherous in text.c.
INVISIBLE = [0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070)]


CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]


TREACHEROUS = [chr(code) for code in CONTROLS + INVISIBLE]


def is_clean(text: str) -> bool:
    return not any(
        char in TREACHEROUS
        or 0xE0000 <= ord(char) <= 0xE0FFF
        or 0x1BCA0 <= ord(char) <= 0x1BCA3
        or 0x1D173 <= ord(char) <= 0x1D17A
        or ord(char) & 0xFFFE == 0xFFFE
        for char in text
    )


AWKWARD = st.text(" ,=+\"\\#<>;/ab'", min_size=1, max_size=8)


CLEAN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cn", "Cs"]),
    min_size=1,
    max_size=40,
).filter(is_clean)


VALUES = AWKWARD | CLEAN


OIDS = st.sampled_from(
    [
        CN,
        OU,
        O,
        L,
        ST,
        C,
        DC,
        UID,
        EMAIL,
        SURNAME,
        oid("1.2.3"),
        oid("2.999.1"),
        oid("1.3.6.1.4.1.99999999999"),
    ]
)


ATTRIBUTES = st.tuples(OIDS, VALUES)


RDNS = st.lists(ATTRIBUTES, min_size=1, max_size=3, unique=True)


NAMES = st.lists(RDNS, min_size=1, max_size=5).map(lambda rdns: encoded(*rdns))
