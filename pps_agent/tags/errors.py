"""What can go wrong with tags, with the exit codes of design section 10: 1 refused, 2 unknown, 3 untouched."""

from pps_agent.errors import AgentError, SiteError


class TagError(AgentError):
    """Base of every failure of a tag operation; unless the class says otherwise, nothing was changed."""


class TagRefusedError(TagError):
    """The tag or the change is not allowed: syntax, another VO, a case variant, not there to be removed."""

    exit_code = 1


class UnknownTargetError(TagError):
    """The subcluster is none of this site's; nothing was created."""

    exit_code = 2


class TagFileError(TagError, SiteError):
    """The lock, a directory or a list file cannot be used as it is; nothing was changed."""

    exit_code = 3


class HalfWrittenError(TagError, SiteError):
    """A write failed and so did its undoing: the files named in the message differ from what was asked."""

    exit_code = 6
