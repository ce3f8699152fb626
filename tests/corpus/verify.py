#!/usr/bin/env python3
"""Compares imported tables with a corpus manifest; needs psql.

  verify.py URL SCHEMA MANIFEST.json FILE [--json]

SCHEMA `*` stands for one schema per database of the dump. Exit status 0 when every table is there with
the rows and values that the manifest says.
"""

import json
import re
import subprocess
import sys

from values import Sum

# As COPY writes them.
ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "\\": "\\"}


def ask(url, sql):
    """The rows of a query, their values as texts."""
    setup = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1"
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", setup, "-c", f"COPY ({sql}) TO STDOUT"]
    text = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    for line in text.split("\n")[:-1]:
        yield [None if value == r"\N" else unescape(value) for value in line.split("\t")]


def unescape(value):
    return re.sub(r"\\(.)", lambda match: ESCAPES[match[1]], value)


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def column(name, kind, pg_type):
    name = quote(name)
    if pg_type == "bytea":
        return f"encode({name}, 'hex')"
    if pg_type == "interval":
        return f"extract(epoch FROM {name})"
    if pg_type.endswith("[]"):
        return f"array_to_string({name}, ',')"
    if kind == "bit" and pg_type.startswith("bit"):
        return f"{name}::bigint"
    if kind == "binary" and pg_type == "uuid":
        return f"replace({name}::text, '-', '')"
    return f"{name}::text"


def check_table(url, schema, name, table):
    """What is wrong with a table; None when nothing is."""
    types = dict(ask(url, f"""SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = {literal(schema)} AND c.relname = {literal(name)} AND a.attnum > 0 AND NOT a.attisdropped"""))
    wanted = table["columns"]
    if not types:
        return "no such table"
    if missing := [part["name"] for part in wanted if part["name"] not in types]:
        return "no column " + ", ".join(missing)
    texts = ", ".join(column(part["name"], part["kind"], types[part["name"]]) for part in wanted)
    found = Sum([part["kind"] for part in wanted])
    for row in ask(url, f"SELECT {texts} FROM {quote(schema)}.{quote(name)}"):
        found.add(row)
    if found.rows != table["rows"]:
        return f"{found.rows} rows, not {table['rows']}"
    if found.text(found.total) != table["checksum"]:
        other = [part["name"] for part, total in zip(wanted, found.columns) if found.text(total) != part["checksum"]]
        return "differs in " + ", ".join(other)
    return None


OBJECTS = {
    "primary_keys": "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND connamespace = {schema}",
    "foreign_keys": "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = {schema} AND convalidated",
    "indexes": "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = {schema}",
    "views": "SELECT count(*) FROM pg_class WHERE relkind = 'v' AND relnamespace = {schema}",
}


def verify(url, schema, entry):
    result = {"file": entry["file"], "tables": 0, "tables_ok": 0, "rows": 0, "problems": [],
              "objects": dict.fromkeys(OBJECTS, 0)}
    for database, held in entry["databases"].items():
        place = database if schema == "*" else schema
        for name, table in held["tables"].items():
            result["tables"] += 1
            result["rows"] += table["rows"]
            problem = check_table(url, place, name, table)
            result["tables_ok"] += problem is None
            if problem:
                result["problems"].append(f"{name}: {problem}")
        for what, sql in OBJECTS.items():
            namespace = f"to_regnamespace({literal(quote(place))})"
            result["objects"][what] += int(next(ask(url, sql.format(schema=namespace)))[0])
    return result


def main():
    url, schema, manifest, file = (argument for argument in sys.argv[1:] if not argument.startswith("--"))
    with open(manifest, encoding="utf-8") as source:
        entries = [entry for entry in json.load(source)["files"] if entry["file"] == file]
    if not entries:
        sys.exit(f"{manifest} has no {file}")
    result = verify(url, schema, entries[0])
    print(json.dumps(result) if "--json" in sys.argv else result)
    sys.exit(1 if result["problems"] else 0)


if __name__ == "__main__":
    main()
