"""Redacts passwords and tokens in addresses, and keeps the full address for whoever connects to it.

`redacted` is what a configuration, a file, a log or a message may hold. The address itself stays in the
environment of this process, where the processes that it starts find it too.
"""

import os
import re

VARIABLE = "DREAMMPC_ADDRESSES"
"""Whole addresses, with blanks between."""

STARS = "***"


def redacted(text: str) -> str:
    """`text` with `***` for secrets of addresses: passwords, users of http, what is behind `?`."""
    text = re.sub(r"(://[^/:@\s]*):\S*@", rf"\1:{STARS}@", text)
    text = re.sub(r"(https?://)[^/:@\s]+@", rf"\1{STARS}@", text)
    return re.sub(r"([?&;][\w.%-]+=)[^&;\s'\"]+", rf"\1{STARS}", text)


def store_address(address: str) -> str:
    """`address` as `redacted` has it; `full_address` finds the original again."""
    shown = redacted(address)
    if shown != address and address not in stored_addresses():
        os.environ[VARIABLE] = " ".join([*stored_addresses(), address])
    return shown


def full_address(address: str) -> str:
    """The address that `store_address` was given, by what it returned; any other as it is."""
    return next((each for each in reversed(stored_addresses()) if redacted(each) == address), address)


def stored_addresses() -> list[str]:
    return os.environ.get(VARIABLE, "").split()
