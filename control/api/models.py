"""What all bodies and answers of the REST API have in common; those of a noun are beside its
handlers. Handlers build plain dicts: an answer's model is what control/api/openapi.py describes and
tests compare with; a field without a default is in every answer.

Fields of Redis Enterprise that mean nothing here, and those that only answers have (a client may
send back what it got), are in each model's IGNORED: accepted, and listed in the answer. Settings of
who may do what that are none here are in HELD: accepted as they hold already, and refused else.
All others that are not named here are refused, so that a misspelt restriction is never taken for
none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from control.errors import Refusal, invalid, refused
from control.policy import pasted
from control.records import Subject


class Answer(BaseModel):
    """`ignored` names the fields of the request that were accepted and mean nothing here.
    `in_force` says on how many of how many servers a change is ("2/3"), and `pending` names the
    others, and why: of calls below /v1/certauth, and of all with `wait_for_sync`. `warnings` is
    what is done, and may not have been meant."""

    model_config = ConfigDict(strict=True, extra="forbid")
    ignored: list[str] = []
    in_force: str = ""
    pending: list[str] = []
    warnings: list[str] = []


class Empty(Answer):
    """An object without fields, so that a client that parses every answer can."""


class Problem(Answer):
    """Every error. `description` and `message` are the same sentence."""

    error_code: str
    description: str
    message: str


Item = TypeVar("Item")
# One wrong element is told of, not each of half a million: that took seconds, and 40 MB of answer.
Many = Annotated[list[Item], FailFast()]
MOST = 1000  # fields of one JSON object, and servers of a database
TOLD = 10  # problems that a refusal names
Uid = Annotated[int, Field(ge=1, le=2**31 - 1)]
Pem = Annotated[str, StringConstraints(max_length=1 << 20)]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Sha256 = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
    BeforeValidator(lambda sent: pasted.fingerprint(sent) if isinstance(sent, str) else sent),
]
Value = Annotated[str, StringConstraints(max_length=256)]
Filled = Annotated[str, StringConstraints(min_length=1, max_length=256)]
UserName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[ -!#-%'-;=?-~]+$")
]
ObjectName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9_ \[\]()@,.;#-]+$")
]
Email = Annotated[str, StringConstraints(max_length=255, pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$")]


@dataclass(frozen=True)
class Held:
    """A setting of Redis Enterprise that is none here: the values that hold all the same, and why
    no other one can be had."""

    values: tuple[Any, ...]
    why: str

    def check(self, name: str, value: Any) -> None:
        """Raises Refusal 406 where the value does not hold. True is not 1."""
        if any(type(value) is type(one) and value == one for one in self.values):
            return
        holds = " or ".join(json.dumps(one) for one in self.values) or "nothing"
        text = f"{name}: this setting is not kept here, where {holds} holds: {self.why}"
        raise refused("unsupported_setting", text)


class Body(BaseModel):
    """A JSON object. Nothing is converted: "1" is not a number, null is not an absent field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    IGNORED: ClassVar[frozenset[str]] = frozenset()
    HELD: ClassVar[Mapping[str, Held]] = MappingProxyType({})
    MISSING: ClassVar[dict[str, str]] = {}  # field → error_code, where Redis Enterprise has one
    OPTIONAL: ClassVar[bool] = False  # a request may have no body at all

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        for name in sorted(cls.HELD.keys() & data.keys()):
            cls.HELD[name].check(name, data[name])
        if info.context is not None:
            info.context["ignored"].update(cls.IGNORED & data.keys())
        dropped = cls.IGNORED | cls.HELD.keys()
        return {name: value for name, value in data.items() if name not in dropped}

    def sent(self) -> dict[str, Any]:
        """The fields that the request has, and no defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class SubjectBody(Body):
    CN: Filled
    OU: Many[Filled] = []
    O: Value = ""  # noqa: E741
    L: Value = ""
    ST: Value = ""
    C: Value = ""

    def record(self) -> Subject:
        """As the store keeps it."""
        return Subject(self.CN, tuple(self.OU), self.O, self.L, self.ST, self.C)


Model = TypeVar("Model", bound=Body)


def parse(model: type[Model], content: bytes) -> tuple[Model, list[str]]:
    """The body of a request, and the names of its fields that are ignored. Raises Refusal 400,
    which names the field and never repeats its value: that may be a password."""
    return parse_object(model, {} if model.OPTIONAL and not content else _object(content))


def parse_object(model: type[Model], sent: Mapping[str, Any]) -> tuple[Model, list[str]]:
    """The same of an object that is decoded already."""
    ignored: set[str] = set()
    try:
        found = model.model_validate(sent, context={"ignored": ignored})
    except ValidationError as error:
        raise _refusal(model, error) from None
    return found, sorted(ignored)


def _object(content: bytes) -> dict[str, Any]:
    try:
        # json.loads would also take UTF-16 and UTF-32, which anyone who filters requests may not
        # read.
        text = content.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise invalid("invalid_json", "the body is not JSON: it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise invalid("invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid("invalid_json", "the body is not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST:
        raise ValueError(f"an object in the body has more than {MOST} fields")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _refusal(model: type[Body], error: ValidationError) -> Refusal:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{_where(problem['loc'])}: {_what(problem)}" for problem in problems[:TOLD]]
    if len(problems) > TOLD:
        said.append(f"and {len(problems) - TOLD} more")
    first = problems[0]
    codes = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
    code = codes.get(first["type"], "invalid_schema")
    if first["type"] == "missing" and len(first["loc"]) == 1:
        code = model.MISSING.get(str(first["loc"][0]), code)
    return invalid(code, "; ".join(said))


def _where(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location]
    return ".".join(part if part.isprintable() else "?" for part in parts)[:200]


def _what(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown field"
    if problem["type"] == "missing":
        return "this field is missing"
    message = str(problem["msg"])
    return message[:1].lower() + message[1:]
