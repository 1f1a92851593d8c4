"""Reads a dashboard as Grafana's own types have it, and writes it again: what they do not know is lost.

Says on standard output each value that did not come back; nothing where the dashboard fits its schema.
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()
with open(sys.argv[1], encoding="utf-8") as file:
    before = json.load(file)
after = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(before)))


def compare(before, after, place):
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                compare(value, after[key], f"{place}.{key}")
            elif value not in (None, [], {}):
                print(f"{place}.{key}: unknown")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (one, other) in enumerate(zip(before, after)):
            compare(one, other, f"{place}[{at}]")
    elif before != after:
        print(f"{place}: {before!r} became {after!r}")


compare(before, after, "")
