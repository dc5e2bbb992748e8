"""Install the system programs that some tests run: bubblewrap (sandbox), Chromium (page) and nginx (balancer).

Takes Debian's packages where apt-get may be used (as root, or with a sudo that asks nothing). Where it may
not, says what to install; the tests that need it are skipped then. Standard library only.

    python scripts/install_system.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = {"bwrap": "bubblewrap", "chromium": "chromium", "/usr/sbin/nginx": "nginx-light"}
LIMIT = 900
"""Seconds that apt-get may take."""


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    sys.stdout.write(f"system: {text}\n")
    sys.stdout.flush()


def missing() -> list[str]:
    """Return the packages whose programs are not here."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def privileged() -> list[str] | None:
    """Return what to put before a command that needs root, or None where nothing helps."""
    if os.geteuid() == 0:
        return []
    asks_nothing = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    return ["sudo", "-n"] if asks_nothing else None


def install(packages: list[str], before: list[str]) -> bool:
    """Install Debian packages; return whether it worked."""
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            done = subprocess.run(
                [*before, "apt-get", *command], env=environment, capture_output=True, text=True, timeout=LIMIT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"apt-get {command[0]}: {error}")
            return False
        if done.returncode:
            say(f"apt-get {command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
            return False
    return True


def main() -> None:
    """Install what is missing, as far as that is possible."""
    wanted = missing()
    if not wanted:
        return
    before = privileged()
    if shutil.which("apt-get") and before is not None:
        say(f"installing {', '.join(wanted)}")
        install(wanted, before)
    left = missing()
    if left:
        say(f"without {', '.join(left)} some tests are skipped: install with your system's package manager")


if __name__ == "__main__":
    main()
