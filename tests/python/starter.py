"""An operator: starts a task by a request and waits until it runs.

usage: starter.py URL CREDENTIALS JOB IMAGE
Prints the running task as JSON; ends with 0 when everything was as documented.
"""

import asyncio
import json
import sys
import time

from contract import ask, connect, uuid7

DEADLINE_S = 60


async def main(url, path, job, image):
    client = await connect(url, path)
    status = await ask(client, "read._.cluster.status", {})
    assert status["nodes"] == {"ready": 1}, status

    # The least that a job can be: everything else has a default.
    spec = {"name": "main", "image": image, "command": ["sleep", "1000000"], "env": {"FROM": "python"},
            "stop_grace_ms": 500}
    submit = {"job": {"name": job, "specs": [spec]}}
    command = uuid7()
    first = await ask(client, "write.default.job.submit", submit, command)
    assert first == {"namespace": "default", "name": job, "version": 1}, first
    again = await ask(client, "write.default.job.submit", submit, command)
    assert again == first, f"a retry gets the first answer: {again}"
    try:
        await ask(client, "write.default.job.submit", {"job": {"name": "a.b", "specs": [spec]}}, uuid7())
        raise AssertionError("an illegal name was taken")
    except RuntimeError as refusal:
        assert "'code': 'invalid'" in str(refusal), refusal

    deadline = time.monotonic() + DEADLINE_S
    while True:
        page = await ask(client, "read.default.task.list", {"job": job})
        running = [task for task in page["items"] if task["state"] == "running"]
        if running:
            break
        assert time.monotonic() < deadline, f"it does not run: {page}"
        await asyncio.sleep(0.05)
    print(json.dumps(running[0]), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
