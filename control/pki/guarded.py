"""The one way in which `cryptography` is asked to read or to sign: whatever it raises becomes an
error of ours that says where.

What it raises is not a closed list: KeyError for a TLS feature, InvalidVersion for a list of
version 0, ValueError for a year 0, TypeError for a BIT STRING in a name, a Rust panic. So nothing
is listed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

PANIC = "PanicException"  # of its Rust code; no Exception


class CertificateError(ValueError):
    """What is wrong with which certificate of an upload. `expired`: it is out of date, which has
    a status of its own."""

    def __init__(self, text: str, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


class CrlError(ValueError):
    """Why a list is not taken: `code` is for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextmanager
def guarded(what: str, code: str = "") -> Iterator[None]:
    """Runs what reads or signs; `what` begins the sentence of its error: "the CSR cannot be read".
    Raises CertificateError, or CrlError with `code` where there is one, and nothing else."""
    try:
        yield
    except (CertificateError, CrlError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        text = f"{what}: {plain(error)}"
        raise (CrlError(code, text) if code else CertificateError(text)) from error


def plain(error: BaseException) -> str:
    """What a library says, for a person: no dump of its parser's state, no link to its FAQ."""
    text = str(error).split("\n", 1)[0]
    if "ParseError" in text:
        places = re.findall(r'"(?:\w+::)?(\w+)"', text)
        return f"its part {'.'.join(places)} does not parse" if places else "it does not parse"
    if isinstance(error, KeyError):
        return f"an extension holds the value {text}, which is not known here"
    text = re.sub(r"\s*(See |For more )?\S*https?://.*", "", text).strip().rstrip(".")
    return text or "it does not parse"
