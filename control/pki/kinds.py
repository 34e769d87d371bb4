"""The kinds of private keys, by name: for those who only need the names."""

from typing import Literal, get_args

KeyType = Literal["ec", "rsa", "ed25519"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)
