#!/bin/sh
# Installs the packages of web.json, llama.json and report.json below the folder given, where Node.js and npm are.
here=$(cd "$(dirname "$0")" && pwd)
command -v node >/dev/null && command -v npm >/dev/null || { echo "no Node.js and npm here"; exit 0; }
for name in web llama report; do
    folder=$1/$name
    # llama.cpp for every kind of card would be 1 GB
    omit=$([ $name = llama ] && echo --omit=optional)
    cmp -s "$here/$name.json" "$folder/package.json" && [ -d "$folder/node_modules" ] && continue
    rm -rf "$folder" && mkdir -p "$folder" && cp "$here/$name.json" "$folder/package.json"
    (cd "$folder" && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts $omit) ||
        { rm -rf "$folder"; echo "npm cannot install $name.json here; its tests are skipped"; }
done
