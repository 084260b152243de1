#!/bin/bash
# demo.sh PYLOW: a small Python service under load, and what pylow says about it. Needs root.
set -euo pipefail
pylow=$(realpath "$1")
graph=$PWD/demo-flame.svg
program=$(dirname "$0")/live/demo_service.py

exec {ready}< <(exec python3 "$program")
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
read -r pid <&"$ready" || { echo "demo: the service did not start" >&2; exit 1; }

show() {
	echo
	echo "\$ pylow $*"
	"$pylow" "$@"
}
echo "A JSON service with 4 clients runs as PID $pid ($program)."
show triage "$pid"
show pycpu "$pid" --duration 3
show flame "$pid" --duration 3 --output "$graph"
echo
echo "The flame graph is $graph: open it in a browser. The service is stopped now."
