"""Empties the outbox towards the collector."""

from datetime import datetime
from enum import Enum

import msgspec
import requests
import zstandard

from pps_agent.errors import FetchError, SiteError
from pps_agent.identity import Identity
from pps_agent.jobs import Sent
from pps_agent.outbox import Outbox
from pps_agent.settings import CollectorSettings
from pps_wire.errors import WireError
from pps_wire.report import Batch, Refusal, parse_ack, parse_problem


class _Next(Enum):
    """What to do after an answer."""

    ACKNOWLEDGE = "acknowledge"
    NEW_EPOCH = "new-epoch"
    REWIND = "rewind"


def send_outbox(outbox: Outbox, identity: Identity, collector: CollectorSettings, now: datetime) -> Sent:
    """Send batches until the outbox is empty. Whatever fails, nothing is lost: it stays queued.

    Raises: FetchError when the collector does not answer, is busy or refuses for good.
    """
    sent = Sent()
    restarted = False
    url = f"{collector.url.rstrip('/')}/v1/batches"
    with requests.Session() as session:
        session.cert = (str(identity.certificate), str(identity.key))
        ca = str(collector.ca or identity.ca)
        while (batch := outbox.next_batch(now, collector.backfill_after_s)) is not None:
            body = zstandard.compress(msgspec.json.encode(batch))
            answer = _post(session, url, body, ca, collector.timeout_s)
            match _judge(answer):
                case _Next.ACKNOWLEDGE:
                    acked = _read_ack(answer, batch)
                    if acked < batch.first_seq:
                        raise FetchError(f"{collector.url} acknowledges nothing of what it was sent; ask its operator")
                    gone = outbox.acknowledge(batch.lane, acked)  # 0 when another process sent the same meanwhile
                    sent = Sent(sent.acknowledged + gone, sent.batches + 1, sent.wire_bytes + len(body))
                case _Next.NEW_EPOCH | _Next.REWIND if not restarted:
                    # The numbering here and there went apart (restored backup): begin a new epoch, once.
                    outbox.start_epoch()
                    restarted = True
                case _:
                    raise FetchError(f"{collector.url} refuses a fresh epoch: {answer.text[:300]}", permanent=True)
    return sent


def _post(session: requests.Session, url: str, body: bytes, ca: str, timeout_s: int) -> requests.Response:
    headers = {"Content-Type": "application/json", "Content-Encoding": "zstd"}
    try:
        # ``verify`` stands here, since REQUESTS_CA_BUNDLE would overrule the session's.
        return session.post(url, data=body, headers=headers, timeout=timeout_s, verify=ca, allow_redirects=False)
    except requests.RequestException as exc:
        raise FetchError(f"{url}: {exc}; results wait in the outbox and go with the next try") from exc
    except OSError as exc:
        raise SiteError(f"{exc}; results wait; get a new certificate: pps-agent enrol --again") from exc


def _judge(answer: requests.Response) -> _Next:
    if answer.status_code == requests.codes.ok:
        return _Next.ACKNOWLEDGE
    try:
        problem = parse_problem(answer.content)
    except WireError:
        problem = None
    if problem is not None and problem.code is Refusal.EPOCH_CONFLICT:
        return _Next.NEW_EPOCH
    if problem is not None and problem.code is Refusal.GAP:
        return _Next.REWIND
    detail = problem.detail if problem is not None else answer.text[:300]
    busy = answer.status_code in (408, 429) or answer.status_code >= requests.codes.internal_server_error
    advice = "results wait in the outbox" if busy else "results wait; ask the collector's operator"
    raise FetchError(f"collector answered HTTP {answer.status_code}: {detail}; {advice}", permanent=not busy)


def _read_ack(answer: requests.Response, batch: Batch) -> int:
    try:
        ack = parse_ack(answer.content)
    except WireError as exc:
        raise FetchError(f"the collector's acknowledgement cannot be read: {exc}; results wait") from exc
    return min(ack.ack, batch.last_seq)
