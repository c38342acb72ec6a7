#!/usr/bin/env bash
# Prints the alerts as they arrive in the inbox queue, until it is stopped.
set -euo pipefail
# A container's first process ignores the signals that it does not ask for.
trap 'exit 0' TERM INT
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
url=$(queue_url cmkeeper-alert-inbox)
messages=$(mktemp)

# member NAME BODY: a text of the alert, as JSON has it.
member() {
  local pattern="\"$1\":\"(([^\"\\]|\\\\.)*)\""
  [[ $2 =~ $pattern ]] && printf '%s' "${BASH_REMATCH[1]}"
}

while true; do
  # In the background, since a signal is handled only between two commands.
  cli sqs receive-message --queue-url "$url" --max-number-of-messages 10 --wait-time-seconds 10 \
    --query 'Messages[].[ReceiptHandle,Body]' --output text >"$messages" &
  wait $!
  while IFS=$'\t' read -r handle body; do
    [ -n "$body" ] || continue # the word None
    printf '%-8s %-12s %s\n' "$(member severity "$body")" "$(member kind "$body")" "$(member title "$body")"
    cli sqs delete-message --queue-url "$url" --receipt-handle "$handle"
  done <"$messages"
done
