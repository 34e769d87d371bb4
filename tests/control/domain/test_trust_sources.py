"""/v1/certauth/trust_sources: CAs are followed, within bounds, and never to none."""

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.domain import following, trust_sources
from control.pki import spiffe
from control.pki.guarded import CertificateError
from control.records import TrustSource
from tests.kit.https_site import HttpsSite, https_site
from tests.kit.rest import Answer, ControlPlane
from tests.kit.support import Cert, Pki, root

SOURCES = "/v1/certauth/trust_sources"


@pytest.fixture(scope="module")
def cas() -> list[Cert]:
    return [root(f"CN=CA {number}") for number in range(6)]


@pytest.fixture
def site(pki: Pki) -> Iterator[HttpsSite]:
    with https_site(pki) as found:
        yield found


def pem(*cas: Cert) -> str:
    return "".join(one.pem.decode() for one in cas)


def bundle(*cas: Cert, sequence: int = 1, hint: int = 60, **more: Any) -> str:
    keys = [
        {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(one.der).decode()]}
        for one in cas
    ]
    other = {"use": "jwt-svid", "kty": "EC", "kid": "k"}
    made = {"keys": [*keys, other], "spiffe_sequence": sequence, "spiffe_refresh_hint": hint}
    return json.dumps({**made, **more})


def follow(api: ControlPlane, location: object, **more: Any) -> Answer:
    body = {"name": "followed", "location": str(location), "trust_grows": True, "interval": 60}
    return api(f"POST {SOURCES}", {**body, **more})


def look(api: ControlPlane, seconds: float = 61) -> Any:
    following.look(api.store, int(time.time() + seconds))
    return api.ok(f"GET {SOURCES}/1")


def trusted(api: ControlPlane) -> set[str]:
    """The names of the CAs that clients come from."""
    found = api.ok("GET /v1/certauth/ca")["cas"]
    return {one["subject"].removeprefix("CN=CA ") for one in found if 0 in one["admits"]}


def events(api: ControlPlane, kind: str) -> list[Any]:
    return [one for one in api.ok("GET /v1/logs") if one["type"] == f"trust_source_{kind}"]


def test_a_file_is_followed(api: ControlPlane, cas: list[Cert], tmp_path: Path) -> None:
    """What it gives is in force with the answer; from then on what comes and goes is in force when
    it is looked at, with an event that names it, and a number that says when it was read."""
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    made = follow(api, file).json
    assert (len(made["cas"]), made["problem"], made["waits"]) == (1, "", None)
    assert trusted(api) == {"0"}
    file.write_text(pem(cas[0], cas[1]))
    look(api, 30)
    assert trusted(api) == {"0"}
    assert look(api)["fetched"]
    assert trusted(api) == {"0", "1"}
    file.write_text(pem(cas[1]))
    look(api, 122)
    assert trusted(api) == {"1"}
    last = events(api, "changed")[-1]
    assert (last["added"], last["removed"]) == ([], ["CN=CA 0"])
    look(api, 183)
    assert len(events(api, "changed")) == 3
    told = api.client.get("/metrics", auth=("admin", "the administrator's password")).text
    assert 'certauth_trust_source_failed{source="followed"} 0' in told


def test_more_than_it_may_waits_for_an_administrator(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    """Who sees what would come and go, and accepts this and nothing else."""
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    assert follow(api, file, most=1).status == 200
    file.write_text(pem(*cas[1:4]))
    for seconds in (61, 122):
        found = look(api, seconds)
        assert "3 CAs would come at once, and 1 may" in found["problem"]
    assert trusted(api) == {"0"}
    assert len(events(api, "waiting")) == 1
    waits = found["waits"]
    assert (waits["added"], waits["removed"]) == (
        ["CN=CA 1", "CN=CA 2", "CN=CA 3"], ["CN=CA 0"],
    )  # fmt: skip
    answer = api(f"POST {SOURCES}/1/accept", {"digest": "ab" * 32})
    assert (answer.status, answer.code) == (409, "trust_source_changed")
    assert api.ok(f"POST {SOURCES}/1/accept", {"digest": waits["digest"]})["waits"] is None
    assert trusted(api) == {"1", "2", "3"}
    assert look(api, 200)["problem"] == ""
    file.write_text(pem(cas[1]))
    assert "2 CAs would go at once" in look(api, 300)["problem"]
    file.write_text(pem(*cas[1:4]))
    assert look(api, 400)["waits"] is None


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "rubbish": b"hello",
    "json": b"{",
    "no keys": b'{"keys": []}',
    "keys that are none": b'{"keys": [1]}',
    "a name twice": b'{"keys": [], "keys": []}',
    "no certificate": b'{"keys": [{"use": "x509-svid"}]}',
    "no base64": b'{"keys": [{"use": "x509-svid", "x5c": ["!"]}]}',
    "no DER": b'{"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}',
    "too much": b"x" * (1 << 20) + b"x",
}


def test_what_cannot_be_read_changes_nothing(
    api: ControlPlane, pki: Pki, cas: list[Cert], tmp_path: Path
) -> None:
    """It is told once by its reason, with the age of what counts; never are there none."""
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    assert follow(api, file).status == 200
    contents = {**RUBBISH, "a leaf": pki.alice.pem, "older": bundle(cas[1], sequence=-1).encode()}
    for number, (name, content) in enumerate(contents.items(), 1):
        file.write_bytes(content)
        found = look(api, number * 61)
        assert found["problem"], name
        assert (trusted(api), len(found["cas"])) == ({"0"}, 1), name
    file.unlink()
    assert "No such file" in look(api, 2000)["problem"]
    os.mkfifo(file)
    assert "it is not a file" in look(api, 3000)["problem"]
    file.unlink()
    file.mkdir()
    assert look(api, 4000)["problem"]
    file.rmdir()
    file.write_text(pem(cas[0], cas[1]))
    assert look(api, 5000)["problem"] == ""
    assert trusted(api) == {"0", "1"}


def test_a_bundle_endpoint_is_followed(api: ControlPlane, cas: list[Cert], site: HttpsSite) -> None:
    """By https, as often as it says; an older bundle gives nothing back, and a redirect is not
    followed."""
    site.put("/bundle", bundle(cas[0], sequence=7, hint=20))
    url = f"{site.url}/bundle"
    assert follow(api, url, ca=site.ca, interval=3600).status == 200
    assert trusted(api) == {"0"}
    site.put("/bundle", bundle(cas[0], cas[1], sequence=8, hint=1))
    look(api, 21)
    assert trusted(api) == {"0", "1"}
    asked = len(site.asked)
    look(api, 26)
    assert len(site.asked) == asked  # ten seconds are the least
    site.put("/bundle", bundle(cas[0], sequence=7))
    assert "is older (7)" in look(api, 40)["problem"]
    for status, content, why in (
        (302, site.url, "redirects are not followed"), (500, "", "answered 500"),
        (200, json.dumps({"keys": [], "spiffe_sequence": 9}), "has no CA"),
    ):  # fmt: skip
        site.put("/bundle", content, status)
        assert why in look(api, 200 + len(site.asked) * 100)["problem"]
    assert trusted(api) == {"0", "1"}


def test_what_administrators_do_stays(api: ControlPlane, cas: list[Cert], tmp_path: Path) -> None:
    """What they put beside it, and what they took away of what it gave."""
    api.trust(cas[5], login=False)
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0], cas[1]))
    assert follow(api, file).status == 200
    assert trusted(api) == {"0", "1", "5"}
    entry = {"name": "mtls_trusted_ca", "certificate": pem(cas[1], cas[5])}
    api.ok("PUT /v1/cluster/update_cert?force", entry)
    look(api)
    assert trusted(api) == {"1", "5"}
    file.write_text(pem(cas[0], cas[2]))
    look(api, 122)
    assert trusted(api) == {"2", "5"}
    api.ok(f"DELETE {SOURCES}/1")
    assert trusted(api) == {"2", "5"}


def test_two_sources_may_give_one_ca(api: ControlPlane, cas: list[Cert], tmp_path: Path) -> None:
    """It goes when neither gives it any more."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(pem(cas[0], cas[1]))
    second.write_text(pem(cas[1]))
    assert follow(api, first).status == 200
    assert follow(api, second, name="second").status == 200
    first.write_text(pem(cas[0]))
    look(api)
    assert trusted(api) == {"0", "1"}
    second.write_text(pem(cas[2]))
    look(api, 122)
    assert trusted(api) == {"0", "2"}


def test_a_database_has_sources_of_its_own(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    """Its policy follows, and no other's."""
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    api.database(tls_mode="disabled")
    assert follow(api, file, bdb_uid=1).status == 200
    file.write_text(pem(cas[0], cas[1]))
    look(api)
    lines = {line for line in api.lines() if line.startswith("ca ")}
    assert lines == {f"ca {base64.b64encode(one.der).decode()}" for one in cas[:2]}
    assert api.store.settings.trust().cas == ()
    assert follow(api, file, name="other", bdb_uid=9).code == "not_found"


def test_more_trust_wants_a_yes_and_a_dry_run_says_what_comes(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    api.trust(cas[5], login=False)
    answer = follow(api, file, trust_grows=False)
    assert (answer.status, answer.code) == (406, "trust_grows")
    body = {"name": "x", "location": str(file), "trust_grows": True}
    assert api.ok(f"POST {SOURCES}?dry_run", body)["warnings"] == [
        "this CA would be trusted: CN=CA 0"
    ]
    assert (trusted(api), api.ok(f"GET {SOURCES}")) == ({"5"}, [])


def test_attack_a_source_is_turned_into_one_that_brings_more_by_itself(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    """Another location, or more CAs at once, is trust that grows without a further question: it
    wants the yes too, also where the source gives nothing new today. Less of it wants none."""
    api.trust(cas[0], login=False)
    file, other = tmp_path / "trust.pem", tmp_path / "other.pem"
    file.write_text(pem(cas[0]))
    other.write_text(pem(*cas))
    answer = follow(api, file, trust_grows=False)
    assert (answer.status, answer.code) == (406, "trust_grows")
    assert "up to 2 at each check" in answer.text
    assert follow(api, file, trust_grows=False, most=0).status == 200
    put, made = f"PUT {SOURCES}/1", api.ok(f"GET {SOURCES}/1")
    assert api.ok(put, {"interval": 99, "location": str(other)})["location"] == str(other)
    for more in ({"most": 1}, {"most": 9, "location": str(file)}, {**made, "most": 1}):
        for call in (put, f"{put}?dry_run"):
            answer = api(call, more)
            assert (answer.status, answer.code) == (406, "trust_grows"), more
            assert "without an administrator, from /" in answer.text
    assert api.ok(f"GET {SOURCES}/1")["most"] == 0
    api.ok(put, {"most": 3, "trust_grows": True})
    answer = api(put, {"location": str(file)})
    assert (answer.status, answer.code) == (406, "trust_grows")
    for fewer in ({"most": 3}, {"most": 2}, {"location": str(other)}, {"name": "x"}):
        assert api(put, fewer).status == 200
    assert trusted(api) == {"0"}


def test_a_source_is_made_whole_or_not_at_all(
    api: ControlPlane, cas: list[Cert], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another administrator changes the CAs meanwhile, and where its database is locked:
    what was refused is not there, and can be sent again."""
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    put = trust_sources.put

    def late(*arguments: Any) -> None:
        api.trust(cas[5], login=False)
        put(*arguments)

    monkeypatch.setattr(trust_sources, "put", late)
    assert follow(api, file).code == "config_edit_conflict"
    assert (trusted(api), api.ok(f"GET {SOURCES}")) == ({"5"}, [])
    monkeypatch.setattr(trust_sources, "put", put)
    assert follow(api, file).status == 200
    assert trusted(api) == {"0", "5"}


def test_attack_nothing_left_of_a_source_is_not_everything_of_the_cluster(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    """A database without CAs of its own has those of the cluster: more than it ever trusted."""
    api.trust(cas[5], login=False)
    api.database(tls_mode="disabled")
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0], cas[1]))
    assert follow(api, file, bdb_uid=1, most=9).status == 200
    own = {"authentication_ssl_client_certs": [{"client_cert": pem(cas[0])}]}
    api.ok("PUT /v1/bdbs/1", own)  # an administrator takes the other one away
    before = api.lines()
    file.write_text(pem(cas[1]))
    found = look(api)
    assert found["problem"]
    if found["waits"]:
        assert api(f"POST {SOURCES}/1/accept", {"digest": found["waits"]["digest"]}).status >= 400
    assert api.lines() == before


def test_attack_a_source_takes_a_database_from_the_clients_of_the_cluster(
    api: ControlPlane, cas: list[Cert], tmp_path: Path
) -> None:
    """One without CAs of its own has those of the cluster, until the first of its own comes: who
    is cut off by that is said first, and no source does it by itself."""
    alice = cas[5].issue("CN=alice")
    api.trust(cas[5], login=False)
    api.certificate_user("alice", "CN=alice")
    api.database(tls_mode="disabled")
    live = {"user": "alice", "cert": alice.fingerprint, "path": [cas[5].key_id]}
    api.app.extensions["ask"] = lambda *_, **__: {"127.0.0.1:1": [live]}
    file = tmp_path / "trust.pem"
    file.write_text(pem(cas[0]))
    refused = follow(api, file, bdb_uid=1)
    assert (refused.status, refused.code) == (406, "ca_in_use")
    assert "alice" in refused.text
    body = {"name": "followed", "location": str(file), "trust_grows": True, "bdb_uid": 1}
    api.ok(f"POST {SOURCES}?force", body)
    api.ok("PUT /v1/bdbs/1?force", {"authentication_ssl_client_certs": [], "trust_grows": True})
    before = api.lines()
    file.write_text(pem(cas[0], cas[1]))
    found = look(api, 301)
    assert "those of the cluster would go" in found["problem"]
    assert (found["waits"]["added"], api.lines()) == (["CN=CA 1"], before)
    accept = f"POST {SOURCES}/1/accept"
    assert api(accept, {"digest": found["waits"]["digest"]}).code == "ca_in_use"


def test_a_location_that_is_none_is_refused(api: ControlPlane, tmp_path: Path) -> None:
    for location in ("", "trust.pem", "/etc/../x", "http://ca.example/x", "https://a:b@ca/x",
                     "https://169.254.169.254/x", "/dev/zero", str(tmp_path / "none")):  # fmt: skip
        answer = follow(api, location)
        assert answer.status == 400, (location, answer.json)


def test_a_bundle_is_read_to_the_letter(cas: list[Cert]) -> None:
    """Numbers that are none and two certificates in a key are refused."""
    found = spiffe.read(bundle(cas[0], cas[0], cas[1]).encode())
    assert found == spiffe.Bundle((cas[0].der, cas[1].der), 1, 60)
    for more in ({"spiffe_sequence": "1"}, {"spiffe_refresh_hint": True},
                 {"keys": [{"use": "x509-svid", "x5c": ["AAAA", "AAAA"]}]},
                 {"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}] * 1001}):  # fmt: skip
        with pytest.raises(CertificateError):
            spiffe.read(bundle(cas[0], **more).encode())


# ---- Attacks: sources that are no more ----


def read_before(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]
) -> None:
    """Looks at the source while `change` is made behind what was read, and before it counts."""
    found = trust_sources.read

    def slow(source: TrustSource) -> spiffe.Bundle:
        bundle = found(source)
        change()
        return bundle

    monkeypatch.setattr(trust_sources, "read", slow)
    following.look(api.store, int(time.time()) + 61)
    monkeypatch.setattr(trust_sources, "read", found)


@pytest.mark.parametrize("bdb_uid", [0, 1])
def test_attack_what_was_read_of_a_source_that_was_left_meanwhile_is_not_in_force(
    api: ControlPlane,
    cas: list[Cert],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bdb_uid: int,
) -> None:
    """A look may take half a minute, and the source may be left for a reason."""
    api.database(tls_mode="disabled")
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    old.write_text(pem(cas[0]))
    new.write_text(pem(cas[0]))
    assert follow(api, old, bdb_uid=bdb_uid).status == 200
    old.write_text(pem(cas[0], cas[1]))
    before = api.lines()
    put = f"PUT {SOURCES}/1"
    meant = {"trust_grows": True}
    read_before(api, monkeypatch, lambda: api.ok(put, {"location": str(new), **meant}))
    assert api.lines() == before
    api.ok(put, {"location": str(old), **meant})
    read_before(api, monkeypatch, lambda: api.ok(put, {"most": 0}))
    assert api.lines() == before
    read_before(api, monkeypatch, lambda: api.ok(f"DELETE {SOURCES}/1"))
    assert api.lines() == before
    assert api.ok(f"GET {SOURCES}") == []


def test_another_endpoint_counts_its_bundles_from_its_own_number(
    api: ControlPlane, cas: list[Cert], site: HttpsSite
) -> None:
    """Else it would be older for good than the one before; what waits is that one's too."""
    site.put("/old", bundle(cas[0], sequence=700))
    site.put("/new", bundle(cas[0], cas[1], sequence=3))
    assert follow(api, f"{site.url}/old", ca=site.ca).status == 200
    site.put("/old", bundle(*cas[:5], sequence=701))
    assert look(api)["waits"]
    api.ok(f"PUT {SOURCES}/1", {"location": f"{site.url}/new", "trust_grows": True})
    found = api.ok(f"GET {SOURCES}/1")
    assert (found["waits"], len(found["cas"])) == (None, 1)
    assert look(api, 122)["problem"] == ""
    assert trusted(api) == {"0", "1"}
    site.put("/new", bundle(cas[0], sequence=2))
    assert "is older (2)" in look(api, 200)["problem"]
