#!/usr/bin/env bash
# Creates what a deployment of cmkeeper has, and keys, aliases and buckets to
# try it on. Idempotent. docker compose mounts it into LocalStack, and waits for
# its last line; against another endpoint:
#   AWS_ENDPOINT_URL=http://127.0.0.1:4566 localstack/init.sh
set -euo pipefail
here=/opt/cmkeeper
[ -f "$here/lib.sh" ] || here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib.sh
. "$here/lib.sh"

queue() { # NAME VISIBILITY [ATTRIBUTES]
  cli sqs create-queue --queue-name "$1" --attributes "{\"VisibilityTimeout\":\"$2\"${3:+,$3}}" >/dev/null
}
redrive() { # NAME
  printf '"RedrivePolicy":"{\\"deadLetterTargetArn\\":\\"arn:aws:sqs:%s:%s:%s-dlq\\",\\"maxReceiveCount\\":\\"10\\"}"' "$region" "$account" "$1"
}
allow() { # QUEUE SERVICE SOURCE-ARN: that service alone, and the workers' copies
  printf '"Policy":"{\\"Version\\":\\"2012-10-17\\",\\"Statement\\":[{\\"Effect\\":\\"Allow\\",\\"Principal\\":{\\"Service\\":\\"%s\\"},\\"Action\\":\\"sqs:SendMessage\\",\\"Resource\\":\\"arn:aws:sqs:%s:%s:%s\\",\\"Condition\\":{\\"ArnLike\\":{\\"aws:SourceArn\\":\\"%s\\"}}}' \
    "$2" "$region" "$account" "$1" "$3"
  printf ',{\\"Effect\\":\\"Deny\\",\\"Principal\\":{\\"AWS\\":\\"*\\"},\\"Action\\":\\"sqs:SendMessage\\",\\"Resource\\":\\"arn:aws:sqs:%s:%s:%s\\",\\"Condition\\":{\\"ArnNotLike\\":{\\"aws:PrincipalArn\\":\\"arn:aws:iam::%s:role/cmkeeper-worker\\",\\"aws:SourceArn\\":\\"%s\\"}}}]}"' \
    "$region" "$account" "$1" "$account" "$3"
}

echo "queues, topic, rule, state bucket"
rules=arn:aws:events:$region:$account:rule/cmkeeper-*
topic=arn:aws:sns:$region:$account:cmkeeper-alerts
queue cmkeeper-events-dlq 30
queue cmkeeper-jobs-dlq 30
queue cmkeeper-events 60 "$(redrive cmkeeper-events),$(allow cmkeeper-events events.amazonaws.com "$rules")"
queue cmkeeper-jobs 120 "$(redrive cmkeeper-jobs)"
queue cmkeeper-alert-inbox 30 "$(allow cmkeeper-alert-inbox sns.amazonaws.com "$topic")"
cli sns create-topic --name cmkeeper-alerts >/dev/null
cli sns subscribe --topic-arn "$topic" --protocol sqs \
  --notification-endpoint "arn:aws:sqs:$region:$account:cmkeeper-alert-inbox" --attributes RawMessageDelivery=true >/dev/null
cli events put-rule --name cmkeeper-kms --event-pattern '{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail","AWS Service Event via CloudTrail","KMS CMK Rotation","KMS CMK Deletion","KMS Imported Key Material Expiration"]}' >/dev/null
cli events put-targets --rule cmkeeper-kms --targets "Id=cmkeeper-events,Arn=arn:aws:sqs:$region:$account:cmkeeper-events" >/dev/null
cli events put-rule --name cmkeeper-guard --event-pattern '{"source":["aws.cloudtrail","aws.ec2","aws.events","aws.rds","aws.s3","aws.sns","aws.sqs"],"detail-type":["AWS API Call via CloudTrail"],"detail":{"eventName":["CreateDBCluster","CreateDBInstance","CreateVolume","DeleteBucketEncryption","DeleteBucketPolicy","DeleteBucketTagging","DeleteQueue","DeleteRule","DeleteTopic","DeleteTrail","DisableEbsEncryptionByDefault","DisableRule","PurgeQueue","PutBucketEncryption","PutBucketPolicy","PutBucketTagging","PutEventSelectors","PutRule","PutTargets","RemoveTargets","SetQueueAttributes","SetSubscriptionAttributes","SetTopicAttributes","StopLogging","Unsubscribe","UpdateTrail"]}}' >/dev/null
cli events put-targets --rule cmkeeper-guard --targets "Id=cmkeeper-events,Arn=arn:aws:sqs:$region:$account:cmkeeper-events" >/dev/null
cli events put-rule --name cmkeeper-sweep --schedule-expression 'rate(15 minutes)' >/dev/null
cli events put-targets --rule cmkeeper-sweep --targets "Id=cmkeeper-events,Arn=arn:aws:sqs:$region:$account:cmkeeper-events" >/dev/null
cli s3api create-bucket --bucket cmkeeper-state >/dev/null

echo "keys and aliases to try it on"
key() { # ALIAS: creates a rotating key behind the alias unless it is there
  if ! key_of "alias/$1" >/dev/null 2>&1; then
    local id
    id=$(cli kms create-key --description "cmkeeper playground: $1" --query KeyMetadata.KeyId --output text)
    cli kms enable-key-rotation --key-id "$id" --rotation-period-in-days 180
    cli kms create-alias --alias-name "alias/$1" --target-key-id "$id"
  fi
}
for name in cmkeeper-rotation cmkeeper-policy cmkeeper-deletion cmkeeper-data cmkeeper-data-next; do key $name; done

echo "a bucket under alias/cmkeeper-data"
cli s3api create-bucket --bucket cmkeeper-demo-data >/dev/null
cli s3api put-bucket-encryption --bucket cmkeeper-demo-data --server-side-encryption-configuration \
  '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"alias/cmkeeper-data"}}]}'
# The alias as a tag too, since not every server tells that the default was given as an alias.
cli s3api put-bucket-tagging --bucket cmkeeper-demo-data --tagging 'TagSet=[{Key=cmkeeper:alias,Value=alias/cmkeeper-data}]'
for i in 1 2 3; do
  printf 'object %s\n' "$i" | cli s3 cp - "s3://cmkeeper-demo-data/object $i.txt" \
    --sse aws:kms --sse-kms-key-id "$(key_of alias/cmkeeper-data)" --metadata "row=$i" >/dev/null
done
# What docker compose asks for: a directory in memory, so that it is empty after a restart.
[ ! -d /run/cmkeeper ] || touch /run/cmkeeper/ready
echo "ready"
