#!/usr/bin/env python3
"""`./dev corpus DIR`: imports every dump of a folder and checks it against the folder's manifest.

  run.py RELEVO DIR URL [FILE…]

RELEVO is the binary, URL a superuser's on a server where databases may be made, FILE the beginning of a
dump's name. Each dump goes into a database of its own. The values are checked by the folder's own
verify.py where it has one, else by ours; then keys, indexes and what the certificate says. Exit status 1
when anything differs that the certificate does not name and count.
"""

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
# No single dump of a corpus takes longer.
LIMIT_SECONDS = 900
# With which a folder's own verify.py reads tables.
PSYCOPG = "psycopg[binary]==3.3.9"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def python_with_psycopg(relevo):
    """This Python if it has the package, else one of a virtual environment near the binary, made once."""
    if importlib.util.find_spec("psycopg"):
        return sys.executable
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(relevo))), "peers", "psycopg")
    os.makedirs(folder, exist_ok=True)
    own, complete = os.path.join(folder, "venv"), os.path.join(folder, "complete")
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(complete):
            venv.create(own, with_pip=True, clear=True)
            pip = os.path.join(own, "bin", "pip")
            made = run(pip, "install", "--quiet", "--disable-pip-version-check", PSYCOPG)
            if made.returncode:
                sys.exit(f"psycopg cannot be installed: {made.stderr.strip()}")
            # Written last: what has it is complete.
            open(complete, "w").close()
    return os.path.join(own, "bin", "python")


def verifier(relevo, folder):
    """How the folder's values are checked: by its own verify.py where it has one, else by ours."""
    theirs = os.path.join(folder, "verify.py")
    if os.path.exists(theirs):
        return [python_with_psycopg(relevo), theirs]
    return [sys.executable, os.path.join(HERE, "verify.py")]


def documents(text):
    """A certificate, or the list of them that --map gives."""
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def compare(entry, checked, certificates):
    """Splits what is not as in the manifest into what is documented and what is not."""
    documented, problems = [], list(checked["problems"])
    counts, objects = entry["counts"], checked["objects"]
    notices = [notice for certificate in certificates for notice in certificate["notices"]]
    # Each certificate lists those of the whole dump.
    skipped = [thing["kind"] for thing in certificates[0]["skipped"]]
    nulled = sum(sum(table["stats"]["nulled_dates"].values())
                 for certificate in certificates for table in certificate["tables"])
    if counts.get("zero_dates", 0):
        told = documented if nulled >= counts["zero_dates"] else problems
        told.append(f"{counts['zero_dates']} zero dates are NULL, {nulled} counted")
    for what in ("primary_keys", "foreign_keys", "indexes"):
        wanted, found = counts.get(what, 0), objects.get(what, 0)
        if found != wanted:
            left_out = sum(bool(re.search(r"index|FULLTEXT|SPATIAL|foreign key", notice)) for notice in notices)
            told = documented if what != "primary_keys" and 0 < wanted - found <= left_out else problems
            told.append(f"{found} of {wanted} {what.replace('_', ' ')}")
    for what, kind in (("views", "view"), ("triggers", "trigger"), ("routines", "routine"), ("events", "event")):
        wanted = counts.get(what, 0)
        made = objects.get(what, 0) if what == "views" else 0
        if wanted > made:
            listed = skipped.count(kind)
            (documented if made + listed >= wanted else problems).append(f"{listed} of {wanted} {what} listed, not made")
    return documented, problems


def check(relevo, folder, verify, url, entry, number):
    """Imports one dump into a fresh database; what is documented and what is wrong."""
    name = f"relevo_corpus_{os.getpid()}_{number}"
    base = url.rsplit("/", 1)[0]
    own = f"{base}/{name}"
    dump = os.path.join(folder, entry["file"])
    databases = [database for database, held in entry["databases"].items() if held["tables"]]
    several = len(entry["databases"]) > 1
    try:
        made = run("psql", "-Xq", "-d", url, "-c", f"CREATE DATABASE {name} TEMPLATE template0")
        if made.returncode:
            return [], [made.stderr.strip()]
        maps = ["--map=" + ",".join(f"{database}={database}" for database in databases)] if several else []
        with tempfile.TemporaryDirectory() as data:
            imported = run("env", f"RELEVO_DATA_DIR={data}", relevo, "dump", "import", dump, "--to", own, "--json", *maps)
        if imported.returncode:
            return [], [f"exit {imported.returncode}: {imported.stderr.strip()[-400:]}"]
        manifest = os.path.join(folder, "manifest.json")
        answer = run(*verify, own, "*" if several else "public", manifest, entry["file"], "--json")
        if not answer.stdout.strip():
            return [], [answer.stderr.strip()[-400:]]
        return compare(entry, json.loads(answer.stdout), documents(imported.stdout))
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return [], [f"{type(error).__name__}: {error}"]
    finally:
        run("psql", "-Xq", "-d", url, "-c", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def main():
    relevo, folder, url, *wanted = sys.argv[1:]
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as source:
        entries = json.load(source)["files"]
    entries = [entry for entry in entries if not wanted or entry["file"].startswith(tuple(wanted))]
    if not entries:
        sys.exit("no dump of that name in the manifest")
    verify = verifier(relevo, folder)
    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = list(pool.map(lambda pair: check(relevo, folder, verify, url, pair[1], pair[0]), enumerate(entries)))
    width = max(len(entry["file"]) for entry in entries)
    failed = 0
    for entry, (documented, problems) in zip(entries, outcomes):
        counts = entry["counts"]
        failed += bool(problems)
        said = "; ".join(["DIFFERS: " + problem for problem in problems] + documented)
        print(f"{entry['file']:{width}} {counts['tables']:5} tables {counts['rows']:8} rows  {said or 'equal'}")
    tables = sum(entry["counts"]["tables"] for entry in entries)
    rows = sum(entry["counts"]["rows"] for entry in entries)
    print(f"{len(entries) - failed} of {len(entries)} dumps as their manifest says ({tables} tables, {rows} rows)")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
