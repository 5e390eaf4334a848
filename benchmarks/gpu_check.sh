#!/usr/bin/env bash
# What must be seen on a GPU, in the order of its value; one table at the end. docs/gpu.md says what for.
#
#   OUT=out benchmarks/gpu_check.sh                      all stages: tests trainings first speed walker
#   OUT=out benchmarks/gpu_check.sh tests speed          some of them
#   OUT=out DEVICE=cpu TINY=1 BUDGET=3000 benchmarks/gpu_check.sh    a trial of the script itself, without a GPU
#
# Every step has a limit of its own and counts against BUDGET seconds (550); what no time is left for is skipped,
# and a step that fails stops no other. Where something ends this script after T seconds, BUDGET is at most T - 50. On a GPU tests and short trainings run side by side, what is timed alone.
# TDMPC2=CHECKOUT times a clone of TD-MPC2's own program beside ours. On a machine without our dependencies, a
# file .bundle.tgz in the checkout (see gpu_bundle.sh) is unpacked and used. $OUT gets times.jsonl and, after what runs
# side by side and after every step that is timed, summary.md, curves.jsonl and logs.tgz in pieces of 15 MiB.
set -u
cd "$(dirname "$0")/.."
ROOT=$PWD
OUT=$(mkdir -p "${OUT:-gpu_check}" && cd "${OUT:-gpu_check}" && pwd)
DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} BUDGET=${BUDGET:-550} TINY=${TINY:-}
STAGES=${*:-tests trainings first speed walker}
WORK=$(mktemp -d)
if [ -f .bundle.tgz ] && [ ! -d .bundle ]; then
    tar xzf .bundle.tgz
    [ -d .bundle ] || { echo ".bundle.tgz: expected a folder .bundle in it, got $(tar tzf .bundle.tgz | head -n 1)" >&2; exit 2; }
fi
[ -d .bundle ] && PYTHONPATH=$ROOT/.bundle
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/dreammpc-inductor}
: > "$OUT/times.jsonl"; : > "$WORK/steps.tsv"
if [ -n "$TINY" ]; then
    SIZE=nano STEPS=300 SEED_STEPS=200 RUNS=2 MANY=2 WALKER_S=40 SLOWER=6
    FIRST="steps=300 algorithm.seed_steps=50 save_every=300"
else
    SIZE=5M STEPS=3000 SEED_STEPS=1000 RUNS=50 MANY=64 WALKER_S=240 SLOWER=1 FIRST=
fi

# summary: waits for what runs in the background, then writes all of $OUT but times.jsonl anew
summary() {
    wait
    for file in "$WORK"/run-*/metrics.jsonl; do
        [ -f "$file" ] && sed "s/^{/{\"run\": \"$(basename "${file%/metrics.jsonl}" | cut -c5-)\", /" "$file"
    done > "$OUT/curves.jsonl"
    "$PYTHON" benchmarks/gpu_summary.py "$WORK/steps.tsv" "$OUT" > "$OUT/summary.md" || cat "$WORK/steps.tsv" >> "$OUT/summary.md"
    tar czf - -C "$WORK" $(cd "$WORK" && ls ./*.log steps.tsv 2>/dev/null) | split -b 15M - "$OUT/logs.tgz."
}

# step NAME LIMIT COMMAND...: a line in steps.tsv with the exit code, the seconds and the last line that was printed
step() {
    local name=$1 limit=$(($2 * SLOWER)) left=$((BUDGET - SECONDS)) began=$SECONDS code
    shift 2
    if [ "$left" -lt 15 ]; then
        printf '%s\tskipped\t0\tno time left\n' "$name" >> "$WORK/steps.tsv"
        return
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    timeout -k 30 --preserve-status "$limit" "$@" > "$WORK/$name.log" 2>&1
    code=$?
    [ "$name" != walker ] && [ $((SECONDS - began)) -ge "$limit" ] && code="out of time"
    printf '%s\t%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - began))" \
        "$(tr '\r' '\n' < "$WORK/$name.log" | grep -v '^[[:space:]]*$' | tail -n 1 | tr '\t' ' ' | cut -c1-150)" >> "$WORK/steps.tsv"
}

timed() { step "$@"; summary; }

# train NAME LIMIT key=value...: a training in $WORK/run-NAME
train() {
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$PYTHON" recipes/train.py "folder=$WORK/run-$name" tracking=none evaluation.video=false \
        "trainer.accelerator=$DEVICE" "$@"
}

# together COMMAND...: in the background on a GPU, one by one in a trial
together() { if [ -n "$TINY" ]; then "$@"; else "$@" & fi; }

short() {
    local name=$1 mode=$2
    shift 2
    train "$name" 180 "steps=$STEPS" "algorithm.seed_steps=$SEED_STEPS" "save_every=$STEPS" "evaluation.every=$STEPS" \
        evaluation.episodes=2 'evaluation.planners=[policy]' "trainer.compile=$mode" "$@"
}

graphs() { # a training, and one that goes on from it
    short tdmpc2-graphs graphs env.num_envs=8 replay.storage=device
    train resumed 120 "resume=$WORK/run-tdmpc2-graphs/checkpoints/last.ckpt" "steps=$((STEPS + 200))" \
        evaluation.episodes=2 'evaluation.planners=[policy]' trainer.compile=graphs env.num_envs=8 replay.storage=device
}

for stage in $STAGES; do
    case $stage in
    tests) # which say what failed when their time is over, too
        PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 together step tests 150 "$PYTHON" -c \
            'import pytest, signal, sys; signal.signal(signal.SIGTERM, signal.default_int_handler); sys.exit(pytest.main(sys.argv[1:]))' \
            -v --tb=short -p no:cacheprovider -m gpu $(grep -l 'mark\.gpu' tests/test_*.py)
        ;;
    trainings) # here it matters that they work, not how fast they are
        together graphs
        together short tdmpc2-off off
        together short tdmpc2-default default
        together short bmpc-graphs graphs algorithm=bmpc replay.storage=device
        together short pixels-graphs graphs obs=pixels algorithm.batch_size=32 planner=policy
        together short async-default default collector=async collector.workers=2
        ;;
    first) # README's first command
        summary
        train first 240 experiment=cartpole-swingup $FIRST
        summary
        ;;
    speed) # what the aims are of comes first
        summary
        update=("$PYTHON" benchmarks/update.py --device "$DEVICE" --sizes $SIZE --runs $RUNS --json "$OUT/times.jsonl")
        plan=("$PYTHON" benchmarks/latency.py --device "$DEVICE" --sizes $SIZE --runs $RUNS --json "$OUT/times.jsonl")
        timed updates 100 "${update[@]}" --settings graphs-bf16 eager-bf16
        timed plans 90 "${plan[@]}" --batch 1 --modes graphs --planners mppi dream_mpc
        timed plans-many 60 "${plan[@]}" --batch $MANY --modes graphs --planners dream_mpc
        [ -d "${TDMPC2:-}" ] && timed authors 150 "$PYTHON" benchmarks/authors.py "$TDMPC2" --device "$DEVICE" --runs $RUNS --json "$OUT/times.jsonl"
        timed updates-compiled 40 "${update[@]}" --settings compiled-bf16
        timed plans-compiled 40 "${plan[@]}" --modes compiled --planners mppi dream_mpc
        ;;
    walker) # all the time that is left, at most four minutes; SIGTERM ends it in good order: exit code 143
        summary
        train walker $WALKER_S task=walker-walk "model=$SIZE" env.num_envs=8 trainer.compile=graphs replay.storage=device steps=2000000 \
            evaluation.every=1000000 save_every=1000000
        ;;
    *) echo "unknown stage $stage; there are: tests trainings first speed walker" >&2; exit 2 ;;
    esac
done
summary
cat "$OUT/summary.md"
