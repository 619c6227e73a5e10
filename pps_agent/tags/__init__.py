"""VO tags: the files that lcg-ManageVOTag writes, and what the information system is told of them.

Nothing here may import ldap3, requests, apscheduler, structlog, cryptography or msgspec: the tag
commands and the BDII plugin start a new interpreter for each call (design, section 8).
"""
