"""Whom the lines of locks concern at the REST API. Pure. On servers the core decides it."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from control.policy import core, taking


def user_line(name: str) -> str:
    """The lock of a user. Raises core.CoreError."""
    return core.canonical(f"lock user {core.quote(name)}")


def of_login(lines: Iterable[str], name: str, address: str) -> str:
    """The first of these lines that holds out this user, or who comes from this address; "" for
    none."""
    for line in lines:
        way, value = taking.subject_of(line)
        if way == "user" and value == core.quote(name):
            return line
        if way == "network" and address and _is_in(address, value):
            return line
    return ""


def _is_in(address: str, network: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:  # a unix socket's
        return False
    return (getattr(found, "ipv4_mapped", None) or found) in ip_network(network)


def of_certificates(lines: Iterable[str]) -> tuple[str, ...]:
    """Those that the core decides by at the REST API, whose users have other names there."""
    return tuple(line for line in lines if taking.subject_of(line)[0] != "user")
