"""A worker for Relevo in Python, with nothing but the standard library.

    worker = Worker("prices")

    @worker.kind("Reprice", summary="Keeps a price.", schema={"type": "object"})
    def reprice(job):
        job.progress(1, total=2, message="half of it")

    worker.run()

RELEVO_URL and RELEVO_API_KEY say where the API is and which key to show; the key has the scope
`work`. A handler that returns completes its job; one that raises has it tried again. SIGTERM and
SIGINT end the worker when its handlers have ended; those that take longer than the grace are run
again by somebody else.
"""

import json
import os
import random
import signal
import socket
import threading
import time
import traceback
import urllib.error
import urllib.request


class Retry(Exception):
    """Try the job again, not before `delay` seconds where it is given."""

    def __init__(self, message, delay=None):
        super().__init__(message)
        self.delay = delay


class Snooze(Exception):
    """Run the job later, without spending an attempt."""

    def __init__(self, delay):
        super().__init__(f"in {delay} s")
        self.delay = delay


class Fail(Exception):
    """Give the job up: it becomes a dead letter."""


class Cancelled(Exception):
    """Raised by `Job.check` when the job is to stop."""


class LeaseLost(Exception):
    """Another worker may be running the job: stop, and write nothing."""


class Refused(Exception):
    """The API refused a request."""

    def __init__(self, status, problem):
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status, self.code, self.problem = status, problem.get("code"), problem


class Job:
    """A job in its handler's hands."""

    def __init__(self, worker, session, fields):
        self._worker, self._session, self._fields = worker, session, fields
        self.id, self.epoch = fields["id"], fields["epoch"]
        self.kind, self.payload = fields["kind"], fields["payload"]
        self.attempt, self.max_attempts = fields["attempt"], fields["max_attempts"]
        self.stop_reason = None
        self.stopping = threading.Event()

    def stop(self, reason):
        """Tells the handler to stop; the first reason stays."""
        if not self.stopping.is_set():
            self.stop_reason = reason
            self.stopping.set()

    def check(self):
        """Raises `Cancelled` when the handler is to stop. Call it now and then."""
        if self.stopping.is_set():
            raise Cancelled(self.stop_reason)

    def progress(self, done, total=None, unit="", message=""):
        """Stores how far the handler is."""
        self.check()
        told = {"done": done, "total": total, "unit": unit, "message": message}
        lease = {"session": self._session, "id": self.id, "epoch": self.epoch}
        try:
            self._worker.ask("/work/progress", {**lease, **told})
        except Refused as refused:
            if refused.code == "lease_lost":
                raise LeaseLost(str(refused)) from refused
            raise


class Worker:
    """Runs jobs of the kinds that are registered with it."""

    def __init__(self, name, url=None, key=None, slots=4, lease_seconds=30, queues=(), grace=20):
        self.name, self.slots, self.grace = name, slots, grace
        self.lease_seconds, self.queues = lease_seconds, list(queues)
        self.url = (url or os.environ["RELEVO_URL"]).rstrip("/") + "/api/v1"
        self._key = key or os.environ["RELEVO_API_KEY"]
        self._kinds, self._handlers = [], {}
        self._stop = threading.Event()
        self._lock = threading.Condition()
        self._running = {}
        self._session = None
        self._claim = 0

    def kind(self, name, summary, version=1, schema=None, **policy):
        """Registers the decorated function as what runs jobs of a kind. `policy` is what the API
        takes with a kind: queue, max_attempts, timeout_seconds, backoff_base_seconds …"""

        def register(handler):
            described = {"kind": name, "summary": summary, "payload_version": version, **policy}
            described["payload_schema"] = schema or {"type": "object"}
            self._kinds.append(described)
            self._handlers[name] = handler
            return handler

        return register

    def ask(self, path, body, timeout=40):
        """One request to the API; what it answers."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-API-Key": self._key},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            try:
                problem = json.loads(error.read())
            except ValueError:
                problem = {}
            raise Refused(error.code, problem) from error

    def run(self):
        """Works until SIGTERM or SIGINT, then lets handlers end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        failures = 0
        while not self._stop.is_set():
            try:
                self._work()
                failures = 0
            except (OSError, Refused) as error:
                if isinstance(error, Refused) and error.status in (401, 403, 422):
                    raise
                failures += 1
                print(f"{self.name}: {error}; trying again", flush=True)
                self._stop.wait(min(0.2 * 2**failures, 10) * random.uniform(0.5, 1))

    def _work(self):
        """One session, from its opening to its end."""
        opened = self.ask(
            "/work/sessions",
            {
                "name": self.name,
                "kinds": self._kinds,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "slots": self.slots,
                "lease_seconds": self.lease_seconds,
                "queues": self.queues,
            },
        )
        self._session, self._claim = opened["session"], 0
        over = threading.Event()
        beats = threading.Thread(target=self._beat, args=(opened, over), daemon=True)
        beats.start()
        print(f"{self.name}: session {self._session}", flush=True)
        try:
            while not self._stop.is_set() and not over.is_set():
                self._take(over)
            until = time.monotonic() + self.grace
            with self._lock:
                while self._running and not over.is_set() and time.monotonic() < until:
                    self._lock.wait(0.1)
        finally:
            self._stop_all("the session is over")
            over.set()
            try:
                self.ask(f"/work/sessions/{self._session}/end", {}, timeout=5)
            except (OSError, Refused):
                pass  # The lease runs out by itself.

    def _take(self, over):
        """Claims what there is room for, and starts it."""
        with self._lock:
            while len(self._running) >= self.slots:
                if self._stop.is_set() or over.is_set():
                    return
                self._lock.wait(0.1)
            room = self.slots - len(self._running)
        session = self._session
        asked = {"session": session, "claim": self._claim + 1, "max": min(room, 100)}
        try:
            jobs = self.ask("/work/claim", {**asked, "wait_seconds": 5})["jobs"]
        except (OSError, Refused) as error:
            if isinstance(error, Refused) and error.status < 500 and error.status != 429:
                over.set()
            else:
                # The same number again: it brings what the lost answer held.
                self._stop.wait(random.uniform(0.2, 1))
            return
        self._claim += 1
        for fields in jobs:
            job = Job(self, session, fields)
            with self._lock:
                self._running[job.id] = job
            threading.Thread(target=self._handle, args=(job,), daemon=True).start()

    def _handle(self, job):
        """Runs one job and says what became of it."""
        try:
            word = self._outcome(job)
            if word is not None:
                self._finish(job, word)
        finally:
            with self._lock:
                if self._running.get(job.id) is job:
                    del self._running[job.id]
                self._lock.notify_all()

    def _outcome(self, job):
        try:
            self._handlers[job.kind](job)
            return {"outcome": "completed"}
        except Retry as error:
            return {"outcome": "retry", "error": str(error), "delay_seconds": error.delay}
        except Snooze as error:
            return {"outcome": "snooze", "delay_seconds": error.delay}
        except Fail as error:
            return {"outcome": "failed", "error": str(error)}
        except Cancelled as error:
            if job.stop_reason == "cancelled":
                return {"outcome": "cancelled", "error": str(error)}
            return {"outcome": "retry", "error": f"stopped: {error}"}
        except LeaseLost:
            return None
        except Exception as error:  # A handler may raise anything.
            told = traceback.format_exception_only(error)[-1].strip()
            return {"outcome": "retry", "error": told}

    def _finish(self, job, word):
        body = {"session": job._session, "jobs": [{"id": job.id, "epoch": job.epoch, **word}]}
        until = time.monotonic() + self.lease_seconds
        while time.monotonic() < until:
            try:
                self.ask("/work/finish", body)
                return
            except Refused as refused:
                if refused.status < 500 and refused.status != 429:
                    print(f"{self.name}: job {job.id}: {refused}", flush=True)
                    return
            except OSError as error:
                print(f"{self.name}: job {job.id}: {error}; trying again", flush=True)
            time.sleep(random.uniform(0.2, 1))

    def _beat(self, opened, over):
        """Keeps the session alive, and stops what is to stop. The lease counts from before the
        request: when it cannot be renewed in time, everything stops."""
        held_until = time.monotonic() + opened["lease_seconds"]
        while not over.is_set():
            asked = time.monotonic()
            try:
                body = {"session": opened["session"], "draining": self._stop.is_set()}
                answer = self.ask("/work/heartbeat", body, timeout=opened["lease_seconds"] / 2)
                held_until = asked + opened["lease_seconds"]
                for lease in answer["stop"]:
                    with self._lock:
                        job = self._running.get(lease["id"])
                    if job is not None and job.epoch == lease["epoch"]:
                        job.stop(lease["reason"])
            except Refused as refused:
                if refused.status == 409:
                    over.set()
            except OSError:
                pass  # Tried again below, as long as the lease holds.
            if time.monotonic() > held_until:
                over.set()
            over.wait(min(opened["heartbeat_seconds"], 2))
        self._stop_all("the session is over")

    def _stop_all(self, reason):
        with self._lock:
            for job in self._running.values():
                job.stop(reason)
            self._lock.notify_all()
