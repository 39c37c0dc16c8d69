#!/usr/bin/env bash
# Print the path of the first of the named Pythons that runs, not the copy in a virtual environment; nothing if none does.
#   install/find_python.sh python3.11 python3.12
# pyenv puts a `python3.13` on PATH that fails until that version is activated, so look in pyenv's own folder as well.
set -u
shopt -s nullglob
for name in "$@"; do
  for python in "$name" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$name"; do
    "$python" -c 'import sys; print(sys._base_executable)' 2>/dev/null && exit 0
  done
done
exit 0
