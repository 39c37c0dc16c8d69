#!/usr/bin/env bash
# Debian packages that some tests need: installed where that is possible, otherwise those tests skip and say so.
set -u
missing=()
command -v chromium >/dev/null || missing+=(chromium)
compgen -G "/usr/lib/postgresql/*/bin/pg_ctl" >/dev/null || missing+=(postgresql)
[ "${#missing[@]}" = 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]} for the tests"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >/dev/null 2>&1 || echo "${missing[*]} could not be installed: the tests that need it will skip"
else
  echo "no ${missing[*]} here and no right to install it: the tests that need it will skip"
fi
