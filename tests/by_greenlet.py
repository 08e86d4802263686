"""
Runs a program of the product without the event loop ever passing on a body: greenlets do, as where no loop may.

    python -m tests.by_greenlet PROGRAM [argument ...]
"""

import runpy
import sys
from collections.abc import Callable

from gevent import monkey

monkey.patch_all()

from llmproxy.transport.response import WireResponse  # noqa: E402  as the product: after the patch


def leave_all_to_read1(_: WireResponse, take: Callable[[bytes], bool], /) -> None:
    """In the place of `WireResponse.pump`."""


WireResponse.pump = leave_all_to_read1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
