# Sourced by the scripts beside it: which AWS CLI, which endpoint, which names.
# LocalStack's image has awslocal; elsewhere the AWS CLI with AWS_ENDPOINT_URL.

export AWS_PAGER="" AWS_DEFAULT_REGION="${AWS_DEFAULT_REGION:-us-east-1}"
region=$AWS_DEFAULT_REGION

cli() {
  if [ -n "${AWS_ENDPOINT_URL:-}" ]; then
    aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"
  elif command -v awslocal >/dev/null; then
    awslocal "$@"
  else
    echo "set AWS_ENDPOINT_URL to the endpoint of LocalStack or of \"cmkeeper local\"" >&2
    return 1
  fi
}

account=$(cli sts get-caller-identity --query Account --output text)

queue_url() { cli sqs get-queue-url --queue-name "$1" --query QueueUrl --output text; }
key_of() { cli kms describe-key --key-id "$1" --query KeyMetadata.Arn --output text; }

# quote TEXT: as a JSON string. The text has no control characters.
quote() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# eventually SECONDS COMMAND…: repeats the command until it succeeds.
eventually() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$until" ]; then return 1; fi
    sleep 0.3
  done
}
