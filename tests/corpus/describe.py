#!/usr/bin/env python3
"""Writes the manifest of a folder of dumps, from what a MariaDB server holds after loading them.

  describe.py SOCKET DIR

SOCKET is that of a server to be filled: its databases of the dumps' names are dropped. The server runs
with sql_mode='' and time zone UTC.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys

from values import Sum

KINDS = {
    "tinyint": "int", "smallint": "int", "mediumint": "int", "int": "int", "bigint": "int", "varchar": "text",
    "tinytext": "text", "text": "text", "mediumtext": "text", "longtext": "text", "varbinary": "binary",
    "tinyblob": "binary", "blob": "binary", "mediumblob": "binary", "longblob": "binary",
}


def main():
    socket, folder = sys.argv[1:]

    def ask(sql, database="mysql"):
        command = ["mariadb", "--no-defaults", "-uroot", f"--socket={socket}", "-N", "--batch", "--raw",
                   "--default-character-set=utf8mb4", database]
        given = sql if isinstance(sql, bytes) else sql.encode()
        answer = subprocess.run(command, input=given, check=True, capture_output=True).stdout.decode()
        return [line.split("\t") for line in answer.split("\n")[:-1]]

    def describe(name):
        with open(os.path.join(folder, name), "rb") as source:
            packed = source.read()
        text = gzip.decompress(packed) if name.endswith(".gz") else packed
        system = {"information_schema", "mysql", "performance_schema", "sys"}
        for (database,) in ask("SHOW DATABASES"):
            if database not in system:
                ask(f"DROP DATABASE `{database}`")
        ask("CREATE DATABASE corpus CHARACTER SET utf8mb4")
        ask(text, "corpus")
        databases = {database: tables for (database,) in ask("SHOW DATABASES")
                     if database not in system and (tables := describe_database(database))["tables"]}
        tables = [table for held in databases.values() for table in held["tables"].values()]
        schemas = ", ".join(f"'{database}'" for database in databases)
        count = lambda table, column: int(ask(f"SELECT count(*) FROM information_schema.{table} WHERE {column} IN ({schemas})")[0][0])
        return {
            "file": name, "bytes": len(text), "md5": hashlib.md5(text).hexdigest(),
            "counts": {
                "tables": len(tables), "rows": sum(table["rows"] for table in tables),
                "primary_keys": sum(bool(table["primary_key"]) for table in tables),
                "indexes": sum(table["indexes"] for table in tables),
                "foreign_keys": sum(table["foreign_keys"] for table in tables),
                "views": count("views", "table_schema"), "triggers": count("triggers", "trigger_schema"),
                "routines": count("routines", "routine_schema"), "events": count("events", "event_schema"),
                "zero_dates": sum(table.pop("zero_dates") for table in tables),
            },
            "databases": databases,
        }

    def describe_database(database):
        names = ask(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' AND table_type = 'BASE TABLE'")
        return {"tables": {name: describe_table(database, name) for (name,) in names}}

    def describe_table(database, name):
        at = f"table_schema = '{database}' AND table_name = '{name}'"
        columns = ask(f"SELECT column_name, data_type, column_type FROM information_schema.columns WHERE {at} ORDER BY ordinal_position")
        checked = " ".join(row[0] for row in ask(
            f"SELECT check_clause FROM information_schema.check_constraints WHERE constraint_schema = '{database}' AND table_name = '{name}'"))
        kinds = ["json" if f"json_valid(`{column}`)" in checked else KINDS.get(data_type, data_type)
                 for column, data_type, _ in columns]
        # Everything in hexadecimal: whatever is in a value, a line stays a row.
        def text(column, kind):
            return f"HEX(`{column}`)" if kind == "binary" else (
                f"HEX(CAST(`{column}` + 0 AS CHAR))" if kind == "bit" else (
                f"HEX(CONVERT(CAST(`{column}` AS DOUBLE), CHAR))" if kind == "float" else f"HEX(CONVERT(`{column}` USING utf8mb4))"))
        texts = ", ".join(text(column, kind) for (column, *_), kind in zip(columns, kinds))
        found = Sum(kinds)
        for row in ask(f"SET time_zone = '+00:00'; SELECT {texts} FROM `{database}`.`{name}`"):
            found.add([None if value == "NULL" else value if kind == "binary" else bytes.fromhex(value).decode()
                       for value, kind in zip(row, kinds)])
        keys = ask(f"SELECT index_name, column_name FROM information_schema.statistics WHERE {at} ORDER BY index_name, seq_in_index")
        foreign = ask(f"SELECT count(*) FROM information_schema.referential_constraints WHERE constraint_schema = '{database}' AND table_name = '{name}'")
        return {
            "rows": found.rows, "checksum": found.text(found.total), "zero_dates": found.zero_dates,
            "primary_key": [column for index, column in keys if index == "PRIMARY"],
            "indexes": len({index for index, _ in keys}), "foreign_keys": int(foreign[0][0]),
            "columns": [{"name": column, "type": column_type, "kind": kind, "nulls": nulls, "checksum": found.text(total)}
                        for (column, _, column_type), kind, nulls, total in zip(columns, kinds, found.nulls, found.columns)],
        }

    dumps = sorted(name for name in os.listdir(folder) if name.endswith((".sql", ".sql.gz")))
    manifest = {"format": 1, "reference": ask("SELECT version()")[0][0], "files": [describe(name) for name in dumps]}
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    main()
