#!/bin/sh
# Set up the course from this folder, without internet:   sh setup.sh
# Needs Python @PYTHON@ (the wheels are for it) and about 4 GB of disk. Nothing outside this folder is changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

if [ "$(uname -s) $(uname -m)" != "@PLATFORM@" ]; then
  echo "These wheels are for @PLATFORM@; this machine is $(uname -s) $(uname -m)." >&2
  echo "Make a bundle on such a machine (make bundle), or set up with internet: cd course && make setup" >&2
  exit 1
fi

python=""
for name in ${PYTHON:-} python@PYTHON@ python3 python; do
  if "$name" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "@PYTHON@")' >/dev/null 2>&1; then
    python=$name
    break
  fi
done
if [ -z "$python" ]; then
  echo "No Python @PYTHON@ that can make environments was found, and the wheels are for that one." >&2
  echo "Install it, or name it: PYTHON=/path/to/python@PYTHON@ sh setup.sh" >&2
  exit 1
fi

echo "Checking the files."
if command -v sha256sum >/dev/null 2>&1; then sums="sha256sum"; else sums="shasum -a 256"; fi
if ! $sums -c SHA256SUMS >.check.log 2>&1; then
  grep -v ': OK$' .check.log >&2 || true
  echo "Files are damaged or missing: unpack the archive again, or copy it again." >&2
  exit 1
fi
rm -f .check.log

# The machine's own pip settings are left out: they may name indexes that cannot be reached from here.
export PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1
cd course
test -x .venv/bin/python || "$python" -m venv .venv
echo "Installing @COUNT@ packages into course/.venv; this takes some minutes."
pip() { .venv/bin/python -m pip install -q --no-index --find-links ../wheels "$@"; }
pip --no-deps --require-hashes -r requirements.lock -r requirements-site.lock
pip --no-build-isolation -e .  # and PyTorch, which the sums above have verified
touch .venv/ready .venv/site-ready  # make asks these files whether the set-up is complete

cd "$here"
mkdir -p cache  # where start.sh says that data lie, also when none was packed
status=0
sh start.sh .venv/bin/python -m coursekit doctor --offline || status=$?
echo
echo "The book:      open book/index.html in a browser"
echo "The lessons:   sh start.sh                  (JupyterLab)"
echo "All lessons:   sh start.sh make course      (needs make)"
exit $status
