"""Capture by environment variable, in apps that never import this package.

    TOOLORCH_CAPTURE=sqlite:///traces.db python app.py

A `.pth` file in site-packages calls `activate` when the interpreter starts, and only where the variable is set. It
imports no framework and no database driver: capture begins when the app first imports a framework. `TOOLORCH_APP`
names the traces.
"""

from __future__ import annotations

import os
import sys

STORE_VARIABLE = "TOOLORCH_CAPTURE"
APP_VARIABLE = "TOOLORCH_APP"

_begun = False


def activate() -> None:
    """Wait for a framework to be imported; whatever goes wrong is said on stderr and goes no further."""
    try:
        from toolorch_integrations.adapters import ADAPTERS, on_import

        for module in ADAPTERS:
            on_import(module, _begin)
    except Exception as error:
        _say(error)


def _begin() -> None:
    global _begun
    if _begun:
        return
    _begun = True
    try:
        from toolorch_integrations.capture import capture

        store, app = os.environ.get(STORE_VARIABLE, ""), os.environ.get(APP_VARIABLE, "")
        capture(store, app=app, everywhere=True).__enter__()  # Ends with the process.
    except Exception as error:
        _say(error)


def _say(error: Exception) -> None:
    print(f"toolorch: nothing is captured, {STORE_VARIABLE} is not usable: {error}", file=sys.stderr)  # noqa: T201
