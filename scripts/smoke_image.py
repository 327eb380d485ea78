"""Test the image and docker-compose.yml on a real engine; `scripts/smoke-image` runs this.

The service has 256 MB and half a core. Only the standard library is needed.
"""

import json
import os
import secrets
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lib.container_engine import Answer, Client, SmokeError, docker, expect, inspect, run, wait_for

IMAGE = os.environ["IMAGE"]
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
PROJECT = f"smoke-image-{os.getpid()}"
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
NOWHERE = "DATABASE_URL=postgresql://nobody@127.0.0.1:1/nowhere"
FIELDS = {"timestamp", "level", "logger", "message", "service"}
DRAIN_SECONDS = 5
GRACE_SECONDS = 60
# What is asked for again and again: a list of items, or the document in a copy without them.
HAS_ITEMS = (Path(__file__).parents[1] / "app" / "items").is_dir()
WORK = "/items?limit=1" if HAS_ITEMS else "/openapi.json"
PROBE = Path(__file__).parent / "lib" / "inside_container.py"
VARIABLES = {
    "IMAGE": IMAGE,
    "POSTGRES_PASSWORD": "p@ss/w:rd %20" + secrets.token_hex(8),  # what a URL would have to quote
    "APP_PORT": "0",
    "APP_OPS_PORT": "0",
    "APP_CPUS": "0.5",
    "APP_MEMORY": "256m",
    "WEB_CONCURRENCY": "1",
    "DRAIN_SECONDS": str(DRAIN_SECONDS),
    "LOG_LEVEL": "DEBUG",
    # The requests have no token, whatever the environment of the developer says.
    **dict.fromkeys(("AUTH_ISSUER", "AUTH_AUDIENCE", "AUTH_JWKS_URL", "AUTH_ALGORITHMS"), ""),
}


def compose(*words: str, timeout: float = 300.0) -> str:
    """Run Compose on a project of our own, without the developer's `.env`."""
    command = [*COMPOSE, "--env-file", os.devnull, "--project-name", PROJECT, *words]
    return run(*command, timeout=timeout, variables=VARIABLES)[1].strip()


def container(service: str) -> str:
    """Return the id of a service's container."""
    return compose("ps", "--all", "--quiet", service)


def logged(name: str) -> list[dict[str, Any]]:
    """Return a container's log, every line of which has to be JSON, on stdout."""
    _, out, err = run("docker", "logs", name)
    expect(not err, f"{name} wrote to stderr: {err[:300]}")
    lines = [json.loads(line) for line in out.splitlines()]
    expect(all(set(line) >= FIELDS for line in lines), "a log line lacks a field")
    return lines


def stop(name: str) -> float:
    """Stop a container; return how long it took, once it has ended by itself with exit code 0."""
    started = time.monotonic()
    docker("stop", "-t", str(GRACE_SECONDS), name)
    seconds = time.monotonic() - started
    state = inspect(name)["State"]
    expect(state["ExitCode"] == 0, f"exit code {state['ExitCode']} after {seconds:.1f} s, not 0")
    expect(not state["OOMKilled"], "it ran out of memory")
    return seconds


def check_image() -> str:
    """Check the image's configuration and labels."""
    image = inspect(IMAGE)
    config, labels = image["Config"], image["Config"]["Labels"]
    version = Path("app/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
    expect(
        config["User"].split(":")[0].isdecimal() and config["User"][0] != "0", "its user is not a number, or is root"
    )
    expect(config["Cmd"] == ["python", "-m", "app.server"] and not config["Entrypoint"], "its command")
    expect(config["StopSignal"] == "SIGTERM", "its stop signal")
    expect(config["Healthcheck"]["Test"][0] == "CMD", "its health check needs a shell")
    expect(labels["org.opencontainers.image.version"] == version, "its version")
    expect(labels["org.opencontainers.image.revision"] != "unknown", "its commit")
    return f"version {version}, user {config['User']}, {image['Size'] / 1e6:.0f} MB"


def check_refusal() -> str:
    """Check that it does not start without `DATABASE_URL`, and logs one line."""
    code, out, err = run("docker", "run", "--rm", *HARDENED, IMAGE, check=False)
    expect(code == 1 and not err and out.count("\n") == 1, f"exit code {code}: {out}{err}")
    return str(json.loads(out)["message"])


def check_alone() -> str:
    """Check that it starts without a shell and is healthy without its database."""
    name = f"{PROJECT}-alone"
    no_shell = "--volume=/dev/null:/usr/bin/dash:ro"
    docker("run", "--detach", "--name", name, *HARDENED, no_shell, "--env", NOWHERE, "--env=DRAIN_SECONDS=0", IMAGE)
    took = wait_for(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", "healthy", 60)
    seconds = stop(name)
    logged(name)
    return f"healthy after {took:.0f} s, stopped in {seconds:.1f} s"


def check_early_stop() -> str:
    """Check that it can be stopped while it starts: process 1 ignores signals without a handler."""
    name = f"{PROJECT}-early"
    docker("run", "--detach", "--name", name, *HARDENED, "--env", NOWHERE, IMAGE)
    time.sleep(0.5)
    seconds = stop(name)
    expect(seconds < GRACE_SECONDS / 2, f"it took {seconds:.1f} s")
    return f"stopped in {seconds:.1f} s"


def check_up() -> str:
    """Start everything, and wait until it is healthy."""
    started = time.monotonic()
    compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", "180")
    migrate = container("migrate")
    expect(inspect(migrate)["State"]["ExitCode"] == 0, "the migration failed")
    expect(any("Running upgrade" in str(line["message"]) for line in logged(migrate)), "no migration ran")
    return f"healthy after {time.monotonic() - started:.0f} s"


def check_inside(app: str) -> str:
    """Check user, rights and files from inside the container."""
    seen = json.loads(docker("exec", app, "python", "-c", PROBE.read_text()))
    expect(seen["uid"] != 0 and seen["gid"] != 0, "it is root")
    expect(set(seen["capabilities"]) == {0}, f"it has capabilities: {seen['capabilities']}")
    expect(seen["no_new_privileges"] == 1, "it may gain privileges")
    expect(seen["seccomp"] == 2, "no seccomp filter")
    expect(not seen["writable"], f"it can write to {seen['writable']}")
    expect(not seen["strays"], f"the image holds {seen['strays']}")
    expect(seen["process_1"][1:] == ["-m", "app.server"], f"process 1 is {seen['process_1']}")
    expect(seen["workers"] == 1, f"process 1 has {seen['workers']} children")
    said = docker("exec", app, "python", "-m", "scripts.lib.await_schema")
    expect("the schema is ready" in said, f"the schema is not ready: {said}")
    return f"uid {seen['uid']}, no capabilities, nothing writable, process 1 is gunicorn's master"


def check_api(call: Client) -> str:
    """Call each operation once."""
    work = call("GET", WORK, X_Trace_ID="smoke-1")
    expect(work.status == 200 and work.headers["x-trace-id"] == "smoke-1", f"{WORK}: {work}")
    answers = {path: call("GET", path) for path in ("/health/ready", "/openapi.json", "/metrics")}
    wrong = {path: answer for path, answer in answers.items() if answer.status != 200}
    expect(not wrong, f"unexpected: {wrong}")
    template = WORK.partition("?")[0]
    expect(f'path="{template}"' in answers["/metrics"].body, "no metrics of what was called")
    return f"{len(answers) + 1} requests as expected" + (f"; {check_items(call)}" if HAS_ITEMS else "")


def check_items(call: Client) -> str:
    """Call each operation of items once."""
    made = call("POST", "/items", {"name": "Lamp", "price": 19.99}, Idempotency_Key="smoke")
    expect(made.status == 201, f"POST: {made}")
    again = call("POST", "/items", {"name": "Lamp", "price": 19.99}, Idempotency_Key="smoke")
    expect(again.headers.get("idempotent-replayed") == "true" and again.body == made.body, f"POST again: {again}")
    path, etag = made.headers["location"], made.headers["etag"]
    patch = call("PATCH", path, {"price": 24.5}, If_Match=etag)
    expect(patch.status == 200 and patch.body["price"] == 24.5, f"PATCH: {patch}")
    answers = {
        "a stale PATCH": (call("PATCH", path, {"price": 1}, If_Match=etag), 412),
        "GET": (call("GET", path), 200),
        "a page": (call("GET", "/items?sort=-price&limit=1"), 200),
        "a batch": (call("POST", "/items/batch", {"items": [{"name": "Desk", "price": 249}] * 3}), 201),
        "bad input": (call("POST", "/items", {"name": "", "price": -1}), 422),
        "DELETE": (call("DELETE", path), 204),
        "what is gone": (call("GET", path), 404),
    }
    wrong = {name: answer for name, (answer, status) in answers.items() if answer.status != status}
    expect(not wrong, f"unexpected: {wrong}")
    return f"{len(answers) + 3} of items"


def check_limits(app: str, call: Client) -> str:
    """Send 600 requests, 8 at a time, to 256 MB and half a core."""
    limits = inspect(app)["HostConfig"]
    expect(limits["Memory"] == 256 * 1024**2 and limits["NanoCpus"] == 5 * 10**8, "it has other limits")

    def one(number: int) -> Answer:
        if HAS_ITEMS and number % 3:
            return call("POST", "/items", {"name": f"n{number}", "price": 1})
        return call("GET", WORK)

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(answer.status for answer in pool.map(one, range(600)))
    seconds = time.monotonic() - started
    expect(set(statuses) <= {200, 201}, f"answers: {statuses}")
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", app)
    return f"600 requests in {seconds:.1f} s, memory {used}"


def check_outage(call: Client) -> str:
    """Stop the database and start it again; nothing else is restarted."""
    compose("stop", "db")
    wait_for(lambda: call("GET", "/health/ready").status == 503, "not ready", 10)
    expect(call("GET", "/health/live").status == 200, "not alive")
    if HAS_ITEMS:
        answer = call("GET", WORK)
        expect(answer.status == 503 and answer.body["detail"]["code"] == "DATABASE_ERROR", f"{answer}")
    compose("start", "db")
    return f"ready {wait_for(lambda: call('GET', '/health/ready').status == 200, 'ready', 60):.1f} s after the start"


def check_drain(app: str, call: Client) -> str:
    """Stop it under traffic: not ready at once, served all through the drain, exit code 0."""
    served: list[float] = []
    lost: list[float] = []
    unready: list[float] = []
    over = threading.Event()
    stopped_at = 0.0

    def talk() -> None:
        while not over.is_set():
            now = time.monotonic()
            try:
                ready = call("GET", "/health/ready").status
                status = call("GET", WORK).status
            except OSError:
                lost.append(now)
            else:
                (served if status == 200 else lost).append(now)
                if ready == 503:
                    unready.append(now)
            time.sleep(0.05)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        time.sleep(0.5)
        stopped_at = time.monotonic()
        seconds = stop(app)
    finally:
        over.set()
        talker.join()
    early = [round(at - stopped_at, 2) for at in lost if at < stopped_at + DRAIN_SECONDS - 0.5]
    expect(not early, f"requests were lost {early} s after the signal")
    expect(unready and unready[0] - stopped_at < 1.5, "it stayed ready")
    expect(DRAIN_SECONDS <= seconds < DRAIN_SECONDS + 10, f"it took {seconds:.1f} s")
    turned, drained = unready[0] - stopped_at, sum(at > stopped_at for at in served)
    return f"exit code 0 after {seconds:.1f} s; not ready after {turned:.1f} s, {drained} served meanwhile"


def check_logs(app: str) -> str:
    """Check every line that it has logged."""
    lines = logged(app)
    mine = [line for line in lines if line.get("trace_id") == "smoke-1" and line.get("path") == WORK.partition("?")[0]]
    expect(len(mine) == 1 and mine[0]["status"] == 200, "the request's own line")
    expect(not any(VARIABLES["POSTGRES_PASSWORD"] in json.dumps(line) for line in lines), "the password is in the log")
    return f"{len(lines)} lines, all JSON, nothing on stderr"


def check(name: str, work: Callable[[], str]) -> None:
    """Run one check, and print its result."""
    print(f"{name:>14}  ", end="", flush=True)
    print(work(), flush=True)


def main() -> int:
    """Run all checks in order, up to the first that fails."""
    try:
        check("image", check_image)
        check("refusal", check_refusal)
        check("alone", check_alone)
        check("early stop", check_early_stop)
        check("compose up", check_up)
        app = container("app")
        published = inspect(app)["NetworkSettings"]["Ports"]
        port, ops_port = published["8000/tcp"][0], published["9000/tcp"][0]
        expect({port["HostIp"], ops_port["HostIp"]} == {"127.0.0.1"}, f"published on {published}")
        call = Client(int(port["HostPort"]), int(ops_port["HostPort"]))
        check("inside", lambda: check_inside(app))
        check("API", lambda: check_api(call))
        check("limits", lambda: check_limits(app, call))
        check("outage", lambda: check_outage(call))
        check("drain", lambda: check_drain(app, call))
        check("logs", lambda: check_logs(app))
    except (SmokeError, OSError, KeyError, ValueError) as error:
        print(f"FAILED: {error!r}", flush=True)
        print(run(*COMPOSE, "--project-name", PROJECT, "logs", "--tail=30", check=False, variables=VARIABLES)[1])
        return 1
    finally:
        compose("down", "--volumes", "--timeout", "20")
        for name in ("alone", "early"):
            run("docker", "rm", "--force", f"{PROJECT}-{name}", check=False)
    print("the image is good")
    return 0


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    sys.exit(main())
