package dependents

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Resource is what an encryption context names.
type Resource struct {
	// Kind is what it is: the Kind of an awsconfig.Type, or one of the constants below.
	Kind string
	// ID is its id or name.
	ID string
	// ARN is "" where the context does not have it.
	ARN string
}

// The kinds of resources that AWS Config is not asked for.
const (
	KindObject  = "s3-object"
	KindBucket  = "s3-bucket"
	KindService = "aws-service" // all that is known is which service it is
	KindOther   = "resource"    // all that is known is its ARN
)

// contexts are the members of encryption contexts by which AWS services name the resource
// whose data they encrypt, with its kind: the first that a context has counts. Each is in
// the service's guide:
//
//   - ECR User Guide, "Encryption at rest": aws:ecr:arn, beside the aws:s3:arn of a layer
//   - CloudTrail User Guide, "Encrypting log files": aws:cloudtrail:arn, beside aws:s3:arn
//   - Lambda Developer Guide, "Securing environment variables": aws:lambda:FunctionArn
//   - RDS User Guide, "AWS KMS key management": aws:rds:db-id; Aurora, and with it Neptune
//     and DocumentDB: aws:rds:dbc-id. Both are resource ids and not names
//   - Redshift in the KMS Developer Guide, "How Amazon Redshift uses AWS KMS": aws:redshift:arn
//   - DynamoDB Developer Guide, "DynamoDB encryption at rest usage notes": aws:dynamodb:tableName
//   - Secrets Manager User Guide, "Secret encryption and decryption": SecretARN
//   - Systems Manager User Guide, "How Parameter Store uses AWS KMS": PARAMETER_ARN
//   - CloudWatch Logs User Guide, "Encrypt log data": aws:logs:arn
//   - SQS Developer Guide, "Key management": aws:sqs:arn
//   - SNS Developer Guide, "Key management": aws:sns:topicArn
//   - Kinesis Data Streams Developer Guide, "Permissions to use user-generated KMS keys":
//     aws:kinesis:arn
//   - EFS User Guide, "How Amazon EFS uses AWS KMS": aws:elasticfilesystem:filesystem:id
//   - Backup Developer Guide, "Encryption for backups": aws:backup:backup-vault
//   - EBS in the KMS Developer Guide, "How Amazon EBS uses AWS KMS": aws:ebs:id, of a volume
//     or of a snapshot
//   - S3 User Guide, "Using server-side encryption with AWS KMS keys": aws:s3:arn, of the
//     bucket if it has a bucket key and else of the object
var contexts = []struct{ member, kind string }{
	{"aws:ecr:arn", "ecr-repository"},
	{"aws:cloudtrail:arn", "cloudtrail-trail"},
	{"aws:lambda:FunctionArn", "lambda-function"},
	{"aws:rds:db-id", "rds-instance"},
	{"aws:rds:dbc-id", "rds-cluster"},
	{"aws:redshift:arn", "redshift-cluster"},
	{"aws:dynamodb:tableName", "dynamodb-table"},
	{"SecretARN", "secret"},
	{"PARAMETER_ARN", "ssm-parameter"},
	{"aws:logs:arn", "log-group"},
	{"aws:sqs:arn", "sqs-queue"},
	{"aws:sns:topicArn", "sns-topic"},
	{"aws:kinesis:arn", "kinesis-stream"},
	{"aws:elasticfilesystem:filesystem:id", "efs-file-system"},
	{"aws:backup:backup-vault", "backup-vault"},
	{"aws:ebs:id", "ebs-volume"},
	{"aws:s3:arn", KindObject},
}

// Decode returns the resource that an encryption context names. Of a context that no
// service is known to use it returns the first ARN, in the order of the members' names. ok
// is false where it names none.
//
// Callers choose the context, so the resource is a claim and may be any text. Long text is
// shortened.
func Decode(context map[string]string) (r Resource, ok bool) {
	for _, known := range contexts {
		if value := context[known.member]; value != "" {
			return named(known.kind, value), true
		}
	}
	for _, member := range slices.Sorted(maps.Keys(context)) {
		if value := context[member]; arn.Parse(value) != (arn.ARN{}) {
			return named(KindOther, value), true
		}
	}
	return Resource{}, false
}

// named is the resource of a kind that goes by an id, a name or an ARN.
func named(kind, value string) Resource {
	value = shorten(value)
	r := Resource{Kind: kind, ID: value}
	a := arn.Parse(value)
	if a != (arn.ARN{}) {
		r.ARN = value
	}
	switch kind {
	case "ebs-volume":
		if strings.HasPrefix(value, "snap-") {
			r.Kind = "ebs-snapshot"
		}
	case KindObject:
		if r.ARN == "" {
			break
		}
		if r.ID = a.Resource; !strings.Contains(a.Resource, "/") {
			r.Kind = KindBucket
		}
	case KindOther, "secret", "sns-topic":
		// The ARN is the id, and with topics and secrets also AWS Config's.
	default:
		if r.ARN != "" {
			r.ID = name(a.Resource)
		}
	}
	return r
}

// name is the name in the resource of an ARN: of function:NAME:ALIAS, stream/NAME,
// parameter/PATH/NAME, log-group:NAME:* or only NAME.
func name(resource string) string {
	kind, name, ok := strings.Cut(resource, ":")
	if !ok || strings.Contains(kind, "/") {
		if _, name, ok = strings.Cut(resource, "/"); !ok {
			return resource
		}
		return name
	}
	name, _, _ = strings.Cut(name, ":")
	return name
}

// maxText bounds what callers have in contexts.
const maxText = 300

func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
