package s3control_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	ebtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/s3control"
	"github.com/aws/aws-sdk-go-v2/service/s3control/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	account = "000000000000"
	role    = "arn:aws:iam::" + account + ":role/batch"
)

// scene is an account with a bucket of objects under a key.
type scene struct {
	t        *testing.T
	server   *localaws.Server
	batch    *s3control.Client
	from, to string
}

func newScene(t *testing.T, objects int) *scene {
	s := &scene{t: t, server: localaws.New(localaws.Options{})}
	cfg := inprocess.Config(s.server, "us-east-1", "test")
	s.batch = s3control.NewFromConfig(cfg)
	keys := kms.NewFromConfig(cfg)
	for _, arn := range []*string{&s.from, &s.to} {
		out, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
		s.must(err)
		*arn = *out.KeyMetadata.Arn
	}
	buckets := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	_, err := buckets.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("data")})
	s.must(err)
	for i := range objects {
		_, err := buckets.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("data"), Key: aws.String(fmt.Sprintf("%05d", i)), Body: strings.NewReader("x"),
			ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &s.from,
		})
		s.must(err)
	}
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) create() (string, error) {
	arn := aws.String("arn:aws:s3:::data")
	out, err := s.batch.CreateJob(s.t.Context(), &s3control.CreateJobInput{
		AccountId: aws.String(account), ClientRequestToken: aws.String("token"), Priority: aws.Int32(1), RoleArn: aws.String(role), ConfirmationRequired: aws.Bool(false),
		Operation: &types.JobOperation{S3UpdateObjectEncryption: &types.S3UpdateObjectEncryptionOperation{ObjectEncryption: &types.ObjectEncryption{SSEKMS: &types.S3UpdateObjectEncryptionSSEKMS{KMSKeyArn: &s.to}}}},
		Report:    &types.JobReport{Enabled: true, Bucket: arn, Format: types.JobReportFormatReportCsv20180820, ReportScope: types.JobReportScopeFailedTasksOnly},
		ManifestGenerator: &types.JobManifestGeneratorMemberS3JobManifestGenerator{Value: types.S3JobManifestGenerator{
			SourceBucket: arn, Filter: &types.JobManifestGeneratorFilter{MatchAnyObjectEncryption: []types.ObjectEncryptionFilter{&types.ObjectEncryptionFilterMemberSSEKMS{Value: types.SSEKMSFilter{KmsKeyArn: &s.from}}}},
		}},
	})
	if err != nil {
		return "", err
	}
	return *out.JobId, nil
}

func (s *scene) describe(id string) *types.JobDescriptor {
	s.t.Helper()
	out, err := s.batch.DescribeJob(s.t.Context(), &s3control.DescribeJobInput{AccountId: aws.String(account), JobId: &id})
	s.must(err)
	return out.Job
}

// deny lets the role do everything but one action.
func (s *scene) deny(action string) {
	s.server.AddIdentity("role", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::" + account + ":assumed-role/batch/x"})
	s.server.SetIdentityPolicy("role", func(a, _ string) bool { return a != action })
}

func TestMoreThanHalfOfAThousandFailuresFailTheJob(t *testing.T) {
	for _, c := range []struct {
		objects int
		want    types.JobStatus
	}{{999, types.JobStatusComplete}, {1100, types.JobStatusFailed}} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, c.objects)
			defer s.server.Close()
			s.deny("s3:UpdateObjectEncryption")
			id, err := s.create()
			s.must(err)
			synctest.Wait()
			j := s.describe(id)
			if j.Status != c.want || *j.ProgressSummary.NumberOfTasksSucceeded != 0 || (len(j.FailureReasons) == 1) != (c.want == types.JobStatusFailed) {
				t.Errorf("%d objects: job is %s with %+v: %+v", c.objects, j.Status, j.ProgressSummary, j.FailureReasons)
			}
		})
	}
}

func TestPermissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		defer s.server.Close()
		for _, action := range []string{"s3:CreateJob", "iam:PassRole"} {
			s.server.SetIdentityPolicy("test", func(a, _ string) bool { return a != action })
			_, err := s.create()
			if err == nil || !strings.Contains(err.Error(), "AccessDenied") || !strings.Contains(err.Error(), action) {
				t.Errorf("without %s: %v", action, err)
			}
		}
		s.server.SetIdentityPolicy("test", nil)
		s.deny("s3:PutInventoryConfiguration")
		id, err := s.create()
		s.must(err)
		synctest.Wait()
		if j := s.describe(id); j.Status != types.JobStatusFailed || *j.FailureReasons[0].FailureCode != "AccessDenied" {
			t.Errorf("job is %s: %+v", j.Status, j.FailureReasons)
		}
	})
}

func TestWhatIsNotModelledIsRefused(t *testing.T) {
	s := newScene(t, 0)
	defer s.server.Close()
	_, err := s.batch.CreateJob(t.Context(), &s3control.CreateJobInput{
		AccountId: aws.String(account), ClientRequestToken: aws.String("t"), Priority: aws.Int32(1), RoleArn: aws.String(role),
		Operation: &types.JobOperation{S3DeleteObjectTagging: &types.S3DeleteObjectTaggingOperation{}}, Report: &types.JobReport{},
		ManifestGenerator: &types.JobManifestGeneratorMemberS3JobManifestGenerator{Value: types.S3JobManifestGenerator{SourceBucket: aws.String("arn:aws:s3:::data")}},
	})
	if err == nil || !strings.Contains(err.Error(), "NotImplemented") {
		t.Errorf("another operation: %v", err)
	}
	_, err = s.batch.ListStorageLensConfigurations(t.Context(), &s3control.ListStorageLensConfigurationsInput{AccountId: aws.String(account)})
	if err == nil || !strings.Contains(err.Error(), "NotImplemented") {
		t.Errorf("another API: %v", err)
	}
}

// TestEvents shows that each status comes as the event that the User Guide shows.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 1)
		defer s.server.Close()
		cfg := inprocess.Config(s.server, "us-east-1", "test")
		queues, bus := sqs.NewFromConfig(cfg), eventbridge.NewFromConfig(cfg)
		queue, err := queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{
			"Policy": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}]}`,
		}})
		s.must(err)
		_, err = bus.PutRule(t.Context(), &eventbridge.PutRuleInput{Name: aws.String("r"), EventPattern: aws.String(
			`{"source":["aws.s3"],"detail-type":["AWS Service Event via CloudTrail"],"detail":{"eventSource":["s3.amazonaws.com"],"eventName":["JobStatusChanged","JobCreated"]}}`)})
		s.must(err)
		_, err = bus.PutTargets(t.Context(), &eventbridge.PutTargetsInput{Rule: aws.String("r"), Targets: []ebtypes.Target{{Id: aws.String("q"), Arn: aws.String("arn:aws:sqs:us-east-1:" + account + ":q")}}})
		s.must(err)
		s.server.S3Control().SetPace(time.Minute)
		id, err := s.create()
		s.must(err)
		var got []string
		for len(got) < 5 {
			out, err := queues.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, WaitTimeSeconds: 20, VisibilityTimeout: 3600})
			s.must(err)
			for _, m := range out.Messages {
				var e struct {
					Detail struct {
						EventName           string
						ServiceEventDetails struct{ JobID, JobARN, Status string }
					}
				}
				s.must(json.Unmarshal([]byte(*m.Body), &e))
				d := e.Detail.ServiceEventDetails
				if d.JobID != id || d.JobARN != "arn:aws:s3:us-east-1:"+account+":job/"+id {
					t.Errorf("event names job %s, %s", d.JobID, d.JobARN)
				}
				got = append(got, e.Detail.EventName+" "+d.Status)
			}
		}
		want := []string{"JobCreated New", "JobStatusChanged Preparing", "JobStatusChanged Ready", "JobStatusChanged Active", "JobStatusChanged Complete"}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}
