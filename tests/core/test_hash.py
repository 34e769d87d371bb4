"""module/core/hash.c: SHA-256 is libcrypto's; SipHash is ours, held here against libcrypto's."""

import subprocess
from pathlib import Path

import pytest

from tests.kit.support import ROOT

KEY = bytes(range(16))

PROGRAM = r"""
#include "internal.h"
#include <stdio.h>
void *must(void *p) { return p; }
static void show(const uint8_t *p) { for (int i = 0; i < 16; i++) printf("%02X", p[i]); puts(""); }
int main(void) {
    uint8_t key[16], bytes[256], out[16];
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    memcpy(key, bytes, sizeof key);
    for (size_t len = 0; len < 256; len++) siphash(key, span_of(bytes, len), out), show(out);
    lookup_key(span_of(bytes, 9), out), show(out);
    lookup_key(span_of(bytes, 9), out), show(out);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hash")
    (folder / "main.c").write_text(PROGRAM)
    sources = [folder / "main.c", ROOT / "module/core/hash.c"]
    subprocess.run(
        ["cc", "-std=c11", "-I", ROOT / "module/core", "-o", folder / "main", *sources, "-lcrypto"],
        check=True,
    )
    return folder / "main"


def printed(program: Path) -> list[str]:
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()


def openssl(bytes_: bytes) -> str:
    words = ["openssl", "mac", "-macopt", f"hexkey:{KEY.hex()}", "-macopt", "size:16", "SIPHASH"]
    done = subprocess.run(words, input=bytes_, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_siphash_is_that_of_libcrypto(program: Path) -> None:
    """At each length around a word's, and at the longest of the program."""
    found = printed(program)
    for length in (*range(18), 63, 64, 65, 255):
        assert found[length] == openssl(bytes(range(length)))


def test_the_key_of_a_table_is_one_within_a_process_and_another_in_the_next(program: Path) -> None:
    """A stranger who has seen one process cannot make two names collide in another."""
    one, other = printed(program)[-2:], printed(program)[-2:]
    assert one[0] == one[1]
    assert other[0] == other[1]
    assert one[0] != other[0]
