"""The server as a user who may not write where permissions forbid it, also where the tests run as root.

``python without_rights.py --port 0 ...``
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: From linux/prctl.h and linux/capability.h.
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1

if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "root cannot give up its rights here")
program = Path(__file__).resolve().parents[2] / "api_server.py"
os.execv(sys.executable, [sys.executable, str(program), *sys.argv[1:]])  # what was dropped is gone in the new program
