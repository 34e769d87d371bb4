"""`redis-certauth config check`: the settings, where each is from, and what is wrong with them."""

import time
from collections.abc import Iterator

from control.policy import core
from control.service.config import SETTINGS, Config, ServiceError
from control.service.home import authority_of, check_home, database_errors, own_certificates
from control.store import look, without_password


def rendered_settings(config: Config) -> Iterator[str]:
    """A line for each setting; passwords are not in it."""
    for name, kind in SETTINGS.items():
        value = getattr(config, name)
        if name == "database":
            value = without_password(config.url)
        shown = str(value).lower() if kind is bool else str(value)
        source = config.sources.get(name)
        if name == "database" and config.database_file:
            source = config.sources["database_file"]
        yield f"{name} = {shown or 'none'} ({source or 'default'})"


def check_settings(config: Config) -> list[str]:
    """What would keep `serve` from starting, or soon will. Nothing is written."""
    problems = []
    try:
        check_home(config)
        authority_of(config)
        for name, pem in own_certificates(config).items():
            if core.identity(pem.encode()).not_after < time.time():
                problems.append(f"the certificate '{name}' has expired")
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
    except ServiceError as error:
        problems.append(str(error))
    try:
        with database_errors(config):
            look(config.url)
    except ServiceError as error:
        problems.append(str(error))
    return problems
