#!/usr/bin/env bash
# Makes a virtual environment of pinned reference packages below build/ where it isn't there as pinned, and prints its folder.
# Usage: tests/reference/venv.sh internvl|llama-vision
set -euo pipefail
cd "$(dirname "$0")/../.."
case $1 in
  internvl) venv=build/reference-venv options=() requirements=tests/reference/requirements.txt ;;
  # 4.45.2's own pins are older than Python's: exactly the packages of the list.
  llama-vision) venv=build/reference-venv-mllama options=(--no-deps) requirements=tests/reference/requirements-mllama.txt ;;
  *) echo "usage: $0 internvl|llama-vision" >&2 && exit 2 ;;
esac
if ! cmp -s $requirements $venv/ready; then
  python3 -m venv $venv
  $venv/bin/pip install -q --no-deps torch==2.13.0 >&2
  $venv/bin/pip install -q "${options[@]}" -r $requirements >&2
  cp $requirements $venv/ready
fi
echo $venv
