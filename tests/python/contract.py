"""What a client in another language needs to know of Longshore: credentials, inboxes, payloads, ids.

Written from docs/protocol.md alone, with nothing of Longshore's own code.
"""

import os
import re
import time
import uuid

import msgpack
import nats

ROOT = "longshore"


def credentials(path):
    """Reads a credential file: four texts in TOML (Python before 3.11 cannot read TOML by itself)."""
    with open(path, encoding="utf-8") as file:
        return dict(re.findall(r'^(\w+) = "([^"]*)"$', file.read(), re.MULTILINE))


async def connect(url, path, **options):
    """Connects as the user of a credential file, with that user's own inbox."""
    own = credentials(path)
    prefix = f"_INBOX.{own['role']}.{own['name']}"
    return await nats.connect(url, nkeys_seed_str=own["nkey_seed"], inbox_prefix=prefix.encode(), **options)


def uuid7():
    """A UUID of version 7: 48 bits of milliseconds, then random bits."""
    value = int.from_bytes(os.urandom(16), "big")
    value &= (1 << 80) - 1
    value |= (time.time_ns() // 1_000_000) << 80
    value &= ~(0xF << 76) & ~(0x3 << 62)
    return str(uuid.UUID(int=value | 7 << 76 | 2 << 62))


async def ask(client, subject, question, command=None):
    """Asks the manager, and gives its answer or raises its refusal."""
    headers = {"Longshore-Version": "1"}
    if command is not None:
        headers["Longshore-Command"] = command
    payload = msgpack.packb(question)
    message = await client.request(f"{ROOT}.v1.api.{subject}", payload, timeout=10, headers=headers)
    assert message.headers["Longshore-Version"] == "1", message.headers
    answer = msgpack.unpackb(message.data)
    if "error" in answer:
        raise RuntimeError(f"{subject}: {answer['error']}")
    return answer["ok"]
