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
from tests.kit.support import ROOT, Cert, Pki, root

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


# ---- The cures of explain ----

CURES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # kind → a subject, SANs, and the words of the command that explain advises
    "subject": ("CN=it's,O=acme", (f"uri:{CART}",), ("--subject", "CN=it's,O=acme")),
    "uri": ("", (f"uri:{CART}", "dns:a.acme", "dns:b.acme"), ("--uri", CART)),
    "dns": ("", ("dns:a.acme",), ("--dns", "a.acme")),
    "email": ("", ("email:a@acme",), ("--email-san", "a@acme")),
    "ip": ("", ("ip:10.0.0.1",), ("--ip", "10.0.0.1")),
    "upn": ("", ("upn:a@ad",), ("--upn", "a@ad")),
    "key": ("", ("dns:c.acme", "dns:d.acme"), ("--key-id",)),
}


class Explained:
    """A database whose servers are not there: who its policy says that certificates are."""

    def __init__(self, run: Shell, folder: Path, ca: bytes) -> None:
        self.run, self.file = run, folder / "leaf.pem"
        (folder / "ca.pem").write_bytes(ca)
        self.done("ca set", folder / "ca.pem")
        self.done("db create orders --endpoint 127.0.0.1:1 --tls-mode enabled",
                  "--server-ca", folder / "ca.pem", "--grant", "None=Full Access")  # fmt: skip

    def done(self, text: str, *words: object) -> None:
        found = self.run(*text.split(), *words, "--no-wait", "--yes")
        assert found.exit_code == 0, found.output

    def user(self, name: str, *words: str) -> None:
        self.done(f"user create {name} --role None", *words)

    def decision(self, leaf: Cert, *words: str) -> str:
        self.file.write_bytes(leaf.pem)
        return str(self.run("explain", self.file, "--db", "orders", *words).output)

    def cured(self, leaf: Cert, reason: str, *options: str) -> list[str]:
        """Runs the command that explain advises; its words."""
        told = self.decision(leaf, *options)
        assert f"\n{reason}: " in told
        words_of = r"^to change it: .*?redis-certauth ((?:'[^']*'|\\'|[^,\n'])+)"
        advised = re.search(words_of, told, re.M)
        assert advised, told
        words = shlex.split(advised[1].replace("<user>", "app").replace("<database>", "orders"))
        self.done("", *words)
        return words


@pytest.fixture
def explained(run: Shell, pki: Pki, tmp_path: Path) -> Explained:
    return Explained(run, tmp_path, pki.ca.pem)


def test_the_cure_of_each_kind_of_identity_is_one(explained: Explained, pki: Pki) -> None:
    """The command that explain prints for a certificate that nobody has makes it the user's, by
    what it has: the subject, else a SAN that is the only one of its kind, else its key."""
    explained.user("app", "--cn", "nobody")
    for kind, (subject, names, words) in CURES.items():
        leaf = pki.ca.issue(subject, san=names)
        cure = explained.cured(leaf, "no_binding")
        assert tuple(cure[4 : 4 + len(words)]) == words, kind
        assert "decision: login app\n" in explained.decision(leaf), kind


def test_the_cure_of_several_names_is_one(explained: Explained, pki: Pki) -> None:
    """Where they are one user's; a whole subject beside the line for a name would be none."""
    explained.user("app", "--dns", "a.acme", "--subject", "CN=pod")
    leaf = pki.ca.issue("CN=pod", san=("dns:a.acme", "dns:b.acme"))
    words = explained.cured(leaf, "ambiguous")
    assert words == ["db", "update", "orders", "--several-names", "same"]
    assert "decision: login app\n" in explained.decision(leaf)


def test_the_cure_of_a_conflict_is_one(explained: Explained, pki: Pki) -> None:
    """Of two identities one goes; of two parts of a subject none, for the whole one wins."""
    explained.user("app", "--cn", "app", "--attributes", "OU=eng")
    explained.user("web", "--uri", CART, "--dns", "it's.acme")
    explained.user("own", "--dns", "own.acme", "--attributes", "O=acme")
    leaf = pki.ca.issue("CN=app", san=("dns:it's.acme",))
    words = explained.cured(leaf, "conflict")
    assert words[:4] in (["user", "identity", "remove", name] for name in ("app", "web"))
    other = {"app": "web", "web": "app"}[words[3]]
    assert f"decision: login {other}\n" in explained.decision(leaf)
    parts = pki.ca.issue("CN=x,OU=eng,O=acme")
    assert explained.cured(parts, "conflict")[:4] == ["user", "identity", "add", "app"]
    assert "decision: login app\n" in explained.decision(parts)


def test_the_cure_of_an_address_is_one(explained: Explained, pki: Pki) -> None:
    """The network that is lacking comes to those that the identity has, and to no other. Without an
    address there is no such command; nor does one without networks get some."""
    explained.user("app", "--uri", CART, "--from", "10.0.0.0/8", "--session", "8h")
    explained.user("web", "--cn", "web")
    leaf, away = pki.ca.issue("CN=x", san=(f"uri:{CART}",)), ("--address", "192.0.2.7")
    assert "redis-certauth" not in explained.decision(leaf).split("to change it: ")[1]
    assert "login app" not in explained.decision(leaf, *away)
    words = explained.cured(leaf, "address", *away)
    assert words == ["user", "identity", "add", "app", "--uri", CART, "--from", "192.0.2.7"]
    assert "decision: login app\n" in explained.decision(leaf, *away)
    assert "\naddress: " in explained.decision(leaf, "--address", "192.0.2.8")
    has = {"uri": CART, "from": ["10.0.0.0/8", "192.0.2.7"], "session": "8h"}
    assert explained.run.identities("user", "show", "app") == [has]
    words = ["user", "identity", "add", "web", "--cn", "web", "--from", "10.0.0.1", "--no-wait"]
    assert explained.run(*words).exit_code != 0
    assert explained.run.identities("user", "show", "web") == [{"cn": "web"}]


def test_the_cure_of_a_patterns_address_is_one(explained: Explained, pki: Pki) -> None:
    """With the pattern's name, which no line has; a shell reads it as one word."""
    name = "devices; all"
    words = ("--kind", "dns", "--template", "{id}.acme", "--user", "device:{id}", "--role", "None")
    explained.done("pattern create", name, *words, "--from", "10.0.0.0/8")
    leaf, away = pki.ca.issue("CN=x", san=("dns:a.acme",)), ("--address", "192.0.2.7")
    told = explained.decision(leaf, *away)
    assert f"pattern update {shlex.quote(name)} --add-from 192.0.2.7, or connect" in told, told
    assert explained.cured(leaf, "address", *away)[:3] == ["pattern", "update", name]
    assert "decision: login device:a\n" in explained.decision(leaf, *away)
    assert "\naddress: " in explained.decision(leaf, "--address", "192.0.2.8")


def test_explain_says_how_a_part_of_a_subject_is_kept_to_a_ca(
    explained: Explained, pki: Pki
) -> None:
    """In words of the command line, and no more once it is."""
    explained.user("app", "--attributes", "OU=eng")
    leaf = pki.ca.issue("CN=x,OU=eng")
    option = f"--issued-by {pki.ca.key_id}"
    assert f"give the identity {option}" in explained.decision(leaf)
    explained.done(f"user identity add app --cn y {option}")
    explained.done("user identity remove app --attributes OU=eng")
    explained.done(f"user identity add app --attributes OU=eng {option}")
    told = explained.decision(leaf)
    assert "decision: login app\n" in told
    assert "--issued-by" not in told


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
