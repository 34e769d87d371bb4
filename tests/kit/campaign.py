"""A campaign against the whole REST API: what its own description generates, good and bad, by every
role, to a `redis-certauth serve` of its own, over TLS.

    python -m tests.kit.campaign SECONDS [SEED] [postgresql]

Prints what it sent and what it found; ends with 1 where it found something. `schemathesis` makes
requests of what /openapi.json says; often enough they name what is there, and hold what parses, to
come past the first check.
"""

from __future__ import annotations

import os
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import requests
import schemathesis
import urllib3
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from schemathesis.core.failures import Failure
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from control import service
from control.domain import tokens
from control.domain.passwords import new_password
from control.records import BUILTIN_ROLES, Management, User
from control.service import Config
from control.store import Store
from tests.kit.abuse import PASSWORD, Canaries, Material, choices, faults, resolved
from tests.kit.plane import NAMES, Serving
from tests.kit.postgres import PASSWORD as DATABASE_PASSWORD
from tests.kit.postgres import postgres
from tests.kit.rest import ADMIN
from tests.kit.support import SERVER, Pki, free_port, remove_scratch, root

PASSPHRASE = "the passphrase of every CA's key"
NOBODY, BEARER = "nobody", "a certificate"
ROLES = [*get_args(Management), NOBODY, BEARER]
EXAMPLES = 6  # of an operation, good and bad each, in a round
KEPT = 25  # objects of a kind, from round to round
KINDS = (
    "/v1/bdbs", "/v1/users", "/v1/roles", "/v1/redis_acls", "/v1/certauth/profiles",
    "/v1/certauth/revocations",
)  # fmt: skip
WHERE = {  # a field of a body, and the collection whose uids it takes
    "role_uid": "/v1/roles",
    "role_uids": "/v1/roles",
    "redis_acl_uid": "/v1/redis_acls",
    "user_uid": "/v1/users",
    "bdb_uid": "/v1/bdbs",
}


class Campaign:
    """`run` sends; `found` is what is wrong, by what was asked, with an example."""

    def __init__(self, config: Config, pki: Pki, number: int) -> None:
        self.config, self.pki, self.random = config, pki, random.Random(number)
        self.material = Material(pki)
        self.url = f"https://localhost:{config.port}"
        self.store = Store(config.url)
        self.sent: Counter[tuple[str, str]] = Counter()
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.done: Counter[str] = Counter()
        self.slowest: dict[str, float] = defaultdict(float)
        self.found: dict[str, str] = {}
        self.known: dict[str, list[dict[str, Any]]] = {}
        authorities = root("CN=API CA")
        names = ("dns:localhost", "ip:127.0.0.1")
        self.shown = authorities.issue("CN=localhost", san=names, eku=(SERVER,))
        trusted = config.home / "trusted.pem"
        trusted.write_bytes((config.home / "ca.crt").read_bytes() + authorities.pem)
        self.sessions = {name: requests.Session() for name in ROLES}
        for session in self.sessions.values():
            session.verify, session.trust_env = str(trusted), False
        self.sessions[BEARER].cert = pki.alice.files
        self.heal()
        self.document = document = self.ask("GET", "/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        self.operations = [
            found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)
        ]
        assert len(self.operations) == sum(map(len, document["paths"].values()))
        self.labels = sorted(
            f"{method.upper()} {path}"
            for path, methods in document["paths"].items()
            for method in methods
        )
        admin = self.store.objects.user_by_login("c-admin")
        assert admin
        self.canaries = Canaries(
            self.store,
            administrator=ADMIN[1],
            passphrase=PASSPHRASE,
            database=f"certauth:{quote(DATABASE_PASSWORD)}@",
            key=self.shown.key_pem.decode(),
            token=tokens.make(admin, self.store.settings.cluster(), 3600),
            hash=admin.passwords[0].hash,
        )

    # ---- What is there ----

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        """As an administrator, for the campaign itself."""
        return self.sessions["admin"].request(
            method, self.url + path, json=body, timeout=60, headers=self.login("admin")
        )

    def login(self, role: str) -> dict[str, str]:
        """The Authorization of somebody with this role, who is made if need be."""
        if role in (NOBODY, BEARER):
            return {}
        self.store.request.enter()
        name = f"c-{role}"
        uid = next(one.uid for one in BUILTIN_ROLES if one.management == role)
        user = self.store.objects.user_by_login(name)
        if user is None or user.role_uids != (uid,) or user.auth_method != "regular":
            if user:
                self.store.objects.delete(User, user.uid, lambda _: None)
            made = User(0, name, "regular", (uid,), passwords=(new_password(PASSWORD),))
            user = self.store.objects.create(made)
        return {"Authorization": f"Bearer {tokens.make(user, self.store.settings.cluster(), 3600)}"}

    def heal(self) -> None:
        """Undoes what would shut the campaign out, and all but some of what it has made."""
        trusted = self.pki.ca.pem.decode()
        shown = {"certificate": self.shown.presented.decode(), "key": self.shown.key_pem.decode()}
        trust = {"name": "mtls_trusted_ca", "certificate": trusted, "trust_grows": True}
        for method, path, body in (
            ("PUT", "/v1/cluster/update_cert?force", trust),
            ("PUT", "/v1/cluster/update_cert", {"name": "api", **shown}),
            ("PUT", "/v1/cluster", {
                "mtls_certificate_authentication": True,
                "mtls_client_cert_subject_validation_type": "disabled",
                "password_expiration_duration": 0, "password_complexity": False,
                "control_plane_basic_authentication": True,
            }),
            ("POST", "/v1/users", {
                "name": "alice", "auth_method": "certificate", "role": "admin",
                "certificate_subject_line": "CN=alice,OU=eng,O=acme",
            }),
            ("POST", "/v1/bdbs", {"name": "orders", "endpoints": self.material["endpoints"]}),
        ):  # fmt: skip
            status = self.ask(method, path, body).status_code
            assert status in (200, 202, 400, 409), (path, status)
        for path in KINDS:
            made = [one["uid"] for one in self.ask("GET", path).json()]
            for uid in sorted(made)[10:-KEPT]:
                self.ask("DELETE", f"{path}/{uid}")
        self.known.clear()

    def things(self, path: str) -> list[dict[str, Any]]:
        """What a collection lists, as it was a moment ago."""
        if path not in self.known:
            answer = self.ask("GET", path)
            content = answer.json() if answer.status_code == 200 else []
            if isinstance(content, dict):
                lists = [one for one in content.values() if isinstance(one, list)]
                content = lists[0] if lists else [{"name": key} for key in content]
            self.known[path] = [one for one in content if isinstance(one, dict)]
        return self.known[path]

    def existing(self, path: str, field: str) -> Any:
        """The value of a field of something that is there, None where nothing is."""
        things = self.things(path)
        if not things:
            return None
        thing = self.random.choice(things)
        return next(
            (
                thing[name]
                for name in (field, f"action_{field}", "uid", "ca", "name")
                if name in thing
            ),
            None,
        )

    # ---- Requests ----

    def enrich(self, case: Any, good: bool) -> None:
        """Names what is there, and puts valid values in."""
        collection = case.path.partition("/{")[0]
        for name in case.path_parameters or ():
            found = self.existing(collection, name)
            if found is not None and self.random.random() < 0.7:
                case.path_parameters[name] = found
        if isinstance(case.body, dict):
            chance = 0.6 if good else 0.3
            if good and self.random.random() < 0.6:
                drawn = self.random.sample(sorted(case.body.items()), min(2, len(case.body)))
                few = dict(drawn[: self.random.choice((0, 0, 2))])
                names = self.random.choice(self.choices(case))
                case.body, chance = self.filled(dict.fromkeys(names), 1) | few, 0
            case.body = self.filled(case.body, chance)

    def choices(self, case: Any) -> tuple[tuple[str, ...], ...]:
        """The fields that good bodies of an operation have."""
        operation = self.document["paths"][case.path][case.method.lower()]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return choices(schema["$ref"].rpartition("/")[2], resolved(schema, self.document))

    def filled(self, content: Any, chance: float) -> Any:
        if isinstance(content, list):
            return [self.filled(one, chance) for one in content]
        if not isinstance(content, dict):
            return content
        made = {}
        for name, value in content.items():
            if self.random.random() >= chance:
                made[name] = self.filled(value, chance)
            elif name in WHERE:
                found = self.existing(WHERE[name], "uid")
                made[name] = [found] if name.endswith("s") else found
            elif name in self.material.fields:
                made[name] = self.material[name]
            else:
                made[name] = self.filled(value, chance)
        return made

    def send(self, case: Any, role: str, good: bool) -> None:
        label = f"{case.method.upper()} {case.path}"
        arguments = case.as_transport_kwargs(base_url=self.url)
        headers = dict(arguments.pop("headers", {}))
        if role != NOBODY or self.random.random() < 0.5:
            headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        headers.update(self.login(role))
        started = time.monotonic()
        try:
            response = self.sessions[role].request(
                headers=headers, timeout=90, allow_redirects=False, **arguments
            )
        except (requests.exceptions.InvalidHeader, UnicodeError, urllib3.exceptions.HTTPError):
            return  # nothing that HTTP can carry
        took = time.monotonic() - started
        self.sent[label, role] += 1
        self.statuses[label][response.status_code] += 1
        self.done[role] += response.status_code == 200
        waits = "wait_for_sync" in (case.query or {})
        self.slowest[label] = max(self.slowest[label], 0 if waits else took)
        path = response.request.path_url
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        text = response.content.decode("utf-8", "replace")
        wrong = faults(response.status_code, kind, text)
        wrong += self.canaries.seen(text, path) + self.canaries.seen(str(response.headers), path)
        if response.status_code == 200 and "fields" not in (case.query or {}):
            wrong += conforms(case, response)
        for one in wrong:
            asked = f"{case.method} {path[:300]} as {role}: {response.request.body!r:.2000}"
            self.found.setdefault(
                f"{label}: {one}", f"{asked} → {response.status_code} {text[:500]}"
            )

    def run(self, seconds: float) -> None:
        """Round by round, until the time is up; at least once all of them by every role."""
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end or number == 0:
            number += 1
            for operation in self.operations:
                for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                    self.round(operation, mode, self.random.getrandbits(32))
            self.heal()

    def round(self, operation: Any, mode: GenerationMode, number: int) -> None:
        good = mode is GenerationMode.POSITIVE

        @seed(number)
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
            verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def cases(case: Any) -> None:
            self.enrich(case, good)
            label = f"{case.method.upper()} {case.path}"
            missing = [role for role in ROLES if not self.sent[label, role]]
            others = self.random.choice(missing or ROLES)
            for role in ("admin", others):
                self.send(case, role, good)
            if case.method.upper() != "GET" and self.random.random() < 0.2:
                self.known.clear()

        try:
            cases()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if "Unsatisfiable" not in type(error).__name__:
                self.found.setdefault(f"the campaign itself, at {operation.label}", text[:2000])
        for role in ROLES:
            if not self.sent[operation.label, role]:
                self.plain(operation, role)

    def plain(self, operation: Any, role: str) -> None:
        """So that no role is left out by chance, and an operation without parameters is not."""
        names = re.findall(r"{(\w+)}", operation.path)
        inside = {
            name: self.existing(operation.path.partition("/{")[0], name) or 1 for name in names
        }
        case = operation.Case(path_parameters=inside, body={}, media_type="application/json")
        if operation.method.upper() == "GET":
            case = operation.Case(path_parameters=inside)
        self.send(case, role, True)

    def left_out(self) -> list[str]:
        """The operations that some role has not sent."""
        return [
            f"{label} by {role}"
            for label in self.labels
            for role in ROLES
            if not self.sent[label, role]
        ]


def conforms(case: Any, response: requests.Response) -> list[str]:
    """What the description says otherwise of an answer."""
    try:
        case.validate_response(
            response, checks=[content_type_conformance, response_schema_conformance]
        )
    except Failure as failure:
        return [f"not as described: {failure.title}"]
    except BaseExceptionGroup as group:
        return [f"not as described: {getattr(one, 'title', one)}" for one in group.exceptions]
    return []


def logged(config: Config, canaries: Canaries) -> Iterator[tuple[str, str]]:
    """The secrets that the server has written down in its log and in its event log: which and
    where, and what stands there."""
    for file in [config.home / "log", *config.home.glob("audit.jsonl*")]:
        lines = file.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            for secret in canaries.seen(line):
                yield f"{file.name}: {secret}", "\n".join(lines[number : number + 60])


def campaign(seconds: float, number: int, database: str) -> int:
    """A control plane that issues certificates, as a process, and a campaign against it. How much
    is wrong."""
    os.environ["CERTAUTH_CA_PASSPHRASE"] = PASSPHRASE
    with tempfile.TemporaryDirectory(prefix="certauth-campaign-") as folder:
        home = Path(folder) / "home"
        config = Config(home, "127.0.0.1", free_port(), database=database, ca_passphrase=PASSPHRASE)
        service.init(config, "acme", *ADMIN, NAMES)
        service.create_ca(config, "", "ec", again=False)
        serving = Serving(config)
        try:
            made = Campaign(config, Pki(), number)
            made.run(seconds)
        finally:
            serving.process.terminate()
            code = serving.process.wait(60)
        if code:
            made.found["the end"] = f"the server ended with {code}"
        made.store.close()
        for what, text in logged(config, made.canaries):
            made.found.setdefault(what, text[:5000])
        made.found |= {f"never sent: {one}": "" for one in made.left_out()}
        report(made)
        return len(made.found)


def report(made: Campaign) -> None:
    """What was sent, what was answered, and what was found."""
    statuses: Counter[int] = sum(made.statuses.values(), Counter())
    done = sum(200 in made.statuses[label] or 202 in made.statuses[label] for label in made.labels)
    print(f"{made.sent.total()} requests: {len(made.labels)} operations by {len(ROLES)} roles")
    print(f"answers: {dict(sorted(statuses.items()))}; {done} operations were done at least once")
    slow = sorted(made.slowest.items(), key=lambda one: -one[1])[:8]
    print("done, by role:", dict(made.done))
    print("slowest:", "; ".join(f"{label} {took:.2f} s" for label, took in slow))
    for label in made.labels:
        print(f"  {label} {dict(sorted(made.statuses[label].items()))}")
    for what, example in sorted(made.found.items()):
        print(f"FOUND {what}\n      {example}")
    print(f"{len(made.found)} findings")


def main() -> None:
    seconds, number = float(sys.argv[1]), int((sys.argv[2:3] or ["1"])[0])
    try:
        with ExitStack() as stack:
            database = stack.enter_context(postgres()).new() if "postgresql" in sys.argv else ""
            found = campaign(seconds, number, database)
    finally:
        remove_scratch()
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
