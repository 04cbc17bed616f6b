"""An observer: hears a job's events live until it runs, then reads all of them from history, and changes nothing.

usage: observer.py URL CREDENTIALS JOB
Prints one JSON object a line; ends with 0 when everything was as documented.
"""

import asyncio
import json
import sys

import msgpack
import nats.errors
import nats.js.errors

from contract import ROOT, connect

DEADLINE_S = 60


def say(**what):
    print(json.dumps(what), flush=True)


def place(event):
    return event["index"], event["ordinal"]


async def history(client):
    """Every event in the stream, by direct reads: no consumer is made, nothing is changed."""
    events, sequence = [], 1
    jetstream = client.jetstream()
    while True:
        try:
            message = await jetstream.get_msg(f"{ROOT}-event", seq=sequence, direct=True, next=True)
        except nats.js.errors.NotFoundError:
            return events
        event = msgpack.unpackb(message.data)
        assert message.headers["Longshore-Version"] == "1"
        assert message.headers.get("Longshore-Task") == event.get("task")
        events.append((message.subject, event))
        sequence = message.seq + 1


async def is_refused(client, refusals, subject):
    """Whether the server refuses to let this client publish on a subject."""
    await client.publish(subject, b"x")
    await client.flush()
    text = await asyncio.wait_for(refusals.get(), DEADLINE_S)
    return "permissions violation" in text.lower() and subject.lower() in text.lower()


async def main(url, path, job):
    refusals = asyncio.Queue()

    async def on_error(error):
        await refusals.put(str(error))

    client = await connect(url, path, error_cb=on_error)
    live = await client.subscribe(f"{ROOT}.v1.event.>")
    await client.flush()
    say(ready=True)

    heard = []
    while True:
        message = await live.next_msg(timeout=DEADLINE_S)
        event = msgpack.unpackb(message.data)
        assert message.subject.startswith(f"{ROOT}.v1.event.{event['type'].split('.')[0]}."), message.subject
        heard.append((message.subject, event))
        say(live=event)
        if event["type"] == "job.running" and event["job"] == job:
            break
    places = [place(event) for _, event in heard]
    assert places == sorted(set(places)), f"out of order: {places}"
    states = [event["state"] for _, event in heard if event.get("job") == job and event["type"].startswith("task.")]
    assert states[0] == "pending" and states[-1] == "running", states

    stored = await history(client)
    places = [place(event) for _, event in stored]
    assert places == sorted(set(places)), f"out of order: {places}"
    for item in heard:
        assert item in stored, f"heard, and not stored: {item}"
    assert stored[0][1]["type"] == "cluster.created", stored[0]
    say(history=len(stored))

    for subject in (f"{ROOT}.v1.event.task.default.{job}.main.failed", f"{ROOT}.v1.log",
                    f"{ROOT}.v1.api.write.default.job.stop", f"$JS.API.STREAM.DELETE.{ROOT}-event",
                    f"$JS.API.CONSUMER.CREATE.{ROOT}-event.x"):
        assert await is_refused(client, refusals, subject), subject
    assert len(await history(client)) >= len(stored)
    say(done=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
