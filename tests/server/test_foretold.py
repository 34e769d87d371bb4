"""What SESSIONS … LINES foretells is what happens: the same rule and the same checks decide."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.certs import authority_line
from tests.kit.node import bootstrap
from tests.kit.policies import CLOSED, NOBODY, Node, Start, make_node, pairs, whoami
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, TlsConnection, days, root, wait_until

# Users of the operator's own, with a password.
OWN = {
    "worker": "on >secret ~* &* +@all",
    "bob": "on >secret ~* &* +@all",
}
FREE = "reset on nopass ~* &* +@all"  # `default` of a server that was told nothing


# ---- Stories -------------------------------------------------------------------------------------


class Cast:
    """Certificates of every sort, two of them bound by the bootstrap file."""

    def __init__(self, pki: Pki) -> None:
        self.pki, self.other = pki, root("CN=Other CA")
        self.certs: dict[str, Cert | None] = {
            "alice": pki.alice,
            "bob": self.other.issue("CN=bob"),
            "several": pki.ca.issue("CN=several", not_before=days(-1), not_after=days(1)),
            "stranger": pki.ca.issue("CN=stranger"),
            "device": pki.ca.issue(
                "CN=d", san=["dns:d1.iot", "email:d@iot"], not_before=days(-1), not_after=days(1)
            ),
            "keeper": pki.ca.issue("CN=keeper"),
            "both": pki.ca.issue("CN=both"),
            "none": None,
        }

    def key(self, name: str) -> str:
        cert = self.certs[name]
        assert cert
        return cert.key_id

    @property
    def file(self) -> list[str]:
        return [
            f"bind key {self.key('keeper')} keeper",
            f"bind key {self.key('both')} keeper alice",
            "user keeper on ~* &* +@all",
            authority_line(self.pki.ca),
        ]

    @property
    def choices(self) -> list[list[str]]:
        """Of each list a policy holds one line, or "" for none."""
        certificate = self.certs["alice"]
        assert certificate
        return [
            ["set enforce on"] * 4 + ["set enforce shadow", ""],
            ["", "", "set unmatched leave"],
            ["", "", "set plain refuse"],
            ["", "set password-auth allow"],
            [authority_line(self.pki.ca)] * 5 + [""],
            [authority_line(self.other)] * 3 + [""],
            ["bind cn alice alice", "bind cn alice bob", "bind cn alice worker", "",
             "bind cn alice alice from=10.0.0.0/8", "bind cn alice alice session=1h"],
            ["bind cn bob bob", "bind cn bob default", ""],
            ["bind cn several alice bob", "bind cn several bob worker", ""],
            ["user alice on ~* &* +@all"] * 3 + ["user alice on +ping", "user alice off", ""],
            ["user bob adopt on ~* &* +@all", "user bob adopt off", ""],
            ["user worker adopt on ~* &* +@all", "", ""],
            ["user default adopt off", "user default adopt on ~* &* +@all", "", "", ""],
            ["bind attributes CN=stranger alice", "bind attributes O=acme bob", "", ""],
            ["pattern dns {id}.iot device:{id} on ~{id}:* +@read", "", ""],
            ["pattern email {id}@iot alice", "pattern email {id}@iot bob session=1h", "", ""],
            ["", "", f"revoke cert {certificate.fingerprint}"],
            ["", "", "", "set gate san_cn"],
            ["allow CN=alice", ""],
            ["", "", "", "set max-lifetime 2d"],  # several's and the device's live no longer
            ["", "", "", "set min-tls 1.3"],  # bob's is 1.2, as is keeper's
            ["", "", "", "", "set require-eku emailProtection"],
        ]  # fmt: skip


# Lines that only the server knows to be wrong, or that are wrong where the policy stands.
BAD = [
    "+user worker on", "+user keeper on", "+user alice on +@nosuch", "+bind cn", "-bind cn x y",
    "+user default on", "+user device:d1 on", "+pattern cn {x} device:{x} on",
]  # fmt: skip
STEPS = [
    "RESET", "AUTH worker secret", "AUTH bob secret", "AUTH default x", "HELLO 2", "CERTAUTH.LOGIN",
    "HELLO 2 AUTH worker secret", "CERTAUTH.LOGIN alice", "CERTAUTH.LOGIN bob",
    "CERTAUTH.LOGIN keeper",
]  # fmt: skip
BY_HAND = [
    f"default {FREE}", "default reset on >x ~* &* +@all", "default off", "alice off", "alice on",
    "worker off", "bob off", "keeper off", "alice >secret",
    "device:own on",
]  # fmt: skip
# How a client is answered that may not ask at all; the last, where it has no user yet.
NOT_ASKED = ("NOPERM", "NOAUTH", "ERR Protocol error: unauthenticated")
WAYS = ["alice", "bob", "several", "stranger", "device", "keeper", "both", "none", "plain", "unix"]


@dataclass(frozen=True)
class Client:
    """How somebody came, whether before there was a policy, and what it has done since."""

    way: str
    early: bool
    steps: list[str]


@dataclass(frozen=True)
class Story:
    before: list[str]
    clients: list[Client]
    by_hand: list[str]
    after: list[str]
    bad: list[str]
    sender: int  # index of the client that writes; others: the operator

    @property
    def changes(self) -> list[str]:
        gone = [f"-{line}" for line in self.before if line not in self.after]
        return [*gone, *(f"+{line}" for line in self.after if line not in self.before), *self.bad]


def lines_of(cast: Cast) -> st.SearchStrategy[list[str]]:
    one = st.tuples(*(st.sampled_from(some) for some in cast.choices))
    return one.map(lambda lines: [line for line in lines if line])


def rarely(items: list[str]) -> st.SearchStrategy[list[str]]:
    some = st.lists(st.sampled_from(items), min_size=1, max_size=2, unique=True)
    return st.one_of(st.just([]), st.just([]), st.just([]), some)


def stories(cast: Cast) -> st.SearchStrategy[Story]:
    steps = st.lists(st.sampled_from(STEPS), max_size=3)
    client = st.builds(Client, st.sampled_from(WAYS), st.booleans(), steps)

    def with_after(before: list[str]) -> st.SearchStrategy[Story]:
        """Every other time only some lines change, else all may."""
        some = [st.sampled_from([line, ""]) for line in before]
        fewer = st.tuples(*some).map(lambda lines: [line for line in lines if line])
        return st.builds(
            Story,
            st.just(before),
            st.lists(client, min_size=1, max_size=6),
            rarely(BY_HAND),
            st.one_of(lines_of(cast), fewer),
            rarely(BAD),
            st.sampled_from([-1, -1, 0, 1]),
        )

    return lines_of(cast).flatmap(with_after)


# ---- A server that they happen on ----------------------------------------------------------------


def answer(connection: TlsConnection, *words: str) -> Any:
    """A reply; an error as its text; None where the connection is closed."""
    try:
        return connection.command(*words)
    except redis.ResponseError as error:
        return str(error)
    except CLOSED:
        return None


@dataclass
class Live:
    """A client that is connected, by its id on the server."""

    id: int
    connection: TlsConnection


Foretold = dict[int, dict[str, Any]]


def foretell(ask: Callable[..., Any], changes: list[str]) -> Foretold | str | None:
    """What would become of each session, by its id; or why the change would be refused; or None,
    where who asks has been closed meanwhile. A page may end early."""
    told: dict[int, dict[str, Any]] = {}
    cursor = "0"
    while True:
        reply = ask("CERTAUTH.SESSIONS", "CURSOR", cursor, "LINES", *changes)
        if reply is None or isinstance(reply, str):
            return reply
        page = pairs(reply)
        told |= {one["id"]: one for one in map(pairs, page["sessions"])}
        cursor = str(page["cursor"])
        if cursor == "0":
            return told


class Stage:
    """One server, on which a story leaves nothing behind."""

    def __init__(self, node: Node, cast: Cast) -> None:
        self.node, self.cast = node, cast

    # -- setting

    def reset(self) -> None:
        self.node.load([])
        own = {**OWN, "default": FREE, "keeper": "on ~* &* +@all"}
        for user in ("alice", "device:own"):
            self.node.call("ACL", "DELUSER", user)
        for user, rules in own.items():
            self.node.call("ACL", "SETUSER", user, "reset", *rules.split())

    def ids(self) -> set[int]:
        return {int(one["id"]) for one in self.node.admin.client_list()}

    def connect(self, way: str) -> TlsConnection:
        server = self.node.server
        if way not in ("unix", "plain"):
            version = "TLSv1_2" if way in ("bob", "keeper") else None
            return self.node.connect(self.cast.certs[way], version)
        if way == "unix":
            one = socket.socket(socket.AF_UNIX)
            one.connect(str(server.socket))
        else:
            one = socket.create_connection(("127.0.0.1", server.plain_port))
        one.settimeout(10)
        return TlsConnection(one)  # type: ignore[arg-type]

    def enter(self, stack: ExitStack, client: Client) -> Live | None:
        """None where it is refused."""
        before = self.ids()
        with suppress(*CLOSED):
            connection = stack.enter_context(self.connect(client.way))
            if answer(connection, "CERTAUTH.WHOAMI"):
                (number,) = self.ids() - before
                return Live(number, connection)
        return None

    # -- the story

    def play(self, story: Story) -> None:
        self.reset()
        with ExitStack() as stack:
            there = {n: self.enter(stack, one) for n, one in enumerate(story.clients) if one.early}
            try:
                self.node.load(story.before)
            except redis.ResponseError:
                return
            for n, one in enumerate(story.clients):
                if n not in there:
                    there[n] = self.enter(stack, one)
            for n, one in enumerate(story.clients):
                live = there[n]
                for step in one.steps if live else ():
                    answer(live.connection, *step.split())
            for rules in story.by_hand:
                self.node.call("ACL", "SETUSER", *rules.split())
            for _ in range(3):  # what came up behind a command is done
                self.node.admin.ping()
            alive = self.ids()
            lives = {n: one for n, one in there.items() if one and one.id in alive}
            self.change(story, lives)

    def change(self, story: Story, lives: dict[int, Live]) -> None:
        """Asks about the change, makes it, and compares."""
        node, sender = self.node, lives.get(story.sender)
        said = len(node.server.log)

        def ask(*words: str) -> Any:
            if sender:
                return answer(sender.connection, *words)
            try:
                return node.call(*words)
            except redis.ResponseError as error:
                return str(error)

        foretold = foretell(ask, story.changes)
        if isinstance(foretold, str) and foretold.startswith(NOT_ASKED):
            return  # this client may not ask, whatever the change is
        if foretold is None:
            return  # 7.0 has ended it for an AUTH of before
        words = ("PATCH", str(node.generation), str(node.generation + 1), "LINES", *story.changes)
        done = ask("CERTAUTH.POLICY", *words)
        if isinstance(done, str):
            assert foretold == done or not self.undisturbed(said)
            return
        node.generation += 1
        if isinstance(foretold, str):
            assert not self.undisturbed(said), foretold
            return
        told = foretold
        # On 7.0 an AUTH of before may have ended some of them meanwhile.
        lives = {n: one for n, one in lives.items() if one.id in told}
        mine = {one.id for one in lives.values()}
        ending = {id for id in mine if not told[id]["stays"]}
        gone = set[int]()

        def ended() -> bool:
            gone.clear()
            gone.update(mine - self.ids())
            return gone >= ending

        with suppress(AssertionError):
            wait_until(ended, "they are closed", 2)
        gone |= {
            one.id
            for one in lives.values()
            if one.id not in gone and answer(one.connection, "PING") is None
        }
        if gone != ending and self.undisturbed(said):
            wrong = {id: told[id] for id in gone ^ ending}
            raise AssertionError(f"{story}\nclosed: {gone}, foretold: {ending}: {wrong}")
        if "set enforce on" in story.after:
            for n, one in lives.items():
                self.come_again(story, story.clients[n].way, told[one.id], said)

    def come_again(self, story: Story, way: str, told: dict[str, Any], said: int) -> None:
        """Who was said to be let in as somebody is that, and nobody else is anybody; a user that
        was changed by hand is set right within a second."""
        expected = {"login": told["then_user"], "choose": NOBODY, "leave": "default"}
        if way == "unix":
            return
        seen: list[str | None] = []

        def as_foretold() -> bool:
            user = None
            with suppress(*CLOSED), self.connect(way) as connection:
                user = whoami(connection)["user"]
            seen.append(user)
            return user == expected.get(told["then"]) or not self.undisturbed(said)

        if not as_foretold() and story.by_hand:
            wait_until(as_foretold, f"{way} is as foretold: {told}, seen: {seen}", 5)
        elif seen[-1] != expected.get(told["then"]) and self.undisturbed(said):
            raise AssertionError(f"{way} is {seen[-1]}, foretold: {told}")

    def undisturbed(self, said: int) -> bool:
        """Whether nothing has been set right meanwhile that was changed by hand."""
        later = self.node.server.log[said:]
        return "changed by hand" not in later and "it may not be" not in later


def play(start: Start, kind: Server, pki: Pki, folder: Path, examples: int) -> None:
    cast = Cast(pki)
    arguments = bootstrap(folder, *cast.file)[2:]
    config = [f"user {user} {rules}" for user, rules in OWN.items()]
    node = make_node(
        start, kind, module=arguments, config=config, plain=True, trust=[pki.ca, cast.other]
    )
    stage = Stage(node, cast)

    @settings(
        deadline=None,
        max_examples=examples,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(stories(cast))
    def law(story: Story) -> None:
        stage.play(story)

    law()


def test_what_is_foretold_happens(
    installed: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """Whatever the policy, the change and what clients have done: who was said to stay stays, who
    was said to be closed is closed, and a change is refused with the words that were foretold."""
    play(start, installed, pki, tmp_path, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_foretold_happens_everywhere(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """The same, for long and on each server."""
    play(start, server_kind, pki, tmp_path, 200)
