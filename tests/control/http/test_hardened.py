"""The front where no memory may be both written to and executed, as MemoryDenyWriteExecute= of a
systemd unit has it."""

import subprocess
import sys

import pytest

from control.http.tls import tls_context
from tests.kit.support import Pki, root

# PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN; kernels before 6.3 do not know it.
FORBIDDEN = """
import ctypes, mmap, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    pass
else:
    sys.exit("it is not forbidden")
from control.http.tls import tls_context
chain, key, authority = (open(name, "rb").read() for name in sys.argv[1:])
tls_context(chain, key, authorities=[authority])
"""


def test_a_context_is_made_where_no_memory_is_written_to_and_executed(
    pki: Pki, tmp_path: object
) -> None:
    authority = f"{tmp_path}/ca.der"
    with open(authority, "wb") as file:
        file.write(pki.ca.der)
    command = [sys.executable, "-c", FORBIDDEN, *pki.server.files, authority]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel does not forbid it")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", [b"", b"no key", root().key_pem])
def test_a_key_that_is_not_the_certificates_own_is_refused(pki: Pki, key: bytes) -> None:
    with pytest.raises(ValueError, match="the key must be the certificate's own"):
        tls_context(pki.server.pem, key)
