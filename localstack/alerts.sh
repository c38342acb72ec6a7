#!/usr/bin/env bash
# Prints the alerts as they arrive in the inbox queue, until it is stopped.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
url=$(queue_url cmkeeper-alert-inbox)
while true; do
  handles=$(cli sqs receive-message --queue-url "$url" --max-number-of-messages 10 --wait-time-seconds 10 --output json)
  [ -n "$handles" ] || continue
  python3 - "$handles" <<'PY'
import json, sys
for m in json.loads(sys.argv[1]).get("Messages", []):
    a = json.loads(m["Body"])
    print(f'{a["severity"]:<8} {a["kind"]:<12} {a["title"]}', flush=True)
PY
  for handle in $(python3 -c 'import json,sys; print("\n".join(m["ReceiptHandle"] for m in json.loads(sys.argv[1]).get("Messages", [])))' "$handles"); do
    cli sqs delete-message --queue-url "$url" --receipt-handle "$handle"
  done
done
