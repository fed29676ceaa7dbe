#!/bin/sh
# Audit a classifier before its release, and fail where it gives away more than the bound, or where the audit could not
# have seen it. Exit codes: those of `latentprint gate`.
#
#   VICTIM=victim.yaml BOUND=label.leak=0.2 OUT=runs/release sh gate.sh --set "data.private={kind: folder, path: photos}"
#
# Arguments are those of `latentprint audit label`. An interrupted audit goes on where it stopped.
set -eu
: "${OUT:=runs/release}" "${BOUND:=label.leak=0.2}"
[ -e "$OUT/config.yaml" ] && resume=--resume || resume=
latentprint audit label ${VICTIM:+--victim "$VICTIM"} --out "$OUT" $resume "$@"
latentprint gate "$OUT" --max "$BOUND" --bound high --strict \
  --junit "$OUT/gate.xml" --sarif "$OUT/gate.sarif" --markdown "$OUT/gate.md"
