"""Issuers in a file for `apply`: one form for what is declared and what is there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from control.api.issuers import IssuerBody, RuleBody
from control.cli import files
from control.pki import jose
from control.pki.uploads import read_bundle

Fields = dict[str, Any]
CAS = ("ca", "manufacturer_ca")


def normal(found: Mapping[str, Any]) -> Fields:
    """With keys and CAs in one spelling, and the defaults of its rules. Raises ValueError."""
    IssuerBody.model_validate(found)
    made = dict(found)
    if made.get("jwks"):
        made["jwks"] = jose.read_keys(made["jwks"])
    for name in CAS:
        if made.get(name):
            made[name] = "".join(read_bundle(made[name]).pem)
    if "rules" in made:
        made["rules"] = [RuleBody.model_validate(one).model_dump() for one in made["rules"]]
    return made


def from_files(fields: Fields, folder: Path, pem: Callable[[str, Path], str]) -> Fields:
    """What stands in files of their own: its keys, and by `pem` its CAs. Raises what that does, and
    OSError, ValueError."""
    found = {}
    for name in CAS:
        if isinstance(fields.get(name), str):
            found[name] = pem(fields[name], folder)
    keys = fields.get("jwks")
    if isinstance(keys, str) and keys and not keys.lstrip().startswith("{"):
        found["jwks"] = files.decoded((folder / keys).read_bytes())
    return found
