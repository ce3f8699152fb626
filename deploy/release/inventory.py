"""What a binary of this workspace is made of, by `cargo metadata` and Cargo.lock.

    inventory.py sbom      the bill of materials as CycloneDX 1.6, JSON
    inventory.py notices   licences of everything built in, with their texts

Both name the crates that the package `relevo` links, not those of tests and benches. They depend on
the sources alone: the same checkout gives the same bytes.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "relevo"
# Files of a crate that hold a licence or must come along with its code.
TEXTS = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)
TEXT_BYTES_MAX = 256 * 1024


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(told.stdout)


def linked(world):
    """The packages that the binary links, by id, and what each of them links."""
    nodes = {node["id"]: node for node in world["resolve"]["nodes"]}
    packages = {package["id"]: package for package in world["packages"]}
    start = next(
        id for id, one in packages.items() if one["name"] == NAME and one["source"] is None
    )
    links, waiting = {}, [start]
    while waiting:
        id = waiting.pop()
        if id in links:
            continue
        links[id] = sorted(
            dep["pkg"]
            for dep in nodes[id]["deps"]
            # Neither what only tests need nor what only build scripts do.
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
        )
        waiting += links[id]
    return start, {id: packages[id] for id in sorted(links)}, links


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def expression(package):
    # The form of before SPDX expressions.
    return (package.get("license") or "").replace("/", " OR ") or None


def component(package, known):
    made = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "scope": "required",
    }
    if package.get("description"):
        made["description"] = " ".join(package["description"].split())
    if expression(package):
        made["licenses"] = [{"expression": expression(package)}]
    checksum = known.get((package["name"], package["version"]))
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def sbom(target):
    start, packages, links = linked(metadata(target))
    known = checksums()
    own = component(packages[start], known) | {"type": "application"}
    del own["scope"]
    components = [component(one, known) for id, one in packages.items() if id != start]
    dependencies = [
        {"ref": purl(packages[id]), "dependsOn": sorted({purl(packages[to]) for to in links[id]})}
        for id in packages
    ]
    lock = hashlib.sha256((ROOT / "Cargo.lock").read_bytes()).hexdigest()
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the same sources always the same.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{NAME} {target} {lock}')}",
        "version": 1,
        "metadata": {"component": own, "properties": [{"name": "target", "value": target}]},
        "components": sorted(components, key=lambda one: one["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda one: one["ref"]),
    }
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    print()


def texts(package):
    folder = Path(package["manifest_path"]).parent
    named = [folder / package["license_file"]] if package.get("license_file") else []
    found = {path for path in folder.iterdir() if TEXTS.match(path.name)} | set(named)
    for path in sorted(found):
        if path.is_file() and path.stat().st_size <= TEXT_BYTES_MAX:
            yield path.name, path.read_text(encoding="utf-8", errors="replace").strip()


def notices(target):
    _, packages, _ = linked(metadata(target))
    others = [one for one in packages.values() if one["source"] is not None]
    print("Relevo contains the work of others, under the licences named here.\n")
    by_text = {}
    for package in others:
        label = f"{package['name']} {package['version']}"
        print(f"  {label:<44}{expression(package) or 'see its text'}")
        for name, text in texts(package):
            # The same text in another line width is the same text.
            key = " ".join(text.split())
            by_text.setdefault(key, (text, []))[1].append(f"{label} ({name})")
    for text, users in by_text.values():
        print(f"\n{'=' * 78}\n{'; '.join(users)}\n{'-' * 78}\n\n{text}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sbom", "notices"])
    parser.add_argument("--target", default="x86_64-unknown-linux-gnu")
    arguments = parser.parse_args()
    {"sbom": sbom, "notices": notices}[arguments.what](arguments.target)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        # Whoever reads has seen enough.
        os._exit(0)
