"""From other systems to the file that `apply` takes. Pure: texts and answers go in; what is
declared comes out, and a note for whatever could not be carried over, with why.

* An ACL file of a Redis or Valkey that logs clients in by certificate itself
  (`tls-auth-clients-user`): the user is the CN, or a URI, of the certificate.
* A pg_ident.conf: maps the CN or the whole subject to a user; regular expressions become patterns.

A URI is an identity of a user here too. A CN alone is not taken for one: the user is the whole
subject, which is more. It comes from the certificates themselves, where they are at hand, or from a
template such as `CN={},O=acme`. Several lines for one user are several identities.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Literal

from control.pki.guarded import CertificateError
from control.pki.reading import certificates_in
from control.policy import bindings, core, pasted, patterns
from control.policy import lines as policy
from control.records import Pattern, PatternKind

Fields = dict[str, Any]
Subjects = Callable[[str], str | None]  # the CN that a certificate logs in by → its subject
Of = Literal["CN", "URI"]


@dataclass
class Import:
    """What is declared, by section of the file, and what of the other system is not in it."""

    state: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, one: Fields) -> None:
        """One more object of a section of the state."""
        self.state.setdefault(section, []).append(one)

    def note(self, where: str, what: str) -> None:
        """What is not carried over, and where it stands."""
        self.notes.append(f"{where}: {what}")


# ---- Subjects ------------------------------------------------------------------------------------


def subjects_of(
    certificates: Iterable[tuple[str, bytes]], template: str, notes: Import
) -> Subjects:
    """The subjects of certificates (name and content) by their CN; then, where none has it, by the
    template."""
    found: dict[str, str] = {}
    for name, content in certificates:
        try:
            leaves = [core.identity(der) for der in certificates_in(content)]
        except (core.CoreError, CertificateError) as error:
            notes.note(name, f"no certificate: {error}")
            continue
        # Behind the first one there may be its CAs, or other clients.
        for leaf in [leaves[0], *(one for one in leaves[1:] if not one.ca)]:
            if not leaf.subject:
                notes.note(name, "its subject is empty: what it holds else can be an identity")
            for login in core.common_names(leaf.subject):
                if found.setdefault(login, leaf.subject) != leaf.subject:
                    notes.note(name, f"'{login}' has two subjects; {found[login]} is taken")
    return lambda login: found.get(login) or template.replace("{}", _escaped(login)) or None


def _escaped(value: str) -> str:
    """As a value in a distinguished name's text (RFC 4514, 2.4): it cannot add an attribute."""
    text = re.sub(r'([,+"\\<>;=#])', r"\\\1", value)
    return re.sub(r"^ | $", r"\\ ", text)


def _subject(out: Import, where: str, login: str, subjects: Subjects) -> str | None:
    """Canonical; None, and a note, where there is none."""
    text = subjects(login)
    if text is None:
        out.note(where, f"no certificate given has '{login}': give it, or a --subject template")
        return None
    try:
        return _read_name(out, where, text)
    except core.CoreError as error:
        out.note(where, f"'{text}' is not a subject: {error}")
        return None


def _read_name(out: Import, where: str, text: str) -> str:
    """Canonical, and a note where it can be read in two ways. Raises core.CoreError."""
    read = pasted.name(text)
    if read.remark:
        out.note(where, f"the subject was {read.remark}")
    return read.text


# ---- An ACL file ---------------------------------------------------------------------------------

# What is so here anyway, or is told of elsewhere.
SILENT = {"sanitize-payload", "skip-sanitize-payload", "resetpass", "nopass", "on", "off"}
SAME = {"allkeys": "~*", "allchannels": "&*", "allcommands": "+@all", "nocommands": "-@all"}


def from_acl_file(text: str, subjects: Subjects | None) -> Import:
    """`text` is an aclfile, or what ACL LIST prints, or the `user` lines of a redis.conf. Without
    `subjects`, names are URIs of certificates."""
    out = Import()
    names: dict[str, str] = {}  # ACL text → its name
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words or words[0].lower() != "user":
            continue
        where = f"line {number}, user '{words[1]}'" if len(words) > 1 else f"line {number}"
        if len(words) < 2:
            out.note(where, "there is no name in it")
        elif words[1] == "default":
            _default(out, where, words[2:])
        else:
            _acl_user(out, where, words[1], words[2:], names, subjects)
    return out


def _words(line: str) -> list[str]:
    """A selector, which has blanks in it, is one word."""
    return [one for one in policy.words(line) if one]


def _default(out: Import, where: str, rules: list[str]) -> None:
    if "off" in rules:
        out.note(where, "is off, as it is here unless a database says default_user: true")
    else:
        out.note(where, "is on: say default_user: true in the database, or it will be off")


def _acl_user(
    out: Import, where: str, name: str, rules: list[str], names: dict[str, str],
    subjects: Subjects | None,
) -> None:  # fmt: skip
    identity = _identity(out, where, name, subjects)
    acl = _acl(out, where, rules)
    if identity is None or acl is None:
        return
    if "off" in rules:
        out.note(where, "is off: it is left out, and anyone who has its certificate is nobody")
        return
    if not is_name(out, where, name, identity):
        return
    if acl not in names:
        role = names[acl] = object_name(name, names.values())
        out.add("redis_acls", {"name": role, "acl": acl})
        out.add("roles", {"name": role, "management": "none"})
    out.add("users", {**_user(name, [identity]), "roles": [names[acl]]})


def object_name(user: str, taken: Iterable[str]) -> str:
    """Of a role or an ACL, after a user; their names hold fewer characters (models.ObjectName)."""
    base = re.sub(r"[^a-zA-Z0-9_ \[\]()@,.;#-]+", "-", user)
    numbered = (f"{base}-{number}" for number in count(2))
    return next(name for name in chain([base], numbered) if name not in {*taken})


def _identity(out: Import, where: str, login: str, subjects: Subjects | None) -> Fields | None:
    if subjects is None:
        return {"uri": login}
    subject = _subject(out, where, login, subjects)
    return {"subject": subject} if subject is not None else None


def _user(name: str, identities: Sequence[Fields]) -> Fields:
    """A user of a file; with one subject, as it is in one of Redis Enterprise."""
    user = {"name": name, "auth_method": "certificate"}
    if len(identities) == 1 and "subject" in identities[0]:
        return {**user, "certificate_subject_line": identities[0]["subject"]}
    return {**user, "certificate_identities": list(identities)}


def is_name(out: Import, where: str, name: str, identity: Fields) -> bool:
    """Whether a user of this name and identity can be here; a note says why not."""
    try:
        policy.check_name(name)
        core.canonical(bindings.line_of(bindings.read(identity), [name]))
    except core.CoreError as error:
        out.note(where, f"cannot be a user here: {error}")
        return False
    return True


def _acl(out: Import, where: str, rules: list[str]) -> str | None:
    """The ACL of a user, in our words; None, and a note, where there is none."""
    kept: list[str] = []
    passwords = sum(rule[0] in ">#" and rule != f"#{policy.MARK}" for rule in rules)
    if passwords:
        out.note(where, f"its {passwords} passwords are left out: it logs in by certificate alone")
    if "nopass" in rules:
        out.note(where, "nopass is left out: a client without a certificate could be it")
    for rule in rules:
        if rule.lower() == "reset":
            kept.clear()
        elif rule[0] in ">#<!" or rule.lower() in SILENT:
            continue
        else:
            kept.append(SAME.get(rule.lower(), rule))
    try:
        return " ".join(policy.split_acl(" ".join(kept or ["-@all"])))
    except ValueError as error:
        out.note(where, str(error))
        return None


# ---- pg_ident.conf -------------------------------------------------------------------------------


@dataclass
class Ident:
    """What the lines so far have made: users with their subjects, patterns, and by the users of
    maps the word that theirs begin with here."""

    taken: dict[str, list[str]] = field(default_factory=dict)
    patterns: list[Fields] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)


def from_pg_ident(text: str, subjects: Subjects) -> Import:
    """Users without rights yet: PostgreSQL's are in the database."""
    out, made = Import(), Ident()
    expressions: list[tuple[str, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}"
        try:
            words = _ident_words(line)
        except ValueError as error:
            out.note(where, str(error))
            continue
        if len(words) == 3 and words[1].startswith("/"):
            expressions.append((where, words))
        elif words:
            _ident(out, where, words, made.taken, subjects)
    for where, words in expressions:  # now that all users are known
        _ident_pattern(out, where, words, made)
    for name, subjects_of_it in made.taken.items():
        out.add("users", _user(name, [{"subject": one} for one in subjects_of_it]))
    for one in made.patterns:
        out.add("patterns", one)
    if out.state:
        out.note("rights", "PostgreSQL keeps them in its databases: give the users roles here")
    return out


def _ident_words(line: str) -> list[str]:
    """As PostgreSQL reads a line: no backslash escapes anything. Raises ValueError."""
    words = shlex.shlex(line, posix=True, punctuation_chars=False)
    words.whitespace_split, words.escape, words.quotes = True, "", '"'
    return list(words)


def _ident(
    out: Import, where: str, words: list[str], taken: dict[str, list[str]], subjects: Subjects
) -> None:
    if words[0].startswith("include"):
        out.note(where, f"{words[0]} is not followed: import that file too")
        return
    if len(words) != 3:
        out.note(where, "a map has three words: its name, the certificate's, the user's")
        return
    _, login, user = words
    if _is_several(out, where, user):
        return
    subject = login if "=" in login else _subject(out, where, login, subjects)
    _mapped(out, where, user, subject, taken)


def _is_several(out: Import, where: str, user: str) -> bool:
    several = user == "all" or user[:1] in ("+", "/")
    if several:
        out.note(where, f"'{user}' stands for several users: a certificate here is one user")
    return several


def _mapped(
    out: Import, where: str, user: str, subject: str | None, taken: dict[str, list[str]]
) -> None:
    if subject is None:
        return
    try:
        subject = _read_name(out, where, subject)
    except core.CoreError as error:
        out.note(where, f"'{subject}' is not a subject: {error}")
        return
    owner = next((name for name, those in taken.items() if subject in those), None)
    if owner and owner != user:
        out.note(where, f"{subject} is '{owner}' already: a certificate here is one user")
    elif not owner and is_name(out, where, user, {"subject": subject}):
        taken.setdefault(user, []).append(subject)


GROUP = "\\1"
PART = re.compile(
    r"(?P<group>\(\.[*+]\))|(?P<any>\.[*+])|\\(?P<escaped>[^A-Za-z0-9{}])"
    r"|(?P<plain>[^\\.\[\](){}*+?|^$])"
)


def template_of(expression: str) -> str:
    """The template of a pattern that takes nothing that this regular expression of PostgreSQL does
    not: {a} is its group. Raises ValueError that says what cannot be one."""
    if not (expression.startswith("^") and expression.endswith("$")):
        raise ValueError("it does not begin with ^ and end with $, so it looks within a name")
    template, rest, numbers = "", expression[1:-1], count(1)
    while rest:
        found = PART.match(rest)
        if found is None:
            raise ValueError(f"nothing in a pattern is like '{rest}'")
        if found["group"] and "{a}" in template:
            raise ValueError("it has several groups")
        any_of_it = f"{{b{next(numbers)}}}" if found["any"] else ""
        template += "{a}" if found["group"] else any_of_it or found["escaped"] or found["plain"]
        rest = rest[found.end() :]
    if "{" not in template:
        raise ValueError("it has no .* or .+ in it: write the name itself")
    return template


def _ident_pattern(out: Import, where: str, words: list[str], made: Ident) -> None:
    """A regular expression as a pattern, where one takes no more than it does."""
    name, expression, user = words
    if _is_several(out, where, user):
        return
    try:
        template = template_of(expression[1:])
        one = _pattern(name, template, user, made)
        key = (one["kind"], one["template"])
        if any((other["kind"], other["template"]) == key for other in made.patterns):
            raise ValueError("a line before this has the same expression, and wins")
    except ValueError as error:
        out.note(where, f"{expression} is a regular expression, and no pattern: {error}")
        return
    made.patterns.append(one)
    out.note(where, f"what is beyond the characters of a placeholder: {expression} is the pattern "
             f"{one['template']}")  # fmt: skip
    if GROUP in user:
        word = one["user"].partition(":")[0]
        out.note(where, f"the names of its users: here they begin with '{word}:', and everybody "
                 "who fits is one")  # fmt: skip


def _pattern(name: str, template: str, user: str, made: Ident) -> Fields:
    """Raises ValueError."""
    kind: PatternKind = "subject" if "=" in template else "cn"
    title = object_name(name, [one["name"] for one in made.patterns])
    if GROUP in user:
        if "{a}" not in template:
            raise ValueError(f"it has no group for {GROUP}")
        word = made.words.setdefault(user, re.sub(r"[^A-Za-z0-9._~-]", "-", title))
        user = f"{word}:{user.replace(GROUP, '{a}')}"
    elif user not in made.taken:
        raise ValueError(
            f"all its certificates are the user '{user}', who has to have one that is named here: "
            "make that user, then the pattern"
        )
    spelled = patterns.spelled(Pattern(0, title, kind, template, user))
    return {"name": title, "kind": kind, "template": spelled.template, "user": spelled.user}


def lines(notes: Iterable[str]) -> Iterator[str]:
    """The notes, as lines for standard error."""
    yield from (f"not carried over: {note}" for note in notes)
