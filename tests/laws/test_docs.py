"""The paper against the code: what there is is documented, what is documented is there, what is
shown works; and the laws about who may know what (CONTRIBUTING.md, "House rules")."""

import ast
import importlib.metadata
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from control import service, store
from control.api import models
from control.api.app import create_app
from control.api.auditing import AddressFilterBody, AuditSettingsBody, UsernameFilterBody
from control.api.bdb_models import (
    ClientCertificateBody,
    EndpointBody,
    NewBdbBody,
    RolePermissionBody,
)
from control.api.certauth import ChangeBody, KnownBody
from control.api.certificates import CertificateBody
from control.api.cluster import AlertSettingBody, AlertSettingsBody
from control.api.identities import IdentityBody, OidBody
from control.api.issuers import RuleBody
from control.api.openapi import declared
from control.api.roles import ResourceBody
from control.api.system import BootstrapBody
from control.api.web import PUBLIC, Rule
from control.cli import quickstart
from control.cli.main import main
from control.domain.guard import PERMISSIONS
from control.http.bridge import peer_cert
from control.policy import core
from control.records import FIRST_ACLS, Management
from control.store import Store
from control.store.versions import known_versions
from tests.kit.pages import blocks, page, section
from tests.kit.reasons import reasons
from tests.kit.support import MODULE, ROOT, free_port, wait_until

PAPER = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)
COMMAND = Path(sys.executable).parent / "redis-certauth"


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[tuple[int, str]]:
    found = re.findall(r"^(#+) (.+)$", without_code(text), re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def subsections(name: str, title: str, level: int) -> dict[str, str]:
    """Headings of a level below `title`, without backticks, and what stands below each."""
    body = section(name, title)
    found = [heading for depth, heading in headings(body) if depth == level]
    return {heading.strip("`"): section(name, heading) for heading in found}


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in it, heads left out."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]
    marks = [i for i, row in enumerate(cells) if set("".join(row)) <= set("-| ")]
    return [row for i, row in enumerate(cells) if i not in marks and i + 1 not in marks]


def ticked(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", without_code(text))


def first_column(text: str) -> list[str]:
    return [word for row in rows(text) for word in ticked(row[0])]


def anchors(name: str) -> set[str]:
    """The fragments of a page, as the usual renderers make them of its headings."""
    titles = (re.sub(r"[^\w -]", "", title.lower()) for _, title in headings(page(name)))
    return {title.replace(" ", "-") for title in titles}


# ---- Reading the code ----------------------------------------------------------------------------


@cache
def source(name: str) -> str:
    path = ROOT / name
    files = sorted(path.glob("*.c")) if path.is_dir() else [path]
    return "\n".join(file.read_text() for file in files)


def joined(text: str) -> str:
    """C's adjacent string literals as one."""
    return re.sub(r'"\s+"', "", text)


def table(name: str, head: str) -> str:
    """The initialiser of a static table of a C file."""
    found = re.search(rf"{re.escape(head)}[^;]*?= \{{(.*?)\}};", source(name), re.DOTALL)
    assert found, f"{name} has no table {head}"
    return joined(found[1])


def strings(text: str) -> list[str]:
    return re.findall(r'"((?:[^"\\]|\\.)*)"', text)


Declared = dict[str, tuple[Rule, Any]]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Declared:
    """ "METHOD path" → what the handler declares, and the handler."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('docs')}/control.db")
    app = create_app(store, peer_cert)
    store.close()
    found = {}
    for route, rule, handler in declared(app):
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", route.rule)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}:
            found[f"{method} {path}"] = (rule, handler)
    return found


# ---- docs/reasons.md -----------------------------------------------------------------------------


def test_every_reason_has_its_words() -> None:
    """Each reason has a section, in the order of the checks, with what explain prints word for
    word."""
    assert [
        title.strip("`") for level, title in headings(page("docs/reasons.md")) if level == 2
    ] == [*reasons()]
    steps = table("module/core", "STEPS[REASON_COUNT]")
    steps = re.split(r"\[REASON_\w+\] =\s+", steps)[1:]
    assert len(steps) == len(reasons())
    for name, step in zip(reasons(), steps, strict=True):
        _, failed, cure = strings(step)
        said = section("docs/reasons.md", f"`{name}`")
        assert f"> {name}: {failed}\n" in said
        assert (f"> to change it: {cure}\n" in said) == bool(cure)


def test_every_refusal_has_a_cure() -> None:
    """Meaning, cause and cure; only the reason of a success needs no more than its name."""
    for name in reasons()[:-1]:
        said = section("docs/reasons.md", f"`{name}`")
        assert all(f"**{word}.**" in said for word in ("Meaning", "Cause", "Cure")), name


# ---- docs/policy.md ------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_values() -> None:
    """The table of settings is the parser's own, the default being the value that is 0."""
    known = {}
    for row in re.split(r"\[SET_\w+\] =\s+", table("module/core", "SETTING[SETTINGS]"))[1:]:
        name, *values = strings(row)[:-1]
        known[name] = ("unset" if "NULL" in row else values[0], values)
    said = {
        row[0].strip("`"): (row[2].strip("`"), ticked(row[1]))
        for row in rows(section("docs/policy.md", "`set`"))
    }
    assert said == known


def test_every_line_type_is_documented() -> None:
    """A section for each type in docs/policy.md, and a row in docs/reference.md."""
    types = strings(table("module/core", "TYPES[LINE_TYPES]"))
    assert set(subsections("docs/policy.md", "Lines", 3)) == set(types)
    told = {
        ticked(row[0])[0].split()[0] for row in rows(section("docs/reference.md", "Policy lines"))
    }
    assert told == set(types)


def test_every_kind_and_option_is_documented() -> None:
    """What bind and revoke take, by the names that the parser knows."""
    kinds = strings(table("module/core", "BIND_NAMES[BIND_KINDS]"))
    bind = section("docs/policy.md", "`bind`")
    assert first_column(bind) == kinds
    options = re.findall(r'LITERAL\("(\w+=)"\)', source("module/core"))
    assert set(re.findall(r"\*\*`(\w+=)`\*\*", bind)) == set(options)
    revoke = strings(table("module/core", "kinds[REVOKE_KINDS]"))
    assert first_column(section("docs/policy.md", "`revoke`")) == revoke


def test_every_attribute_type_is_documented() -> None:
    """The names by which the parts of a distinguished name may be called."""
    known = strings(re.sub(r"\{0x[^}]*\}", "", table("module/core", "ATTRIBUTES[]")))
    said = section("docs/policy.md", "Distinguished names")
    types = re.search(r"\* Types: (.*?), in any case", said, re.DOTALL)
    assert types
    assert set(ticked(types[1])) == set(known)


@pytest.mark.parametrize("name", PAPER)
def test_every_policy_line_shown_is_one(name: str) -> None:
    """Blocks of policy lines parse, each line of them."""
    for block in blocks(name, "policy"):
        for line in block.splitlines():
            core.canonical(line)


def test_two_spellings_are_one_name() -> None:
    """The two lines that are said to mean the same have one canonical text."""
    pairs = [block.splitlines() for block in blocks("docs/policy.md", "policy")]
    first, second = pairs[-1]
    assert core.canonical(first) == core.canonical(second)


def test_bounds_are_those_of_the_core() -> None:
    """Numbers of bytes in the paper are those of base.h."""
    bounds = dict(re.findall(r"^    (\w+) = (\d+),", source("module/core/base.h"), re.MULTILINE))
    said = page("docs/reasons.md") + page("docs/policy.md")
    for name in ("LINE_BYTES", "CERTIFICATE_BYTES", "NAME_BYTES", "SAN_BYTES"):
        assert f"{int(bounds[name]):,} bytes" in said
    assert f"{bounds['NAME_ATTRIBUTES']} attributes" in said


# ---- docs/module.md ------------------------------------------------------------------------------

GLUE = "module/server"


def commands() -> set[str]:
    """The commands of the module, a subcommand in place of its parent."""
    found = {name.upper() for name in re.findall(r'\{"(certauth\.\w+)", \w+', source(GLUE))}
    subcommands = re.search(r"POLICY_COMMANDS\[\] = \{(.*?)\};", source(GLUE), re.DOTALL)
    assert subcommands
    names = re.findall(r'\{"(\w+)", \w+', subcommands[1])
    return found - {"CERTAUTH.POLICY"} | {f"CERTAUTH.POLICY {name.upper()}" for name in names}


def test_every_command_is_documented() -> None:
    """A section for each in docs/module.md, and a row in docs/reference.md."""
    assert set(subsections("docs/module.md", "Commands", 3)) == commands()
    assert set(first_column(section("docs/reference.md", "Commands"))) == commands()


def test_every_field_of_a_reply_is_documented() -> None:
    """The names in the maps that commands answer."""
    named = r'reply_(?:pair|named|number|optional|name|text|hash)\(ctx, "([a-z_]+)"'
    plain = r'ReplyWithStringBuffer\(ctx, "([a-z_]+)"'
    fields = set(re.findall(named, source(GLUE))) | set(re.findall(plain, source(GLUE)))
    assert fields <= set(ticked(section("docs/module.md", "Commands")))


def test_every_option_of_a_command_is_documented() -> None:
    """The words that commands take, and those of the loadmodule line."""
    words = set(re.findall(r'string_is\(argv\[[^]]+\], "(\w+)"\)', source(GLUE)))
    upper = {word for word in words if word.isupper()}
    assert upper <= set(re.findall(r"\b[A-Z]{2,}\b", section("docs/module.md", "Commands")))
    said = {word.split()[0] for word in first_column(section("docs/module.md", "Loading it"))}
    assert said == words - upper - {"api", "told"}


def test_every_event_is_documented() -> None:
    """What CERTAUTH.LOG calls what happened."""
    events = set(strings(table(GLUE, "EVENTS[2][ACTION_LOGIN + 1]")))
    events |= set(strings(table(GLUE, "DOOR_EVENTS[]")))
    told = r'\b(?:end_session\(s, |record\(s, |tell\()"(\w+)"'
    events |= set(re.findall(told, source(GLUE)))
    assert set(first_column(section("docs/module.md", "`CERTAUTH.LOG`"))) == events


def test_every_error_is_documented() -> None:
    """The first words of the errors that the module answers."""
    texts = strings(joined(source(GLUE)))
    errors = {text.split()[0] for text in texts if re.match(r"[A-Z]{3,} [^<]", text)}
    assert (
        set(ticked(" ".join(row[0] for row in rows(section("docs/module.md", "Errors"))))) == errors
    )


def test_every_field_of_info_is_documented() -> None:
    """INFO certauth, a field for each reason included."""
    added = re.findall(r'InfoAddField\w+\(ctx, "(\w+)"', source(GLUE))
    fields = {f"certauth_{name}" for name in added}
    fields |= {"certauth_refused_<reason>", "certauth_handshakes_refused_<reason>"}
    assert set(first_column(section("docs/module.md", "INFO"))) == fields


def test_every_line_of_the_log_is_documented() -> None:
    """Each message of the module, between what varies in it, stands in the table."""
    said = " ".join(section("docs/module.md", "Log").split())
    calls = re.findall(r"RedisModule_Log\((.*?)\);", source(GLUE), re.DOTALL)
    assert len(calls) > 10
    for call in calls:
        message = strings(joined(call))[1]
        parts = re.split(r"%[-.*0-9]*l*[sud]", message)
        longest = max(parts, key=len).strip().strip("'")
        assert longest in said, message


# ---- docs/rest.md --------------------------------------------------------------------------------


def calls() -> dict[str, str]:
    """ "METHOD path" → what docs/rest.md says of it. A heading may name several methods."""
    found = {}
    for _, title in headings(page("docs/rest.md")):
        if named := re.fullmatch(r"((?:GET|PUT|POST|DELETE)(?:, \w+)*) (/\S+)", title):
            said = section("docs/rest.md", title)
            found |= {f"{method} {named[2]}": said for method in named[1].split(", ")}
    return found


def item(text: str, word: str) -> str:
    """The list item that begins with a word; "" where there is none."""
    found = re.search(rf"^\* {word}:(.*?)(?=^\* |^$|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def names_in(text: str) -> set[str]:
    """The fields that a list item names. What it says of each, in brackets or behind a semicolon,
    is left out; of a nested list only what stands in front counts."""
    nested = [
        re.sub(r":\s.*|\(.*?\)", "", one, flags=re.DOTALL) for one in text.split("\n  * ")[1:]
    ]
    if nested:
        return set(ticked(" ".join(nested)))
    while "(" in text:
        text = re.sub(r"\([^()]*\)", "", text.replace("](", "] ("), count=1)
    return set(ticked(text.split(";")[0]))


def test_every_route_is_documented(routes: Declared) -> None:
    """docs/rest.md has the calls that the application has."""
    assert set(calls()) == set(routes)


def test_the_overview_knows_the_paths(routes: Declared) -> None:
    """Its table has those that a set-up needs, and none that there is not."""
    paths = {call.split()[1] for call in routes}
    said = set(first_column(section("docs/reference.md", "REST")))
    assert said <= paths
    assert said >= {
        path for path in paths if re.fullmatch(r"/v1/(cluster|users|roles|redis_acls|bdbs)", path)
    }


def test_every_permission_is_documented(routes: Declared) -> None:
    """Each call with its own, and the table of who holds which."""
    for call, (rule, _) in routes.items():
        said = item(calls()[call], "Permission")
        if rule.permission == PUBLIC:
            assert said.strip() == "none", call
            continue
        assert ticked(said)[0] == rule.permission, call
        assert ("or the user itself" in said) == rule.own, call
    everybody = set(typing.get_args(Management))
    told = {}
    for name, held in rows(section("docs/rest.md", "Permissions")):
        who = everybody if held == "everybody" else set(ticked(held))
        told[name.strip("`")] = everybody - who if held.startswith("all but") else who
    assert told == {name: set(who) for name, who in PERMISSIONS.items()}


def test_every_field_of_a_body_is_documented(routes: Declared) -> None:
    """Required and optional ones of each call, and none that there is not."""
    for call, (rule, _) in routes.items():
        said = calls()[call]
        fields = rule.takes.model_fields if rule.takes else {}
        names = {name: field.alias or name for name, field in fields.items()}
        required = {names[name] for name, field in fields.items() if field.is_required()}
        told = names_in(item(said, "Required"))
        optional = names_in(item(said, "Optional"))
        assert required <= told, call
        assert not required & optional, call
        if "Required: what" not in said and rule.takes is not BootstrapBody:
            assert told | optional == set(names.values()), call


def test_every_parameter_of_a_query_is_documented(routes: Declared) -> None:
    """`dry_run` and `wait_for_sync` once for all, the others with their calls."""
    assert "`?dry_run` on every call that changes something" in page("docs/rest.md")
    assert "`?wait_for_sync=5` on every call" in page("docs/rest.md")
    for call, (rule, _) in routes.items():
        told = {word for word in names_in(item(calls()[call], "Query")) if word.isidentifier()}
        assert told == set(rule.query) - {"dry_run", "wait_for_sync"}, call


def fields_of(kind: Any) -> set[str]:
    """The fields of an answer, by the names that they have in JSON."""
    if typing.get_origin(kind):
        return set().union(*(fields_of(part) for part in typing.get_args(kind)))
    if not (inspect.isclass(kind) and issubclass(kind, BaseModel)):
        return set()
    found = set()
    for name, field in kind.model_fields.items():
        found |= {field.alias or name} | fields_of(field.annotation)
    return found


def test_every_field_of_an_answer_is_documented(routes: Declared) -> None:
    """Somewhere on the page: what GET answers stands with its PUT or POST."""
    said = set(ticked(page("docs/rest.md")))
    for call, (rule, _) in routes.items():
        assert fields_of(rule.answers) <= said, f"{call}: {fields_of(rule.answers) - said}"


def inner(kind: Any) -> Iterator[type[models.Body]]:
    """The models within the type of a field."""
    if inspect.isclass(kind) and issubclass(kind, models.Body):
        yield kind
    for part in typing.get_args(kind):
        yield from inner(part)


def test_every_object_is_documented() -> None:
    """The models within the bodies, as a table each."""
    titles = {
        models.SubjectBody: "Subjects",
        IdentityBody: "Certificate identities",
        OidBody: "Values by OID",
        EndpointBody: "Endpoints",
        ClientCertificateBody: "Client certificates",
        ResourceBody: "Resources",
        CertificateBody: "Certificate entries",
        RolePermissionBody: "Role permissions",
        AuditSettingsBody: "Audit settings",
        UsernameFilterBody: "Username filters",
        AddressFilterBody: "Address filters",
        AlertSettingsBody: "Alert settings",
        AlertSettingBody: "Alerts",
        ChangeBody: "Changes",
        KnownBody: "Known certificates",
        RuleBody: "Enrolment rules",
    }
    bodies = list(models.Body.__subclasses__())
    for one in bodies:
        bodies += one.__subclasses__()
    bodies = [one for one in bodies if one.__module__.startswith("control.")]
    fields = [field for one in bodies for field in one.model_fields.values()]
    within = {found for field in fields for found in inner(field.annotation)}
    assert within == {*titles, NewBdbBody}  # the last is that of POST /v1/bdbs
    for model, title in titles.items():
        said = rows(section("docs/rest.md", title))
        names = {field.alias or name for name, field in model.model_fields.items()}
        assert {word for row in said for word in ticked(row[0])} == names
        needed = {n for n, f in model.model_fields.items() if f.is_required()}
        marked = [row[0] for row in said if re.match(r"Required[.:]", row[1])]
        assert {word for cell in marked for word in ticked(cell)} == needed


def test_every_error_code_is_documented() -> None:
    """The codes in the source are those of the table, and so are those that calls name."""
    makers = r"Refusal\(\s*\d+,|(?:invalid|refused|conflict|forbidden|unauthorized)\("
    makers += r"|(?:Crl|Token)Error\("
    codes = set()
    for path in (ROOT / "control").rglob("*.py"):
        if path.parent.name != "ui":  # whose own are on its pages only
            codes |= set(re.findall(rf"\b(?:{makers})\s*\"(\w+)\"", path.read_text()))
    codes -= set(reasons())
    codes |= {f"{field}_already_exists" for field in ("name", "email", "certificate_subject_line")}
    codes |= {"url_already_exists", "ca_already_exists"}  # of issuers, of responders
    codes |= {"invalid_schema", "unknown_field", "missing_db_name", "method_not_allowed"}
    said = {code for row in rows(section("docs/rest.md", "Error codes")) for code in ticked(row[1])}
    assert said == codes
    fields = {
        name for model in vars(models).values() for name in getattr(model, "model_fields", ())
    }
    for call, text in calls().items():
        named = {
            word for word in ticked(item(text, "Errors")) if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)
        }
        assert named - fields <= codes, f"{call}: {named - codes}"


def test_the_first_acls_are_as_told() -> None:
    """Names of what `init` makes."""
    said = " ".join(section("docs/rest.md", "Redis ACLs").split())
    assert all(f"{acl.uid} `{acl.name}`" in said for acl in FIRST_ACLS)


# ---- docs/operating.md, CONTRIBUTING.md ----------------------------------------------------------


def usages(group: click.Group = main, above: str = "") -> Iterator[tuple[str, str, click.Command]]:
    """Each command's heading, its full name, and itself; those of groups too."""
    for name, command in group.commands.items():
        full = f"{above} {name}".strip()
        if isinstance(command, click.Group):
            yield from usages(command, full)
        else:
            yield full.split()[0], full, command


def test_every_command_of_the_cli_is_documented() -> None:
    """With all of its options and arguments; those that say how the API is reached, once."""
    told = subsections("docs/operating.md", "Commands", 3)
    everywhere = {word for word in ticked(told.pop("Asking the API")) if word.startswith("--")}
    assert everywhere == {f"--{name}" for name in ("profile", "url", "ca", "cert", "key",
                                                   "username", "json", "no-wait", "output",
                                                   "yes", "lines", "dry-run",
                                                   "context")}  # fmt: skip
    assert set(told) == set(main.commands)
    for heading, name, command in usages():
        full = f"redis-certauth {name}"
        usages_told = [" ".join(one.split()) for one in ticked(told[heading])]
        lines = [one for one in usages_told if f"{one} ".startswith(f"{full} ")]
        assert lines, f"{full} is not documented"
        options = {p.opts[0] for p in command.params if isinstance(p, click.Option)}
        if options & {"--profile", "--output"}:
            options -= everywhere - {"--dry-run"}
        arguments = {
            p.metavar or (p.name or "").upper()
            for p in command.params
            if isinstance(p, click.Argument)
        }
        assert set(re.findall(r"--[a-z-]+", lines[0])) == options, name
        assert arguments <= {word.strip("[]") for word in lines[0].split()}, name
    said = re.findall(r"^- `redis-certauth ", section("docs/operating.md", "Commands"), re.M)
    assert len(said) == sum(" " in name for _, name, _ in usages()), "a usage of no command"


def test_every_setting_of_the_control_plane_is_documented() -> None:
    """In certauth.toml and in the environment; the defaults are those of the code."""
    said = {row[0].strip("`"): row for row in rows(section("docs/operating.md", "Settings"))}
    assert set(said) == set(service.SETTINGS)
    config = service.Config(Path("x"))
    for name, row in said.items():
        assert row[1].strip("`") == f"CERTAUTH_{name.upper()}"
        default = getattr(config, name)
        assert row[2].strip("`") == str(default) if default else True


def test_no_other_variable_is_documented() -> None:
    """Every CERTAUTH_… that the paper names is read somewhere."""
    code = " ".join(
        path.read_text()
        for path in [ROOT / "Makefile", *ROOT.glob("tests/**/*.py"), *ROOT.glob(".ci/*")]
        if path.name != "test_docs.py"
    )
    known = {f"CERTAUTH_{name.upper()}" for name in service.SETTINGS}
    for name in PAPER:
        for variable in set(re.findall(r"\bCERTAUTH_[A-Z]+\b", page(name))):
            assert variable in known or variable in code, variable


def test_every_make_target_is_documented() -> None:
    """CONTRIBUTING.md has the targets of the Makefile; the README its two."""
    phony = re.search(r"^\.PHONY: (.*)$", source("Makefile"), re.MULTILINE)
    assert phony
    said = first_column(section("CONTRIBUTING.md", "Commands, in order"))
    assert {word.removeprefix("make ") for word in said} == set(phony[1].split())
    variables = set(re.findall(r"\$\(if \$\((\w+)\)", source("Makefile"))) | {"PYTHON"}
    assert variables <= set(ticked(page("CONTRIBUTING.md")))
    assert {"make run", "make test"} <= set(
        re.findall(r"^make \w+", page("README.md"), re.MULTILINE)
    )


# ---- What is shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
def test_every_block_parses(name: str) -> None:
    """Shell by bash, TOML and JSON by their parsers."""
    for block in blocks(name, "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for block in blocks(name, "toml"):
        assert set(tomllib.loads(block)) <= set(service.SETTINGS)
    for block in blocks(name, "json"):
        json.loads(block)


@pytest.mark.parametrize("name", PAPER)
def test_links_lead_somewhere(name: str) -> None:
    """To files of the project, and to headings in them; and none of them is an address of this
    machine."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page(name))):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if fragment:
            inside = file.resolve().relative_to(ROOT).as_posix()
            assert fragment in anchors(inside), target


@pytest.mark.parametrize("name", PAPER)
def test_lines_are_no_longer_than_a_hundred(name: str) -> None:
    """Tables are as wide as they are."""
    long = [line for line in page(name).splitlines() if len(line) > 100 and line[:1] != "|"]
    assert long == []


def test_what_is_said_to_be_tested_is() -> None:
    """docs/servers.md: each test that it names is in that file, and runs on as many servers."""
    named = 0
    for row in rows(section("docs/servers.md", "What holds where")):
        for test, file in re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", row[2]):
            found = re.search(rf"^def {test}\((.*?)\) ->", source(file), re.MULTILINE | re.DOTALL)
            assert found, f"{file} has no {test}"
            assert ("kind: Server" in found[1]) == (row[1] == "all"), test
            named += 1
    assert named > 20


def test_the_version_of_the_schema_is_that_of_this_release() -> None:
    """docs/servers.md, the table of versions: its last row."""
    version, protocol, schema = rows(section("docs/servers.md", "Versions"))[1]
    assert version == importlib.metadata.version("redis-certauth")
    assert protocol == str(core.PROTOCOL)
    assert schema == known_versions()[0]


def test_the_least_versions_are_those_that_the_module_tells() -> None:
    """docs/servers.md: the first release of each line without the published faults."""
    found = re.findall(r"(true|false), 0x(..)(..)(..)", table(GLUE, "mended MENDED"))
    told = {
        ("Valkey" if valkey == "true" else "Redis", ".".join(str(int(part, 16)) for part in parts))
        for valkey, *parts in found
    }
    written = {
        (name, version)
        for name, _, least in rows(section("docs/servers.md", "Published faults"))
        for version in re.findall(r"\d+\.\d+\.\d+", least)
    }
    assert written == told


def test_the_readme_shows_what_the_quickstart_says(tmp_path: Path) -> None:
    """The commands of the quick start are those of the walk-through, on its default ports."""
    config = service.Config(tmp_path / "control", port=9443)
    (tmp_path / "pki").mkdir()
    service.init(config, "quickstart", "quickstart", "a long password", quickstart.NAMES)
    options = quickstart.Options(tmp_path, 6380, 9443, 8443, "redis-server")
    service.create_ca(config, "", "ec", again=False)
    pki = quickstart.Pki(tmp_path / "pki", config)
    said = quickstart.walk_through(options, pki, "").replace(str(tmp_path), ".certauth")
    printed = [shlex.split(line) for line in said.splitlines() if line.startswith("   ")]
    screen = [shlex.split(block.replace("\\\n", "")) for block in blocks("README.md", "sh")[4:8]]
    assert screen == printed


@contextmanager
def background(script: str, folder: Path, environment: dict[str, str]) -> Iterator[list[str]]:
    """Runs a script of bash, which may leave jobs behind: its process group is ended with it. Gives
    what it printed, its standard error included."""
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(
            ["bash", "-euc", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        code = process.wait(100)
        said = (folder / "output").read_text()
        assert code == 0, said[-3000:]
        yield said.splitlines()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        wait_until(lambda: not has_members(process.pid), "what the script started has ended")


def has_members(group: int) -> bool:
    """Whether a process of that group is alive."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def environment(**more: str) -> dict[str, str]:
    """With this checkout's commands on PATH."""
    return {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}", **more}


def test_the_steps_set_up_a_server(tmp_path: Path) -> None:
    """The steps of docs/own-server.md, as they stand but for ports and the module's place: bob
    is in."""
    redis_port, api_port = free_port(), free_port()
    script = "".join(
        re.findall(
            r"```sh\n(.*?)```",
            section("docs/own-server.md", "On your own server, with a control plane"),
            re.DOTALL,
        )
    )
    for shown, real in (("6379", str(redis_port)), ("9443", str(api_port))):
        assert shown in script
        script = script.replace(shown, real)
    script = script.replace("/usr/lib/redis/modules/certauth.so", str(MODULE))
    script, last = script.rsplit("redis-cli", 1)
    with background(script, tmp_path, environment(CERTAUTH_PORT=str(api_port))):
        ask = ["redis-cli", *shlex.split(last)]

        def who() -> bool:
            done = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, timeout=10)
            return done.stdout == "bob\n"

        wait_until(who, "bob is in")


def test_every_call_of_the_rest_page_works(tmp_path: Path) -> None:
    """The examples of docs/rest.md, in their order, on what the quickstart starts."""
    examples = blocks("docs/rest.md", "sh")
    for call, said in calls().items():
        assert "```sh\n" in said or "\nAlways a 4" in said, call
    redis_port, api_port = free_port(), free_port()
    home = tmp_path / "home"
    start = [str(COMMAND), "quickstart", "--home", str(home)]
    start += ["--redis-port", str(redis_port), "--api-port", str(api_port)]
    start += ["--ui-port", str(free_port())]
    log = tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(
            lambda: (home / "ready.json").exists() or process.poll() is not None, "it is up", 40
        )
        assert process.poll() is None, log.read_text()
        script = "\n".join(examples).replace("9443", str(api_port))
        script = script.replace("curl -sS", "curl -sS --fail-with-body -w '\\n'")
        with background(script, home, environment()) as said:
            answers = [json.loads(line) for line in said if line.strip()]
    finally:
        process.terminate()
        process.wait(20)
    shown = re.findall(r"^(?:api [A-Z]|curl)(?!.* -o )", "\n".join(examples), re.MULTILINE)
    assert len(answers) == len(shown)
    told = (one["reason"] for one in answers if "reason" in one)
    assert [reason for reason in told if reason] == ["no_binding"]


# ---- Who may know what ---------------------------------------------------------------------------

# Which files may import what; everything that is not named here may be imported by nobody.
LAW = {
    "sqlalchemy": {"control/store"},
    "alembic": {"control/store"},
    "cryptography": {"control/pki"},
    "cffi": {"build.py"},
    "control._core": {"control/policy/core.py", "control/http/tls.py"},
    "redis": {"control/nodes/client.py"},
    "OpenSSL": {"control/pki", "control/http"},
    "uvicorn": {"control/http"},
    "argon2": {"control/domain/passwords.py"},
    "pydantic": {"control/api", "control/store"},
    "flask": {"control/api", "control/domain/guard.py", "control/ui"},
    "werkzeug": {"control/api", "control/http", "control/ui"},
    "jwt": {"control/domain/tokens.py", "control/pki/jose.py"},
    "click": {"control/cli"},
    "prometheus_client": {"control/domain/metrics.py"},
    "rich": {"control/cli"},
    "yaml": {"control/cli"},
}
# Each package imports those behind it only; records, errors and ages stand below all of them.
LAYERS = ("cli", "service", "ui", "api", "domain", "nodes", "store", "pki", "policy", "http")
PYTHON = [ROOT / "build.py", *sorted((ROOT / "control").rglob("*.py"))]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, and the column of the import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.col_offset) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.col_offset
            yield from ((f"{node.module}.{name.name}", node.col_offset) for name in node.names)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_library_has_its_owner(path: Path) -> None:
    """A file imports only what the law lets it; nothing is imported within a function."""
    name = path.relative_to(ROOT).as_posix()
    for module, column in imported(path):
        assert column == 0, f"{name}: {module} is imported within a function"
        for library, owners in LAW.items():
            if module == library or module.startswith(f"{library}."):
                assert any(name == one or name.startswith(f"{one}/") for one in owners), module


def package(module: str) -> int:
    """Where a module of the control plane stands, from the top: an index of LAYERS."""
    name = module.split(".")[1] if "." in module else ""
    return LAYERS.index(name) if name in LAYERS else len(LAYERS)


@pytest.mark.parametrize("path", PYTHON[1:], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_import_downward(path: Path) -> None:
    """What a package may know is what stands below it, types included."""
    here = package(".".join(path.relative_to(ROOT).parent.parts))
    for module, _ in imported(path):
        if module.startswith("control."):
            assert package(module) >= here, module


def test_every_package_has_its_layer() -> None:
    """A package that no layer names could import whatever it wants."""
    found = {path.parent.name for path in (ROOT / "control").glob("*/__init__.py")}
    assert found == set(LAYERS)
    assert {path.stem for path in (ROOT / "control").glob("*.py")} == {
        "__init__",
        "ages",
        "errors",
        "records",
        "reports",
        "words",
    }


def test_the_map_of_changes_names_files_that_are_there() -> None:
    """CONTRIBUTING, "Where a change goes": ten everyday changes, each in a few files."""
    found = rows(section("CONTRIBUTING.md", "Where a change goes"))
    assert len(found) == 10
    for change, files in found:
        named = re.findall(r"`([\w./]+/[\w./]*)`", files)
        assert 1 <= len(named) <= 4, change
        for name in named:
            assert (ROOT / name).exists(), (change, name)


# Longest file, in lines: one that grows above it is two things.
LONGEST = {"control": 450, "module/server": 600, "module/core": 600}
LONGER = {"module/core/line.c": 750, "module/core/journal.c": 750}  # a grammar, and a format
LONGER["control/policy/core.py"] = 550  # the seam: all that cffi is asked


def test_no_file_is_longer_than_a_room() -> None:
    """A file is one thing, which a reader can hold in mind."""
    for folder, most in LONGEST.items():
        for path in sorted((ROOT / folder).rglob("*.[chp]*")):
            if path.suffix in (".c", ".h", ".py"):
                name = path.relative_to(ROOT).as_posix()
                lines = len(path.read_text().splitlines())
                assert lines <= LONGER.get(name, most), name


def test_no_test_imports_a_test() -> None:
    """What tests share is in tests/kit. (The laws of the store hold on PostgreSQL too, and the
    fuzzer begins with what the tests of the core read.)"""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        found = [module for module, _ in imported(path) if ".test_" in module]
        assert not found or path.name == "test_postgres.py", (path, found)


def test_the_store_is_reached_through_its_front() -> None:
    """Other packages import the names of control/store/__init__.py, and never its rooms or its
    kernel."""
    for path in PYTHON[1:]:
        if path.is_relative_to(ROOT / "control" / "store"):
            continue
        named = {one for one, _ in imported(path) if one.startswith("control.store.")}
        assert named <= {f"control.store.{one}" for one in store.__all__}, path.name
        assert "._kernel" not in path.read_text(), path.name


def hinted(hint: object) -> Iterator[object]:
    """A type and the types within it."""
    yield hint
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from hinted(part)


def test_no_type_of_the_database_leaves_the_store(tmp_path: Path) -> None:
    """No signature of the store and its services has a type of SQLAlchemy: then no expression of
    SQL is built elsewhere either."""
    opened = Store(f"sqlite:///{tmp_path}/control.db")
    services = {type(one) for name, one in vars(opened).items() if not name.startswith("_")}
    opened.close()
    found = [one for one in map(vars(store).get, store.__all__) if inspect.isroutine(one)]
    kinds = {one for one in map(vars(store).get, store.__all__) if inspect.isclass(one)}
    for kind in services | kinds:
        public = {name for name in vars(kind) if not name.startswith("_")} | {"__init__"}
        found += [getattr(kind, name) for name in public if inspect.isroutine(getattr(kind, name))]
    assert Store.rehearse in found
    assert len(services) > 10
    for method in found:
        hints = getattr(method, "__annotations__", {}) and typing.get_type_hints(method)
        for one in (part for hint in hints.values() for part in hinted(hint)):
            assert not getattr(one, "__module__", "").startswith("sqlalchemy"), method


def test_the_page_asks_the_api_and_nothing_else() -> None:
    """No file of it reaches the store, the nodes or the rules by itself; its application takes a
    key from the cluster when it is made."""
    for path in (ROOT / "control" / "ui").glob("*.py"):
        found = {module for module, _ in imported(path) if module.startswith("control.")}
        below = ("store", "nodes", "policy.lines", "domain.tokens", "domain.passwords", "service")
        taken = {one for one in found if one.startswith(tuple(f"control.{it}" for it in below))}
        taken -= {one for one in taken if one.startswith("control.nodes.waiting")}
        assert not taken, path.name
        assert path.name == "app.py" or "control.api.web" not in found, path.name


def test_the_law_knows_every_dependency() -> None:
    """Each library of pyproject.toml has an owner, and each owner uses it."""
    project = tomllib.loads(source("pyproject.toml"))["project"]
    names = {re.split(r"[<>=~!]", one)[0].lower() for one in project["dependencies"]}
    modules = {"argon2-cffi": "argon2", "pyjwt": "jwt", "pyopenssl": "OpenSSL", "pyyaml": "yaml"}
    modules["prometheus-client"] = "prometheus_client"
    indirect = {"httptools"}  # uvicorn's parser
    for name in names - indirect:
        assert modules.get(name, name) in LAW, name
    used = {module for path in PYTHON for module, _ in imported(path)}
    for library in LAW:
        assert any(one == library or one.startswith(f"{library}.") for one in used), library


def test_the_pins_are_those_of_every_dependency() -> None:
    """constraints.txt names what an installation brings, those below those too, and no more.
    (Before 3.11.3 redis needs async-timeout.)"""

    def spelled(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pinned = {
        spelled(line.partition("==")[0])
        for line in source("constraints.txt").splitlines()
        if "==" in line
    }
    project = tomllib.loads(source("pyproject.toml"))["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    found = set()
    while waiting:
        wanted, _, marker = waiting.pop().partition(";")
        name = spelled(re.split(r"[^\w.-]", wanted.strip())[0])
        extras = re.search(r"\[(.*?)\]", wanted)
        if name in found or "extra" in marker or "python" in marker or "platform" in marker:
            continue
        found.add(name)
        for one in importlib.metadata.requires(name) or []:
            asked = [f'extra == "{extra}"' for extra in (extras[1].split(",") if extras else [])]
            waiting.append(one.partition(";")[0] if any(it in one for it in asked) else one)
    assert found - {"typing-extensions"} <= pinned
    assert pinned - found <= {"async-timeout", "typing-extensions"}


def test_only_the_glue_knows_redis() -> None:
    """The core is a library without the server: the module's API is named in one folder."""
    sources = (ROOT / "module").rglob("*.[ch]")
    found = {path.parent for path in sources if "RedisModule_" in path.read_text()}
    assert found == {ROOT / "module/server"}


def test_calls_in_the_glue_point_downward() -> None:
    """server.h names its files from the bottom up: none calls a function of a file above it. (What
    is to be called from below, such as act, is handed down as a pointer at the start.)"""
    _, *parts = re.split(r"/\* ---- (\w+\.c) ---- \*/", source("module/server/server.h"))
    rooms = dict(zip(parts[::2], parts[1::2], strict=True))
    offers = {
        name: re.findall(r"^(?:\w[\w ]*[ *])(\w+)\(", text, re.MULTILINE)
        for name, text in rooms.items()
    }
    assert len(offers) > 20
    assert all(offers.values())
    for at, name in enumerate(offers):
        above = {one for later in [*offers][at + 1 :] for one in offers[later]}
        text = source(f"module/server/{name}")
        code = re.sub(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)
        calls = set(re.findall(r"(?<![.>\w])(\w+)\(", code))
        assert not calls & above, f"{name} calls upward"


@pytest.mark.parametrize(
    "name",
    ["cert.c", "san.c", "pem.c", "signature.c", "policy.c", "decide.c", "peer.c", "issuer.c"],
)
def test_certificate_bytes_are_no_c_strings(name: str) -> None:
    """An embedded NUL ends no name where the length comes with it. (The label of a PEM block is a
    string that libcrypto has made.)"""
    text = source(f"module/core/{name}").replace("strcmp(name, PEM_STRING_X509)", "")
    calls = r"\b(?:strn?len|strn?cpy|strn?cmp|strn?casecmp|strn?cat|v?sprintf)\("
    assert re.findall(calls, text) == []


def files() -> list[Path]:
    """What git would take: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return [
            path for path in ROOT.rglob("*") if path.suffix in {".c", ".h", ".py", ".md", ".toml"}
        ]
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in found if path.is_file()]


def test_no_file_knows_a_registry_or_a_machine() -> None:
    """Where packages come from is a machine's configuration, and its paths are no other's."""
    hosts = (
        r"pypi[.]org|pythonhosted[.]org|(?:deb|security|ftp)[.]debian[.]org|archive[.]ubuntu[.]com"
    )
    hosts += r"|registry[.]npmjs|crates[.]io|proxy[.]golang|(?:ghcr|quay)[.]io|registry-1[.]docker"
    machine = r"/wor[k]/|/roo[t]/|/hom[e]/\w+/"
    for path in files():
        text = path.read_text(errors="replace")
        assert re.findall(f"{hosts}|{machine}", text) == [], path


def test_nothing_is_left_to_do() -> None:
    """A thing to be done is an issue, and not a word in a file."""
    for path in (one for one in files() if one.suffix != ".png"):
        assert (
            re.findall(r"\bTO[D]O\b|\bFIXM[E]\b|\bXX[X]\b", path.read_text(errors="replace")) == []
        ), path
