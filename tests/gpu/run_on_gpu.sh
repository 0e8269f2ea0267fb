#!/bin/sh
# All checks that need a GPU, in under seven minutes, from the repository's folder:   sh tests/gpu/run_on_gpu.sh [OUT]
# Needs neither network nor .venv: PYTHON (default python3) with the course's packages. The lessons run eight at a time in the gpu
# profile, with the minis on bundled cells; their runs stay in runs/, and packed in OUT/runs.tar.gz. (The README's GPU column takes
# runs with the profile's own sets only: make course PROFILE=gpu, then make readme.)
set -u
python=${PYTHON:-python3}
out=${1:-}
export PYTHONPATH="lib${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 LESSONS_GPU=minis
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$PWD/.cache/numba}"
PYTHONPATH="$PWD/$PYTHONPATH"
logs=$(mktemp -d)
bad=0

"$python" -m coursekit doctor --offline
timeout 130 "$python" -m pytest -q -rs -m gpu tests/gpu --ignore tests/gpu/test_lessons_gpu.py || bad=1

names=$("$python" -c 'from coursekit.course import find_root, lessons; print(*[l.name for l in lessons(find_root())])')
one() {
  OMP_NUM_THREADS=4 timeout 270 "$python" -m pytest -q -m gpu tests/gpu/test_lessons_gpu.py -k "$1" >"$logs/$1" 2>&1
  echo "== $1: exit status $?" >>"$logs/$1"
}
running=0
for name in $names; do
  one "$name" &
  running=$((running + 1))
  if [ $((running % 8)) -eq 0 ]; then wait; fi
done
wait
for name in $names; do
  tail -n 25 "$logs/$name"
  grep -q "exit status 0" "$logs/$name" || bad=1
done
if [ -n "$out" ]; then
  cp -r "$logs" runs/gpu-logs
  tar czf "$out/runs.tar.gz" runs/gpu-logs runs/*/*-gpu*
  rm -r runs/gpu-logs
fi
rm -r "$logs"
exit $bad
