"""control/cli/identities.py: the identities of users on the command line; and the lines that people
write and read them as."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control import service
from control.cli.client import Client
from control.cli.main import main
from control.policy import bindings
from tests.kit.plane import initialised
from tests.kit.rest import ADMIN
from tests.kit.support import ROOT, Pki, root

CART = "spiffe://acme/ns/shop/sa/cart"


class Shell:
    """The command line, as an administrator."""

    def __init__(self, url: str, ca: Path) -> None:
        self.login = ["--url", url, "--ca", str(ca), "--username", ADMIN[0]]

    def __call__(self, *words: object) -> Result:
        arguments = [*map(str, words), *self.login]
        return CliRunner().invoke(main, arguments, input=f"{ADMIN[1]}\n")

    def identities(self, *words: object) -> list[dict[str, Any]]:
        """Those of the user that a command answers with."""
        found = self(*words, "--json")
        assert found.exit_code == 0, found.output
        told: list[dict[str, Any]] = json.loads(found.stdout)["certificate_identities"]
        return told


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = initialised(tmp_path / "home")
    with service.running(config):
        yield Shell(f"https://127.0.0.1:{config.port}", config.home / "ca.crt")


NEW = ("user", "create", "cart", "--role", "None")


def test_each_kind_has_an_option(run: Shell) -> None:
    """With what holds for all of them; a user with identities logs in by certificate."""
    digest = "ab" * 32
    told = run.identities(
        *NEW, "--subject", "/O=acme/CN=a", "--cn", "a", "--uri", CART, "--uri", "urn:x", "--dns",
        "a.acme", "--email-san", "a@acme", "--ip", "10.0.0.1", "--upn", "a@ad", "--key-id", digest,
        "--fingerprint", digest, "--attributes", "OU=eng", "--attribute-oid", "2.5.4.5=1",
        "--extension-oid", "1.2.3=x", "--from", "10.0.0.0/8", "--from", "::1", "--session", "8h",
        "--shared", "--comment", "of the shop",
    )  # fmt: skip
    assert {bindings.kind_of(one) for one in told} == set(bindings.KINDS)
    assert {"subject": "CN=a,O=acme"}.items() <= told[0].items()
    for one in told:
        assert (one["session"], one["shared"], len(one["from"])) == ("8h", True, 2)
        assert one["comment"] == "of the shop"
    listed = run("user", "list").output
    assert f"uri {CART} from=10.0.0.0/8,::1 session=8h shared comment=" in listed
    assert f"uri {CART} from=" in run("user", "show", "cart").output


def test_single_identities_come_and_go(run: Shell) -> None:
    """Beside the others; however they are spelled; the last stays."""
    run.identities(*NEW, "--subject", "CN=a,O=acme")
    add, remove = ("user", "identity", "add", "cart"), ("user", "identity", "remove", "cart")
    told = run.identities(*add, "--uri", CART, "--session", "1h")
    assert told == [{"subject": "CN=a,O=acme"}, {"uri": CART, "session": "1h"}]
    again = run(*add, "--uri", CART)
    assert (again.exit_code, "is there twice" in again.output) == (1, True)
    assert "+ " not in run(*add, "--dns", "x", "--dry-run").output
    assert run.identities(*remove, "--subject", "/O=acme/CN=a") == told[1:]
    gone = run(*remove, "--subject", "CN=a,O=acme")
    assert (gone.exit_code, "it has no identity subject" in gone.output) == (1, True)
    last = run(*remove, "--uri", CART)
    assert (last.exit_code, "missing_field" in last.output) == (1, True)
    assert run.identities("user", "show", "cart") == told[1:]


def test_of_two_editors_none_loses_anything(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else adds one between reading and writing: both are there."""
    run.identities(*NEW, "--cn", "a")
    read, others = Client.read, ["b.acme", "c.acme"]

    def read_and_be_late(ask: Client, path: str) -> Any:
        found, etag = read(ask, path)
        if others:
            more = [*found["certificate_identities"], {"dns": others.pop()}]
            ask("PUT", path, {"certificate_identities": more})
        return found, etag

    monkeypatch.setattr(Client, "read", read_and_be_late)
    told = run.identities("user", "identity", "add", "cart", "--uri", CART)
    assert told == [{"cn": "a"}, {"dns": "c.acme"}, {"dns": "b.acme"}, {"uri": CART}]
    others += ["d.acme"] * 9  # who never has a turn is told so, and what the others did stays
    late = run("user", "identity", "remove", "cart", "--uri", CART)
    assert late.exit_code == 1, late.output
    assert {"uri": CART} in run.identities("user", "show", "cart")


def test_a_certificate_says_what_it_holds_and_one_chooses(
    run: Shell, pki: Pki, tmp_path: Path
) -> None:
    """Nothing is taken that nobody named: not the only URI either."""
    leaf = pki.ca.issue("CN=pod", san=(f"uri:{CART}", "dns:a.acme", "dns:b.acme"))
    file = tmp_path / "leaf.pem"
    file.write_bytes(leaf.pem)
    asked = run(*NEW, "--certificate", file)
    assert asked.exit_code == 2
    for held in ("--by subject: CN=pod", f"--by uri: {CART}", f"--by key-id: {leaf.key_id}"):
        assert held in asked.output
    assert "--by: one of subject, cn, uri, dns, key-id, fingerprint" in asked.output
    for by, why in (("dns", "has several"), ("upn", "has none that can be named")):
        refused = run(*NEW, "--certificate", file, "--by", by)
        assert (refused.exit_code, why in refused.output) == (2, True), refused.output
    assert "cart" not in run("user", "list").output
    assert run.identities(*NEW, "--certificate", file, "--by", "uri") == [{"uri": CART}]
    more = ("user", "identity", "add", "cart", "--certificate", file, "--by", "key-id")
    assert run.identities(*more)[1] == {"key": leaf.key_id}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--session", "8h"), "give one, such as --uri"),
        (("--comment", "mine"), "give one, such as --uri"),
        (("--by", "uri"), "give one, such as --uri"),
        (("--extension-oid", "1.2.3"), "not like OID=VALUE"),
        (("--certificate", __file__), "test_identities.py: "),
    ],
)
def test_half_an_identity_is_refused(words: tuple[str, ...], why: str) -> None:
    """On the command line, before anybody is asked."""
    login = ("--url", "https://127.0.0.1:1", "--username", "admin")
    found = CliRunner().invoke(main, [*NEW, *words, *login], input="x\n")
    assert (found.exit_code, why in found.output) == (2, True), found.output


def test_each_example_of_the_page_works(run: Shell, pki: Pki, tmp_path: Path) -> None:
    """docs/identities.md, from its first command, which makes nobody, to its last."""
    (tmp_path / "ca.pem").write_bytes(root("CN=Acme Workload CA").pem)
    assert run("ca", "set", tmp_path / "ca.pem").exit_code == 0
    for name in ("cart", "sensor-17"):
        leaf = pki.ca.issue(f"CN={name}", san=(f"uri:urn:{name}",))
        (tmp_path / f"{name}.pem").write_bytes(leaf.pem)
    page = (ROOT / "docs/identities.md").read_text()
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)).replace("\\\n", " ")
    first, *commands = [shlex.split(line)[1:] for line in blocks.splitlines()]
    found = run(*(tmp_path / one if one.endswith(".pem") else one for one in first))
    assert (found.exit_code, "--by uri: urn:cart" in found.output) == (2, True), found.output
    for words in commands:
        found = run(*(tmp_path / one if one.endswith(".pem") else one for one in words))
        assert found.exit_code == 0, found.output
    assert run.identities("user", "show", "jane") == [{"subject": "CN=jane,OU=sales,O=acme"}]


# ---- Lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"uri": CART},
        {"subject": "CN=John Doe,O=a\\,b", "from": ["10.0.0.0/8", "::1"], "session": "8h"},
        {"cn": "we shared", "shared": True, "comment": 'say "x" \\'},
        {"cn": '"x"', "ca": "CN=A B"},
        {"attribute": {"oid": "1.2", "value": "x y=z"}},
    ],
)
def test_an_identity_is_a_line_and_back(given: dict[str, Any]) -> None:
    """Quotes stand only where they are needed."""
    line = bindings.written(given)
    assert bindings.typed(line) == given
    assert ('"' in line) == any(sign in str(given) for sign in ('"', "we shared", "A B"))


def test_a_subject_needs_no_kind() -> None:
    """As it is copied from elsewhere."""
    found = bindings.typed("CN=John Doe, O=acme session=8h")
    assert found == {"subject": "CN=John Doe, O=acme", "session": "8h"}
    assert bindings.typed("/O=acme/CN=a") == {"subject": "/O=acme/CN=a"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "a kind and a value"),
        ("spiffe://acme/x", "is none of subject, cn"),
        ("uri", "a value is missing"),
        ("uri x session=1h session=2h", "session is there twice"),
        ("attribute x", "is not like OID=VALUE"),
    ],
)
def test_what_is_no_identity_is_said(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        bindings.typed(line)
