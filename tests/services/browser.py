"""Debian's Chromium without a window, for tests of pages and for looking at them.

    python tests/services/browser.py FILE [WIDTH] [PNG]    a picture of a page, as tall as it is

Needs Linux and, to install Chromium and its driver, root and apt. Nothing leaves the machine: the
browser resolves no name but this machine's, and every profile is a fresh one.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PACKAGES = ("chromium", "chromium-driver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars",
    "--force-prefers-reduced-motion",  # a page still in motion moves from under a click
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def install() -> None:
    """Chromium's Debian packages, unless they are there.

    Raises:
        SystemExit: they are not there, and cannot be installed; with what to do.
    """
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(
            f"Chromium is not installed; as root: apt-get install {' '.join(PACKAGES)}"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}")


@contextmanager
def chromium(downloads: Path | None = None) -> Iterator[webdriver.Chrome]:
    """A browser with a fresh profile, ended afterwards.

    Args:
        downloads: where files go.
    """
    install()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        if downloads is not None:
            options.add_experimental_option(
                "prefs", {"download.default_directory": str(downloads.resolve())}
            )
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: webdriver.Chrome, width: int, height: int = 900, *, dark: bool = False) -> None:
    """The size of the view, which may be less than a window can have, and the colour scheme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def picture(driver: webdriver.Chrome, path: Path, element: Any = None) -> None:
    """A PNG of the whole page, or of an element however tall it is."""
    options: dict[str, Any] = {"captureBeyondViewport": True}
    if element is not None:
        box = driver.execute_script(
            "const b = arguments[0].getBoundingClientRect();"
            "return {x: 0, y: b.y + scrollY, width: innerWidth, height: b.height, scale: 1}",
            element,
        )
    else:
        box = driver.execute_script(
            "return {x: 0, y: 0, width: innerWidth, height: document.body.scrollHeight, scale: 1}"
        )
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {**options, "clip": box})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(found["data"]))


def main(arguments: list[str]) -> None:
    """The command line: ``FILE [WIDTH] [PNG]``."""
    if not 1 <= len(arguments) <= 3:
        raise SystemExit(__doc__)
    page = Path(arguments[0]).resolve()
    width = int(arguments[1]) if len(arguments) > 1 else 1280
    target = Path(arguments[2]) if len(arguments) > 2 else page.with_suffix(".png")
    with chromium() as driver:
        resize(driver, width)
        driver.get(page.as_uri())
        picture(driver, target)
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
