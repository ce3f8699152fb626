"""An example: keeps prices in files of the folder that PRICES names, one for each article."""

import os
import pathlib
import time

from relevo_worker import Fail, Retry, Worker

FOLDER = pathlib.Path(os.environ.get("PRICES", "."))

worker = Worker("prices in Python", slots=4, lease_seconds=int(os.environ.get("LEASE", "30")))

SCHEMA = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z0-9-]{1,40}$"},
        "cents": {"type": "integer", "minimum": 0},
        "fails": {"type": "integer", "minimum": 0},
        "takes_seconds": {"type": "integer", "minimum": 0},
    },
    "required": ["sku", "cents"],
    "additionalProperties": False,
}


@worker.kind(
    "PyReprice",
    summary="Keeps the price of one article, in Python.",
    schema=SCHEMA,
    queue="py-prices",
    max_attempts=5,
    backoff_base_seconds=1,
    backoff_cap_seconds=2,
)
def reprice(job):
    price = job.payload
    (FOLDER / f"{price['sku']}.begun").write_text(str(job.epoch))
    if price["cents"] > 1_000_000:
        raise Fail("an article never costs that much")
    if job.attempt <= price.get("fails", 0):
        raise Retry(f"attempt {job.attempt} was told to fail")
    until = time.monotonic() + price.get("takes_seconds", 0)
    while time.monotonic() < until:
        job.check()
        time.sleep(0.05)
    # A file of its own, then a rename: run twice, the price is there once and whole.
    new = FOLDER / f"{price['sku']}.{job.epoch}"
    new.write_text(str(price["cents"]))
    new.rename(FOLDER / price["sku"])


if __name__ == "__main__":
    worker.run()
