"""Writes a world's prices into a semantic-router configuration. usage: prices.py WORLD_TOML PLUGIN_YAML"""

import pathlib
import re
import sys
import tomllib

world = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())
plugin = pathlib.Path(sys.argv[2])
text = plugin.read_text()
for model in world["models"]:
    line = re.compile(r"(\{model: " + re.escape(model["name"]) + r", price: )\{[^}]*\}")
    price = f"{{input: {model['price_in']}, output: {model['price_out']}}}"
    text, found = line.subn(lambda match: match.group(1) + price, text)
    if found != 1:
        sys.exit(f"{plugin}: the candidate {model['name']} of {sys.argv[1]} is not there")
plugin.write_text(text)
