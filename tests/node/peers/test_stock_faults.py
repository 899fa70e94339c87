"""Why `shell/peers/overrides` and our own sockets exist: each fault shows in the library as it comes.

`test_attacks.py` has the same attacks on our node. When one of these fails, the library has mended the fault,
and what stands in for it may go.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache

import pytest

from tests.node.peers import stock_faults
from unhosted.node.core.errors import Refused
from unhosted.node.shell.peers import overrides

pytestmark = pytest.mark.slow

PROCESS_S = 120.0


@cache
def found() -> Mapping[str, object]:
    """One process for all of them: the library alone takes a second to import."""
    made = subprocess.run(
        [sys.executable, "-m", stock_faults.__name__],
        check=True,
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    shown: Mapping[str, object] = json.loads(made.stdout.splitlines()[-1])
    return shown


@pytest.mark.parametrize("fault", [fault.__name__ for fault in stock_faults.FAULTS])
def test_the_library_has_this_fault(fault: str) -> None:
    assert found()[fault] is True


def test_another_version_of_the_library_is_refused() -> None:
    overrides.check_version()
    with pytest.raises(Refused, match=r"libp2p 0\.9\.0 is installed.*pip install libp2p==0\.8\.1"):
        overrides.check("0.9.0")
