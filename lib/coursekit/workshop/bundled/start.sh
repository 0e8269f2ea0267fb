#!/bin/sh
# JupyterLab with the lessons:   sh start.sh       Any other command in the course's folder:   sh start.sh make course NB=02
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export SCFM_CACHE="$here/cache${SCFM_CACHE:+:$SCFM_CACHE}" HF_HUB_OFFLINE=1
cd "$here/course"
test -x .venv/bin/python || { echo "The course is not set up yet: sh setup.sh" >&2; exit 1; }
if [ $# -eq 0 ]; then set -- .venv/bin/python -m jupyter lab notebooks; fi
exec "$@"
