package dependents

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDecode has the contexts as the guides of the services show them.
func TestDecode(t *testing.T) {
	const region = "us-east-1:111122223333:"
	for name, test := range map[string]struct {
		context map[string]string
		want    Resource
	}{
		"object":     {map[string]string{"aws:s3:arn": "arn:aws:s3:::orders/2026/a b.csv"}, Resource{"s3-object", "orders/2026/a b.csv", "arn:aws:s3:::orders/2026/a b.csv"}},
		"bucket key": {map[string]string{"aws:s3:arn": "arn:aws:s3:::orders"}, Resource{"s3-bucket", "orders", "arn:aws:s3:::orders"}},
		"object with a context of its own": {map[string]string{"aws:s3:arn": "arn:aws-cn:s3:::orders/a", "department": "10103.0"},
			Resource{"s3-object", "orders/a", "arn:aws-cn:s3:::orders/a"}},
		"volume":    {map[string]string{"aws:ebs:id": "vol-0cfb133e847d28be9"}, Resource{"ebs-volume", "vol-0cfb133e847d28be9", ""}},
		"snapshot":  {map[string]string{"aws:ebs:id": "snap-069a655b568de654f"}, Resource{"ebs-snapshot", "snap-069a655b568de654f", ""}},
		"instance":  {map[string]string{"aws:rds:db-id": "db-CQYSMDPBRZ7BPMH7Y3RTDG5QY"}, Resource{"rds-instance", "db-CQYSMDPBRZ7BPMH7Y3RTDG5QY", ""}},
		"cluster":   {map[string]string{"aws:rds:dbc-id": "cluster-ABC"}, Resource{"rds-cluster", "cluster-ABC", ""}},
		"secret":    {map[string]string{"SecretARN": "arn:aws:secretsmanager:" + region + "secret:db-a1b2c3", "SecretVersionId": "EXAMPLE1-90ab"}, Resource{"secret", "arn:aws:secretsmanager:" + region + "secret:db-a1b2c3", "arn:aws:secretsmanager:" + region + "secret:db-a1b2c3"}},
		"parameter": {map[string]string{"PARAMETER_ARN": "arn:aws:ssm:" + region + "parameter/prod/db"}, Resource{"ssm-parameter", "prod/db", "arn:aws:ssm:" + region + "parameter/prod/db"}},
		"function":  {map[string]string{"aws:lambda:FunctionArn": "arn:aws:lambda:" + region + "function:orders"}, Resource{"lambda-function", "orders", "arn:aws:lambda:" + region + "function:orders"}},
		"function, with its source of events": {map[string]string{"aws:lambda:EventSourceArn": "arn:aws:sqs:" + region + "q", "aws:lambda:FunctionArn": "arn:aws:lambda:" + region + "function:orders"},
			Resource{"lambda-function", "orders", "arn:aws:lambda:" + region + "function:orders"}},
		"log group":      {map[string]string{"aws:logs:arn": "arn:aws:logs:" + region + "log-group:/aws/lambda/orders"}, Resource{"log-group", "/aws/lambda/orders", "arn:aws:logs:" + region + "log-group:/aws/lambda/orders"}},
		"table":          {map[string]string{"aws:dynamodb:tableName": "Books", "aws:dynamodb:subscriberId": "111122223333"}, Resource{"dynamodb-table", "Books", ""}},
		"queue":          {map[string]string{"aws:sqs:arn": "arn:aws:sqs:" + region + "orders"}, Resource{"sqs-queue", "orders", "arn:aws:sqs:" + region + "orders"}},
		"topic":          {map[string]string{"aws:sns:topicArn": "arn:aws:sns:" + region + "orders"}, Resource{"sns-topic", "arn:aws:sns:" + region + "orders", "arn:aws:sns:" + region + "orders"}},
		"file system":    {map[string]string{"aws:elasticfilesystem:filesystem:id": "fs-4EXAMPLE"}, Resource{"efs-file-system", "fs-4EXAMPLE", ""}},
		"warehouse":      {map[string]string{"aws:redshift:arn": "arn:aws:redshift:" + region + "cluster:my-dw", "aws:redshift:createtime": "20150206T1832Z"}, Resource{"redshift-cluster", "my-dw", "arn:aws:redshift:" + region + "cluster:my-dw"}},
		"stream":         {map[string]string{"aws:kinesis:arn": "arn:aws:kinesis:" + region + "stream/orders"}, Resource{"kinesis-stream", "orders", "arn:aws:kinesis:" + region + "stream/orders"}},
		"image layer":    {map[string]string{"aws:s3:arn": "arn:aws:s3:::us-west-2-starport/x/sha256:a77", "aws:ecr:arn": "arn:aws:ecr:" + region + "repository/team/app"}, Resource{"ecr-repository", "team/app", "arn:aws:ecr:" + region + "repository/team/app"}},
		"log file":       {map[string]string{"aws:s3:arn": "arn:aws:s3:::logs/x", "aws:cloudtrail:arn": "arn:aws:cloudtrail:" + region + "trail/main"}, Resource{"cloudtrail-trail", "main", "arn:aws:cloudtrail:" + region + "trail/main"}},
		"backup":         {map[string]string{"aws:backup:backup-vault": "nightly"}, Resource{"backup-vault", "nightly", ""}},
		"another ARN":    {map[string]string{"b": "arn:aws:states:" + region + "stateMachine:z", "a": "arn:aws:states:" + region + "stateMachine:y", "0": "x"}, Resource{"resource", "arn:aws:states:" + region + "stateMachine:y", "arn:aws:states:" + region + "stateMachine:y"}},
		"no ARN in S3's": {map[string]string{"aws:s3:arn": "anything"}, Resource{"s3-object", "anything", ""}},
		"nothing":        {nil, Resource{}},
		"an application": {map[string]string{"tenant": "7"}, Resource{}},
		"an empty value": {map[string]string{"aws:ebs:id": ""}, Resource{}},
	} {
		got, ok := Decode(test.context)
		if d := cmp.Diff(test.want, got); d != "" || ok != (test.want != Resource{}) {
			t.Errorf("%s: %v, %s", name, ok, d)
		}
	}
	long := strings.Repeat("ü", maxText)
	if got, _ := Decode(map[string]string{"aws:ebs:id": long}); len(got.ID) > maxText+3 || !strings.HasSuffix(got.ID, "ü…") {
		t.Errorf("a long value: %q", got.ID)
	}
}

// TestEveryKindHasATitle: what Decode returns is a word that people know.
func TestEveryKindHasATitle(t *testing.T) {
	for _, c := range contexts {
		if Title(c.kind) == c.kind {
			t.Errorf("%s has no title", c.kind)
		}
	}
	for kind := range titles {
		if Title(kind) == kind {
			t.Errorf("%s has no title", kind)
		}
	}
	for n, want := range map[int]string{1: "1 ECR repository", 2: "2 ECR repositories"} {
		if got := Count(n, "ecr-repository"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
