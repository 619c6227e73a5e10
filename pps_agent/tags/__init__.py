"""VO tags: the files that lcg-ManageVOTag writes, and what the information system is told of them.

Nothing here may import ldap3, requests, apscheduler, structlog, cryptography or msgspec: the tag
commands and the BDII plugin start a new interpreter for each call (design, section 8). For the same reason the
values here are named tuples: building one takes 0.1 ms, building a dataclass 0.4.
"""
