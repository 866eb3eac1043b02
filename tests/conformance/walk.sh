#!/usr/bin/env bash
# Runs the commands that a document shows (its ```sh blocks), in one shell, from the root of the tree.
# Usage: walk.sh BUILD DOCUMENT
set -euo pipefail
build=$1
commands=$(awk '/^```sh$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$2")
[ -n "$commands" ] || { echo "$2 shows no commands"; exit 1; }
cd "$(dirname "$0")/../.."
rm -rf "$build/walk"
bash -euxo pipefail -c "${commands//build\/release/$build}"
