"""Which class a client update belongs to, from what its publisher declares.

Source: service description, section 4.1.1: backward compatible means that no variable is changed
and none is added; section 4.1.2: anything that needs extra configuration is not.
"""

import msgspec

from pps_wire.release import Changes, ConfigStep, Flag, ReleaseClass


class Classification(msgspec.Struct, frozen=True):
    """A class and every reason that forced it; no reasons means ``client-bc``."""

    class_: ReleaseClass
    reasons: tuple[str, ...]


def classify_client(changes: Changes, config_steps: tuple[ConfigStep, ...]) -> Classification:
    """Give the class of a client update and all reasons why it is not backward compatible."""
    old, new = changes.variables_old, changes.variables_new
    reasons = [f"adds variable {name}" for name in sorted(new.keys() - old.keys())]
    reasons += [f"removes variable {name}" for name in sorted(old.keys() - new.keys())]
    reasons += [f"changes variable {name}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
    reasons += [f"needs configuration step {step.id}" for step in config_steps]
    for flag in (Flag.ENVIRONMENT_CHANGE, Flag.OLD_SERVERS_INCOMPATIBLE):
        if changes.flags.get(flag):
            reasons.append(f"flagged {flag.value}")
    class_ = ReleaseClass.CLIENT_NBC if reasons else ReleaseClass.CLIENT_BC
    return Classification(class_, tuple(reasons))
