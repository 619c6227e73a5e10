"""Where tests meet grid services: a network of its own, an authority, a user with a good and an expired proxy."""

import datetime
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab_ca import Credential, LabCa
from tests.support.netns import LoopbackNetwork, loopback_network


@dataclass(frozen=True, slots=True)
class Lab:
    """``directory`` may be entered by every account; ``strange`` are the anchors of an authority nobody else knows."""

    directory: Path
    network: LoopbackNetwork
    ca: LabCa
    user: Credential
    proxy: Path
    expired: Path
    strange: Path

    def credentials(self) -> dict[str, str]:
        """Give the variables of a user whose proxy and anchors are in order."""
        return {"X509_USER_PROXY": str(self.proxy), "X509_CERT_DIR": str(self.ca.certificates)}


@contextmanager
def start_lab() -> Iterator[Lab]:
    """Make the lab and take it away again."""
    directory = Path(tempfile.mkdtemp(prefix="pps-lab-"))
    directory.chmod(0o755)
    try:
        ca = LabCa(directory / "ca")
        user = ca.user("probe")
        expired = ca.proxy(user, -datetime.timedelta(hours=1), "expired")
        strange = LabCa(directory / "strange", "Strange CA").certificates
        with loopback_network() as network:
            yield Lab(directory, network, ca, user, ca.proxy(user), expired, strange)
    finally:
        shutil.rmtree(directory)
