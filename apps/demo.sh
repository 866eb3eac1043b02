#!/usr/bin/env bash
# What `make demo` shows: two small models of the real architectures, trained by this program, count receipts in pictures they
# have not seen; then the question this program is for: may one replace the other?
# Usage: apps/demo.sh PROGRAM [SEED]
set -euo pipefail
program=$(realpath "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(dirname "$(dirname "$program")")/demo
seed=${2:-$(date +%s)}
zoo=$folder/models/zoo.yaml
export XDG_CACHE_HOME=$folder/cache

show() {
  printf '\n$ vlmzoo'
  printf ' %q' "$@"
  printf '\n'
  "$program" "$@"
}

rm -rf "$folder"
mkdir -p "$folder"
cp -r "$root/configs/demo" "$folder/models"
cd "$folder"

echo "The models of configs/demo/ were trained from nothing on synthetic pictures (make demo-models). From one to the other:"
diff models/internvl.yaml models/llama_vision.yaml | grep '^[<>]' || true
show info --config models/internvl.yaml
show info --config models/llama_vision.yaml

echo
echo "Fresh pictures, with a seed of their own:"
show synth receipts --count 300 --seed "$seed" --output pictures --quiet
for model in internvl llama_vision; do
  show classify --config "models/$model.yaml" pictures/images/000000{0,1,2,3,4,5}.jpg
  show ask --config "models/$model.yaml" --image pictures/images/0000000.jpg --prompt "How many receipts are there?"
  show eval --config "models/$model.yaml" --data pictures --split all --answers --output "eval_$model"
done

echo
echo "Switching is one line of the zoo file, and so is the way back:"
show switch llama_vision --zoo "$zoo" --reason "the demo"
show rollback --zoo "$zoo"
show history --zoo "$zoo"

echo
echo "May llama_vision replace internvl?"
show compare --zoo "$zoo" --baseline internvl --candidate llama_vision --data pictures --split all --answers --output comparison
set +e
show verify --zoo "$zoo" --baseline internvl --candidate llama_vision --data pictures --split all --max-latency 5x
verdict=$?
set -e
[ $verdict -eq 0 ] || [ $verdict -eq 3 ] || exit $verdict

echo
echo "Reports: $folder/comparison/report.html, $folder/eval_internvl/report.html, $folder/eval_llama_vision/report.html"
