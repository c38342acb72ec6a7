package conformance

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/s3control"
	"github.com/aws/aws-sdk-go-v2/service/s3control/types"
	"github.com/aws/smithy-go"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	"github.com/google/go-cmp/cmp"
)

// S3ControlDeviations are the known ways in which the S3 Batch Operations of moto
// 5.2 and LocalStack 4.14 are not like AWS's.
type S3ControlDeviations struct {
	// S3ControlNone: the operations are missing, or not measured (moto, LocalStack).
	S3ControlNone bool
}

// runS3Control states what S3 Batch Operations do. An account needs a role
// cmkeeper-conformance for them, see docs/reencryption.md.
func runS3Control(t *testing.T, target Target) {
	if target.Deviations.S3ControlNone {
		t.Skip("the server has no S3 Batch Operations (S3ControlNone)")
	}
	s := batchSuite{
		target: target, client: s3control.NewFromConfig(target.Config, func(o *s3control.Options) {
			o.EndpointResolverV2 = withoutAccount{s3control.NewDefaultEndpointResolverV2()}
		}), kms: kms.NewFromConfig(target.Config),
		s3: s3.NewFromConfig(target.Config, func(o *s3.Options) { o.UsePathStyle = target.PathStyle }),
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"GeneratedManifest", s.generated},
		{"GivenManifest", s.given},
		{"NothingToDo", s.nothing},
		{"Confirmation", s.confirmation},
		{"Token", s.token},
		{"Refusals", s.refusals},
		{"List", s.list},
	} {
		t.Run(part.name, part.run)
	}
}

// withoutAccount leaves out the account that the SDK puts before the host of a custom
// endpoint: few local servers answer to such names.
type withoutAccount struct{ next s3control.EndpointResolverV2 }

func (w withoutAccount) ResolveEndpoint(ctx context.Context, p s3control.EndpointParameters) (smithyendpoints.Endpoint, error) {
	e, err := w.next.ResolveEndpoint(ctx, p)
	if err == nil && p.Endpoint != nil {
		e.URI.Host = strings.TrimPrefix(e.URI.Host, aws.ToString(p.AccountId)+".")
	}
	return e, err
}

type batchSuite struct {
	target Target
	client *s3control.Client
	s3     *s3.Client
	kms    *kms.Client
}

// world makes two keys and a bucket.
func (s batchSuite) world(t *testing.T) (bucket, from, to string) {
	t.Helper()
	for _, arn := range []*string{&from, &to} {
		out, err := s.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: kmstypes.OriginTypeAwsKms})
		if err != nil {
			t.Fatal(err)
		}
		*arn = *out.KeyMetadata.Arn
		t.Cleanup(func() {
			_, _ = s.kms.ScheduleKeyDeletion(context.WithoutCancel(t.Context()), &kms.ScheduleKeyDeletionInput{KeyId: arn, PendingWindowInDays: aws.Int32(7)})
		})
	}
	bucket = strings.ToLower(unique())
	if _, err := s.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		out, err := s.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &bucket})
		if err != nil {
			t.Error(err)
			return
		}
		for _, o := range out.Contents {
			if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: o.Key}); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &bucket}); err != nil {
			t.Error(err)
		}
	})
	return bucket, from, to
}

func (s batchSuite) put(t *testing.T, bucket, key, under string, bucketKey bool) {
	t.Helper()
	in := &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader("body of " + key)}
	if under != "" {
		in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = s3types.ServerSideEncryptionAwsKms, &under, &bucketKey
	}
	if _, err := s.s3.PutObject(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

func (s batchSuite) keyOf(t *testing.T, bucket, key string) string {
	t.Helper()
	out, err := s.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.SSEKMSKeyId)
}

// input is a job that moves a bucket's objects from one key to another.
func (s batchSuite) input(bucket, from, to string) *s3control.CreateJobInput {
	arn := aws.String("arn:aws:s3:::" + bucket)
	return &s3control.CreateJobInput{
		AccountId: &s.target.Account, ClientRequestToken: aws.String(unique()), Priority: aws.Int32(1), ConfirmationRequired: aws.Bool(false),
		RoleArn:   aws.String("arn:aws:iam::" + s.target.Account + ":role/cmkeeper-conformance"),
		Operation: &types.JobOperation{S3UpdateObjectEncryption: &types.S3UpdateObjectEncryptionOperation{ObjectEncryption: &types.ObjectEncryption{SSEKMS: &types.S3UpdateObjectEncryptionSSEKMS{KMSKeyArn: &to, BucketKeyEnabled: aws.Bool(true)}}}},
		Report:    &types.JobReport{Enabled: true, Bucket: arn, Prefix: aws.String("reports"), Format: types.JobReportFormatReportCsv20180820, ReportScope: types.JobReportScopeAllTasks},
		ManifestGenerator: &types.JobManifestGeneratorMemberS3JobManifestGenerator{Value: types.S3JobManifestGenerator{
			SourceBucket: arn, EnableManifestOutput: true,
			ManifestOutputLocation: &types.S3ManifestOutputLocation{Bucket: arn, ManifestPrefix: aws.String("made"), ManifestFormat: types.GeneratedManifestFormatS3InventoryReportCsv20211130},
			Filter: &types.JobManifestGeneratorFilter{
				KeyNameConstraint:        &types.KeyNameConstraint{MatchAnyPrefix: []string{"in/"}},
				MatchAnyObjectEncryption: []types.ObjectEncryptionFilter{&types.ObjectEncryptionFilterMemberSSEKMS{Value: types.SSEKMSFilter{KmsKeyArn: &from, BucketKeyEnabled: aws.Bool(true)}}},
			},
		}},
	}
}

// create makes a job and waits until it is in one of the statuses.
func (s batchSuite) create(t *testing.T, in *s3control.CreateJobInput, until ...types.JobStatus) *types.JobDescriptor {
	t.Helper()
	out, err := s.client.CreateJob(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return s.wait(t, *out.JobId, until...)
}

func (s batchSuite) wait(t *testing.T, id string, until ...types.JobStatus) *types.JobDescriptor {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; {
		out, err := s.client.DescribeJob(t.Context(), &s3control.DescribeJobInput{AccountId: &s.target.Account, JobId: &id})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(until, out.Job.Status) {
			return out.Job
		}
		if time.Now().After(deadline) {
			t.Fatalf("job is %s, want %v", out.Job.Status, until)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s batchSuite) generated(t *testing.T) {
	bucket, from, to := s.world(t)
	for i := range 5 {
		s.put(t, bucket, fmt.Sprintf("in/%d + ö,\".txt", i), from, true)
	}
	s.put(t, bucket, "in/without", from, false)
	s.put(t, bucket, "in/to", to, true)
	s.put(t, bucket, "in/s3", "", false)
	s.put(t, bucket, "out/1", from, true)
	j := s.create(t, s.input(bucket, from, to), types.JobStatusComplete, types.JobStatusFailed)
	if p := j.ProgressSummary; j.Status != types.JobStatusComplete || *p.TotalNumberOfTasks != 5 || *p.NumberOfTasksSucceeded != 5 || *p.NumberOfTasksFailed != 0 {
		t.Fatalf("job is %s with %+v and %+v", j.Status, p, j.FailureReasons)
	}
	if j.GeneratedManifestDescriptor == nil || j.TerminationDate == nil {
		t.Errorf("no manifest or date: %+v", j)
	}
	for key, want := range map[string]string{"in/0 + ö,\".txt": to, "in/without": from, "out/1": from, "in/s3": ""} {
		if got := s.keyOf(t, bucket, key); got != want {
			t.Errorf("%s is under %q, want %q", key, got, want)
		}
	}
	rows := s.report(t, bucket, "reports/job-"+*j.JobId+"/manifest.json")
	if len(rows) != 5 || rows[0][0] != bucket || rows[0][3] != "succeeded" || rows[0][5] != "200" {
		t.Errorf("report: %q", rows)
	}
}

// report reads all rows of a completion report.
func (s batchSuite) report(t *testing.T, bucket, key string) (rows [][]string) {
	t.Helper()
	get := func(key string) io.ReadCloser {
		out, err := s.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		return out.Body
	}
	var manifest struct {
		Format, ReportSchema string
		Results              []struct{ TaskExecutionStatus, Bucket, Key string }
	}
	body := get(key)
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(&manifest); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"Report_CSV_20180820", "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage"}, []string{manifest.Format, manifest.ReportSchema}); d != "" {
		t.Error(d)
	}
	for _, r := range manifest.Results {
		body := get(r.Key)
		more, err := csv.NewReader(body).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		_ = body.Close()
		rows = append(rows, more...)
	}
	return rows
}

func (s batchSuite) given(t *testing.T) {
	bucket, from, to := s.world(t)
	s.put(t, bucket, "in/a b", from, false)
	manifest, err := s.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("manifest.csv"), Body: strings.NewReader(bucket + ",in/a+b\n" + bucket + ",in/missing\n")})
	if err != nil {
		t.Fatal(err)
	}
	in := s.input(bucket, from, to)
	in.ManifestGenerator = nil
	in.Report.ReportScope = types.JobReportScopeFailedTasksOnly
	in.Manifest = &types.JobManifest{
		Location: &types.JobManifestLocation{ETag: manifest.ETag, ObjectArn: aws.String("arn:aws:s3:::" + bucket + "/manifest.csv")},
		Spec:     &types.JobManifestSpec{Format: types.JobManifestFormatS3BatchOperationsCsv20180820, Fields: []types.JobManifestFieldName{types.JobManifestFieldNameBucket, types.JobManifestFieldNameKey}},
	}
	j := s.create(t, in, types.JobStatusComplete, types.JobStatusFailed)
	if p := j.ProgressSummary; j.Status != types.JobStatusComplete || *p.NumberOfTasksSucceeded != 1 || *p.NumberOfTasksFailed != 1 {
		t.Fatalf("a job is complete although a task failed: %s, %+v, %+v", j.Status, p, j.FailureReasons)
	}
	rows := s.report(t, bucket, "reports/job-"+*j.JobId+"/manifest.json")
	if len(rows) != 1 || rows[0][1] != "in%2Fmissing" && rows[0][1] != "in/missing" || rows[0][3] != "failed" || rows[0][4] != "NoSuchKey" || rows[0][5] != "404" {
		t.Errorf("report: %q", rows)
	}
}

func (s batchSuite) nothing(t *testing.T) {
	bucket, from, to := s.world(t)
	j := s.create(t, s.input(bucket, from, to), types.JobStatusComplete, types.JobStatusFailed)
	if j.Status != types.JobStatusFailed || len(j.FailureReasons) != 1 || !strings.Contains(*j.FailureReasons[0].FailureReason, "no keys matching") {
		t.Errorf("a job without objects is %s: %+v", j.Status, j.FailureReasons)
	}
}

func (s batchSuite) confirmation(t *testing.T) {
	bucket, from, to := s.world(t)
	s.put(t, bucket, "in/1", from, true)
	for _, next := range []types.RequestedJobStatus{types.RequestedJobStatusReady, types.RequestedJobStatusCancelled} {
		in := s.input(bucket, from, to)
		in.ConfirmationRequired = aws.Bool(true)
		from, to = to, from
		j := s.create(t, in, types.JobStatusSuspended)
		if j.SuspendedCause == nil {
			t.Error("no cause of the suspension")
		}
		if _, err := s.client.UpdateJobPriority(t.Context(), &s3control.UpdateJobPriorityInput{AccountId: &s.target.Account, JobId: j.JobId, Priority: 7}); err != nil {
			t.Error(err)
		}
		update := &s3control.UpdateJobStatusInput{AccountId: &s.target.Account, JobId: j.JobId, RequestedJobStatus: next, StatusUpdateReason: aws.String("a test")}
		if _, err := s.client.UpdateJobStatus(t.Context(), update); err != nil {
			t.Fatal(err)
		}
		j = s.wait(t, *j.JobId, types.JobStatusComplete, types.JobStatusCancelled, types.JobStatusFailed)
		want := map[types.RequestedJobStatus]types.JobStatus{types.RequestedJobStatusReady: types.JobStatusComplete, types.RequestedJobStatusCancelled: types.JobStatusCancelled}[next]
		if j.Status != want || j.Priority != 7 || aws.ToString(j.StatusUpdateReason) != "a test" {
			t.Errorf("after %s the job is %s with priority %d and reason %q", next, j.Status, j.Priority, aws.ToString(j.StatusUpdateReason))
		}
		_, err := s.client.UpdateJobStatus(t.Context(), update)
		wantOneOf(t, "update a job that has ended", err, "JobStatusException")
	}
}

func wantOneOf(t *testing.T, what string, err error, codes ...string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) || !slices.Contains(codes, e.ErrorCode()) {
		t.Errorf("%s: %v, want %v", what, err, codes)
	}
}

func (s batchSuite) token(t *testing.T) {
	bucket, from, to := s.world(t)
	s.put(t, bucket, "in/1", from, true)
	in := s.input(bucket, from, to)
	j := s.create(t, in, types.JobStatusComplete)
	again, err := s.client.CreateJob(t.Context(), in)
	if err != nil || *again.JobId != *j.JobId {
		t.Errorf("the same request made job %s and then %+v, %v", *j.JobId, again, err)
	}
	in.Priority = aws.Int32(2)
	_, err = s.client.CreateJob(t.Context(), in)
	wantOneOf(t, "use a token again for another request", err, "IdempotencyException")
}

func (s batchSuite) refusals(t *testing.T) {
	bucket, from, to := s.world(t)
	_, err := s.client.DescribeJob(t.Context(), &s3control.DescribeJobInput{AccountId: &s.target.Account, JobId: aws.String("00000000-0000-0000-0000-000000000000")})
	wantOneOf(t, "describe a job that is not there", err, "NoSuchJobException", "NotFoundException")
	in := s.input(bucket, from, to)
	in.Manifest = &types.JobManifest{
		Location: &types.JobManifestLocation{ETag: aws.String("x"), ObjectArn: aws.String("arn:aws:s3:::" + bucket + "/x")},
		Spec:     &types.JobManifestSpec{Format: types.JobManifestFormatS3BatchOperationsCsv20180820, Fields: []types.JobManifestFieldName{types.JobManifestFieldNameBucket, types.JobManifestFieldNameKey}},
	}
	_, err = s.client.CreateJob(t.Context(), in)
	wantOneOf(t, "create a job with two manifests", err, "InvalidRequest", "BadRequestException")
	in = s.input(bucket, from, to)
	in.RoleArn = aws.String("no-role")
	_, err = s.client.CreateJob(t.Context(), in)
	wantOneOf(t, "create a job without a role", err, "InvalidRequest", "BadRequestException")
}

func (s batchSuite) list(t *testing.T) {
	bucket, from, to := s.world(t)
	s.put(t, bucket, "in/1", from, true)
	j := s.create(t, s.input(bucket, from, to), types.JobStatusComplete)
	pages := s3control.NewListJobsPaginator(s.client, &s3control.ListJobsInput{AccountId: &s.target.Account, JobStatuses: []types.JobStatus{types.JobStatusComplete}, MaxResults: aws.Int32(1)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, listed := range page.Jobs {
			if *listed.JobId == *j.JobId && listed.Operation == types.OperationNameS3UpdateObjectEncryption {
				return
			}
		}
	}
	t.Errorf("job %s is not listed", *j.JobId)
}
