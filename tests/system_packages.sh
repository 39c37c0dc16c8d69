#!/usr/bin/env bash
# Chromium for the browser tests: installed where that is possible, otherwise those tests skip and say so.
set -u
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium for the browser tests"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
    >/dev/null 2>&1 || echo "chromium could not be installed: the browser tests will skip"
else
  echo "no chromium here and no right to install it: the browser tests will skip"
fi
