"""Canonical texts and checksums of rows, as corpus manifests define them.

A row is the MD5 of the concatenation, over its columns in order, of `N;` for NULL and otherwise `V`,
the length of the canonical text in bytes, `:`, the text, `;`. A table's checksum is the sum of its
rows' hashes, read as big-endian numbers, modulo 2^128.
"""

import hashlib
import json
import re
import struct
from decimal import Decimal


def decimal(text):
    plain = format(Decimal(text), "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


def whole(text):
    return str(int({"true": 1, "false": 0}.get(text, text)))


def single(text):
    number = struct.unpack("<f", struct.pack("<f", float(text)))[0]
    return "0" if number == 0 else "%.6g" % number


def double(text):
    return "0" if float(text) == 0 else "%.15g" % float(text)


def date(text):
    """None for a date with a month or a day of zero."""
    year, month, day = text[:10].split("-")
    return None if month == "00" or day == "00" else f"{year}-{month}-{day}"


def moment(text):
    """A date with time: no zone (it is UTC), no trailing zeros in its fraction."""
    day = date(text)
    clock, _, fraction = re.sub(r"[+-]\d\d(:?\d\d)?$", "", text[11:]).partition(".")
    fraction = fraction.rstrip("0")
    return day and f"{day} {clock}" + (f".{fraction}" if fraction else "")


def seconds(text):
    """A span of time, `-838:59:59.5`, in seconds."""
    match = re.fullmatch(r"(-?)(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    if not match:
        return decimal(text)
    sign, hours, minutes, rest = match.groups()
    span = int(hours) * 3600 + int(minutes) * 60 + Decimal(rest)
    return decimal(f"{sign}{span}")


def document(text):
    def write(value):
        if isinstance(value, dict):
            pairs = (json.dumps(key, ensure_ascii=False) + ":" + write(value[key]) for key in sorted(value))
            return "{" + ",".join(pairs) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            return "%.15g" % value
        return json.dumps(value, ensure_ascii=False)

    return write(json.loads(text, parse_float=Decimal))


def plain(text):
    return text.replace("\0", "")


CANONICAL = {
    "int": whole,
    "bit": whole,
    "year": lambda text: str(int(text)),
    "decimal": decimal,
    "float": single,
    "double": double,
    "date": date,
    "datetime": moment,
    "timestamp": moment,
    "time": seconds,
    "text": plain,
    "char": lambda text: plain(text).rstrip(" "),
    "enum": plain,
    "set": plain,
    "json": document,
    "binary": str.lower,
}


class Sum:
    """The checksum of rows, one after the other, and of each column alone."""

    def __init__(self, kinds):
        self.kinds, self.rows, self.total = kinds, 0, 0
        self.columns, self.nulls, self.zero_dates = [0] * len(kinds), [0] * len(kinds), 0

    def add(self, texts):
        parts = []
        for place, (kind, text) in enumerate(zip(self.kinds, texts)):
            value = None if text is None else CANONICAL[kind](text)
            self.zero_dates += text is not None and value is None
            self.nulls[place] += value is None
            coded = b"" if value is None else value.encode()
            part = b"N;" if value is None else b"V%d:%s;" % (len(coded), coded)
            self.columns[place] += int.from_bytes(hashlib.md5(part).digest(), "big")
            parts.append(part)
        self.rows += 1
        self.total += int.from_bytes(hashlib.md5(b"".join(parts)).digest(), "big")

    @staticmethod
    def text(total):
        return "%032x" % (total & ((1 << 128) - 1))
