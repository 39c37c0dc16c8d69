#!/usr/bin/env bash
# Run `make demo` on the smoke profile, from pull to report, and `sft --print-plan` under each supported Python but that
# of the tests. Each runs as after a download: in a copy without .git, in a folder whose name has a space and an umlaut,
# in an environment of its own. The other Pythons get the PyTorch of the lock, built for CUDA: 5 GB that uv downloads
# once and then links from its cache (here 13 s at first, then 1 s), so no part of the run has to be left out.
set -euo pipefail
cd "$(dirname "$0")/.."
unset MAKEFLAGS MFLAGS MAKELEVEL
# Not /tmp, which may be memory: uv copies where it cannot link.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/indus-cot-smoke.XXXXXX")
trap 'rm -rf "$work"' EXIT
LIMIT_S=300 # of installing
NEEDED_KB=8000000

smoke() { # VERSION
  local python folder log started installed status=0
  python=$(install/find_python.sh "python$1")
  if [ -z "$python" ]; then
    echo "smoke: Python $1 skipped: not found, neither on PATH nor in pyenv"
    return
  fi
  if [ "$(df -Pk "$work" | awk 'NR == 2 {print $4}')" -lt "$NEEDED_KB" ]; then
    echo "smoke: Python $1 skipped: its PyTorch takes $((NEEDED_KB / 1000000)) GB, which $work does not have"
    return
  fi
  folder="$work/Prüfung mit $1" log="$work/$1.log" started=$SECONDS
  mkdir "$folder"
  git ls-files -z --cached --others --exclude-standard -- . ':!dvc.lock' |
    tar --create --null --files-from - --ignore-failed-read 2>/dev/null | tar --extract --directory "$folder"
  cd "$folder"
  timeout "$LIMIT_S" make PYTHON="$python" .venv/.installed >"$log" 2>&1 || status=$?
  if [ "$status" = 124 ]; then
    echo "smoke: Python $1 skipped: its packages could not be installed within $LIMIT_S s"
    return
  fi
  installed=$((SECONDS - started))
  if [ "$status" = 0 ] && make PROFILE=smoke demo >>"$log" 2>&1 && [ -s reports/index.html ] &&
    .venv/bin/indus-cot --profile smoke sft --print-plan >>"$log" 2>&1; then
    echo "smoke: Python $1 passed: installed in $installed s, run in $((SECONDS - started - installed)) s"
  else
    echo "smoke: Python $1 FAILED:"
    tail -n 40 "$log"
    return 1
  fi
}

jobs=()
tests_run_under=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_python_version())')
for version in 3.11 3.12 3.13; do
  [ "$version" = "$tests_run_under" ] && continue
  smoke "$version" &
  jobs+=($!)
done
status=0
for job in "${jobs[@]}"; do wait "$job" || status=1; done
exit "$status"
