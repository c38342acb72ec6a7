#!/usr/bin/env bash
# Plays every scenario against a running worker and checks each reaction by
# reading live state back. Exits 0 only if all of them happened.
#   docker compose exec localstack /opt/cmkeeper/try.sh
#   AWS_ENDPOINT_URL=http://127.0.0.1:4566 localstack/try.sh      with "cmkeeper local"
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

patience=${PATIENCE:-30}
failed=0
event=$(mktemp)

# An inbox of its own, since the alerts service of docker compose empties the other.
inbox_arn=arn:aws:sqs:$region:$account:cmkeeper-try
inbox=$(cli sqs create-queue --queue-name cmkeeper-try --query QueueUrl --output text --attributes \
  "{\"VisibilityTimeout\":\"600\",\"Policy\":\"{\\\"Statement\\\":[{\\\"Effect\\\":\\\"Allow\\\",\\\"Principal\\\":{\\\"Service\\\":\\\"sns.amazonaws.com\\\"},\\\"Action\\\":\\\"sqs:SendMessage\\\",\\\"Resource\\\":\\\"$inbox_arn\\\"}]}\"}")
subscription=$(cli sns subscribe --topic-arn "arn:aws:sns:$region:$account:cmkeeper-alerts" --protocol sqs \
  --notification-endpoint "$inbox_arn" --attributes RawMessageDelivery=true --return-subscription-arn --query SubscriptionArn --output text)
cleanup() {
  rm -f "$event"
  cli sns unsubscribe --subscription-arn "$subscription" || true
  cli sqs delete-queue --queue-url "$inbox" || true
}
trap cleanup EXIT
check() { # TEXT COMMAND…: waits for the command to succeed
  local text=$1
  shift
  if eventually "$patience" "$@"; then echo "ok    $text"; else echo "FAIL  $text"; failed=1; fi
}

# emit EVENT-NAME KEY-ARN REQUEST-PARAMETERS [ALIAS]: puts the CloudTrail event
# that AWS would send. "cmkeeper local" has sent it already and refuses this
# one, since on AWS nobody else may use the source aws.kms.
emit() {
  local id now resources detail
  id=$(cat /proc/sys/kernel/random/uuid)
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  resources='{"accountId":"'$account'","type":"AWS::KMS::Key","ARN":"'$2'"}'
  [ -z "${4:-}" ] || resources='{"accountId":"'$account'","type":"AWS::KMS::Key","ARN":"arn:aws:kms:'$region:$account:$4'"},'$resources
  detail='{"eventVersion":"1.11","eventTime":"'$now'","eventSource":"kms.amazonaws.com","eventName":"'$1'","awsRegion":"'$region'",
    "userIdentity":{"type":"IAMUser","principalId":"AIDATRY","arn":"arn:aws:iam::'$account':user/try","accountId":"'$account'","userName":"try"},
    "sourceIPAddress":"192.0.2.10","userAgent":"try.sh","requestParameters":'$3',"responseElements":{"keyId":"'$2'"},
    "requestID":"'$id'","eventID":"'$id'","readOnly":false,"resources":['$resources'],
    "eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"'$account'","eventCategory":"Management"}'
  printf '[{"Source":"aws.kms","DetailType":"AWS API Call via CloudTrail","Detail":%s}]' "$(quote "${detail//$'\n'/}")" >"$event"
  cli events put-events --entries "file://$event" >/dev/null 2>&1 || true
}

echo "rotation: switched off, and on again by the worker"
key=$(key_of alias/cmkeeper-rotation)
cli kms disable-key-rotation --key-id "$key"
emit DisableKeyRotation "$key" "{\"keyId\":\"$key\"}"
rotating() { [ "$(cli kms get-key-rotation-status --key-id "$key" --query KeyRotationEnabled --output text)" = True ]; }
check "rotation of alias/cmkeeper-rotation is on" rotating

echo "policy: opened to everybody, and reported"
key=$(key_of alias/cmkeeper-policy)
policy='{"Version":"2012-10-17","Statement":[{"Sid":"Root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::'$account':root"},"Action":"kms:*","Resource":"*"},{"Sid":"Oops","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}'
cli kms put-key-policy --key-id "$key" --policy-name default --policy "$policy"
emit PutKeyPolicy "$key" "{\"keyId\":\"$key\",\"policyName\":\"default\",\"policy\":$(quote "$policy"),\"bypassPolicyLockoutSafetyCheck\":false}"
told() {
  cli sqs receive-message --queue-url "$inbox" --max-number-of-messages 10 --wait-time-seconds 2 --query 'Messages[].Body' --output text >"$event"
  grep -q public-principal "$event" && grep -q "$key" "$event"
}
check "an alert about alias/cmkeeper-policy was sent" told

echo "deletion: scheduled, cancelled, and the key enabled again"
key=$(key_of alias/cmkeeper-deletion)
cli kms schedule-key-deletion --key-id "${key##*/}" --pending-window-in-days 7 >/dev/null
emit ScheduleKeyDeletion "$key" "{\"keyId\":\"$key\",\"pendingWindowInDays\":7}"
enabled() { [ "$(cli kms describe-key --key-id "$key" --query KeyMetadata.KeyState --output text)" = Enabled ]; }
check "the key of alias/cmkeeper-deletion is enabled again" enabled

echo "alias: moved to a new key, and the data with it"
# By its id: LocalStack cannot resolve an alias whose target was given as an ARN.
new=$(cli kms create-key --description "cmkeeper playground: next data key" --query KeyMetadata.KeyId --output text)
cli kms update-alias --alias-name alias/cmkeeper-data --target-key-id "$new"
emit UpdateAlias "arn:aws:kms:$region:$account:key/$new" "{\"aliasName\":\"alias/cmkeeper-data\",\"targetKeyId\":\"$new\"}" alias/cmkeeper-data
moved() {
  local i
  for i in 1 2 3; do
    cli s3api head-object --bucket cmkeeper-demo-data --key "object $i.txt" --query SSEKMSKeyId --output text | grep -q "$new" || return 1
  done
}
check "the objects of cmkeeper-demo-data are under the new key" moved
kept() { [ "$(cli s3api head-object --bucket cmkeeper-demo-data --key "object 2.txt" --query Metadata.row --output text)" = 2 ]; }
check "and kept their metadata" kept
exit "$failed"
