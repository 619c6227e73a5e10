"""What the system tells a daemon, and what the daemon tells systemd."""

import os
import queue
import signal
import socket


def receive_signals(*numbers: signal.Signals) -> "queue.SimpleQueue[int]":
    """Have these signals put into a queue from now on."""
    # Handlers and a queue, not blocked signals: children would inherit the mask and outlive a SIGTERM.
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        signal.signal(number, lambda received, _: arrived.put(received))
    return arrived


def await_signal(arrived: "queue.SimpleQueue[int]", timeout_s: float) -> int | None:
    """Give the next signal that arrives; None after a time without one."""
    try:
        return arrived.get(timeout=timeout_s)
    except queue.Empty:
        return None


def notify(state: str) -> None:
    """Tell systemd, when it is there to be told. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notifier.sendall(state.encode())
