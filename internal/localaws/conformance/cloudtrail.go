package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// CloudTrailDeviations are the known ways in which the CloudTrail of moto 5.2 and
// LocalStack 4.14 is not like AWS's.
type CloudTrailDeviations struct {
	// CloudTrailNone: there is none (LocalStack, in its free edition).
	CloudTrailNone bool
	// CloudTrailNoLookup: LookupEvents is missing (moto).
	CloudTrailNoLookup bool
	// CloudTrailSelectorsUnchecked: any event selector is taken, a new trail has
	// none, and no trail says that it has its own (moto).
	CloudTrailSelectorsUnchecked bool
	// CloudTrailUnknownTrailFails: to stop a trail that is not there is an internal
	// error (moto).
	CloudTrailUnknownTrailFails bool
}

// runCloudTrail states what CloudTrail does.
func runCloudTrail(t *testing.T, target Target) {
	if target.Deviations.CloudTrailNone {
		t.Skip("deviation CloudTrailNone: this server has no CloudTrail")
	}
	s := cloudTrailSuite{target, cloudtrail.NewFromConfig(target.Config)}
	t.Run("Trails", s.trails)
	t.Run("Lookup", s.lookup)
}

type cloudTrailSuite struct {
	target Target
	client *cloudtrail.Client
}

// bucket makes a bucket that CloudTrail may write to.
func (s cloudTrailSuite) bucket(t *testing.T) *string {
	t.Helper()
	client := s3.NewFromConfig(s.target.Config, func(o *s3.Options) { o.UsePathStyle = s.target.PathStyle })
	name := strings.ToLower(unique())
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatalf("create bucket: %v", err)
	}
	t.Cleanup(func() {
		if _, err := client.DeleteBucket(context.WithoutCancel(t.Context()), &s3.DeleteBucketInput{Bucket: &name}); err != nil {
			t.Logf("the bucket stays: %v", err) // where CloudTrail has written to it
		}
	})
	policy := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"Service":"cloudtrail.amazonaws.com"},"Action":"s3:GetBucketAcl","Resource":"arn:aws:s3:::` + name + `"},
		{"Effect":"Allow","Principal":{"Service":"cloudtrail.amazonaws.com"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::` + name + `/*"}]}`
	if _, err := client.PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &name, Policy: &policy}); err != nil {
		t.Fatalf("put bucket policy: %v", err)
	}
	return &name
}

func (s cloudTrailSuite) trails(t *testing.T) {
	name, bucket, ctx := unique(), s.bucket(t), t.Context()
	created, err := s.client.CreateTrail(ctx, &cloudtrail.CreateTrailInput{Name: &name, S3BucketName: bucket})
	if err != nil {
		t.Fatalf("create trail: %v", err)
	}
	deleted := false
	t.Cleanup(func() {
		if !deleted {
			_, _ = s.client.DeleteTrail(context.WithoutCancel(ctx), &cloudtrail.DeleteTrailInput{Name: &name}) // the test has failed already
		}
	})
	arn := "arn:aws:cloudtrail:" + s.target.Config.Region + ":" + s.target.Account + ":trail/" + name
	if aws.ToString(created.TrailARN) != arn || aws.ToBool(created.IsMultiRegionTrail) || aws.ToBool(created.LogFileValidationEnabled) || !aws.ToBool(created.IncludeGlobalServiceEvents) {
		t.Errorf("created %+v", created)
	}
	_, err = s.client.CreateTrail(ctx, &cloudtrail.CreateTrailInput{Name: aws.String("a"), S3BucketName: bucket})
	wantCode(t, err, "InvalidTrailNameException")
	_, err = s.client.GetTrailStatus(ctx, &cloudtrail.GetTrailStatusInput{Name: aws.String(unique())})
	wantCode(t, err, "TrailNotFoundException")
	for _, step := range []struct {
		do      func() error
		logging bool
	}{
		{func() error { return nil }, false},
		{func() error {
			_, err := s.client.StartLogging(ctx, &cloudtrail.StartLoggingInput{Name: &name})
			return err
		}, true},
		{func() error {
			_, err := s.client.StopLogging(ctx, &cloudtrail.StopLoggingInput{Name: &name})
			return err
		}, false},
	} {
		wantCode(t, step.do(), "")
		if status, err := s.client.GetTrailStatus(ctx, &cloudtrail.GetTrailStatusInput{Name: &arn}); err != nil || aws.ToBool(status.IsLogging) != step.logging {
			t.Errorf("status %+v: %v, want logging %v", status, err, step.logging)
		}
	}
	if !s.target.Deviations.CloudTrailSelectorsUnchecked {
		first, err := s.client.GetEventSelectors(ctx, &cloudtrail.GetEventSelectorsInput{TrailName: &name})
		if err != nil || len(first.EventSelectors) != 1 || first.EventSelectors[0].ReadWriteType != types.ReadWriteTypeAll || !aws.ToBool(first.EventSelectors[0].IncludeManagementEvents) {
			t.Errorf("first selectors %+v: %v", first, err)
		}
		_, err = s.client.PutEventSelectors(ctx, &cloudtrail.PutEventSelectorsInput{TrailName: &name, EventSelectors: []types.EventSelector{{ExcludeManagementEventSources: []string{"s3.amazonaws.com"}}}})
		wantCode(t, err, "InvalidEventSelectorsException")
	}
	put, err := s.client.PutEventSelectors(ctx, &cloudtrail.PutEventSelectorsInput{TrailName: &name, EventSelectors: []types.EventSelector{{
		ReadWriteType: types.ReadWriteTypeWriteOnly, IncludeManagementEvents: aws.Bool(true), ExcludeManagementEventSources: []string{"kms.amazonaws.com"},
	}}})
	if err != nil || aws.ToString(put.TrailARN) != arn {
		t.Errorf("put %+v: %v", put, err)
	}
	got, err := s.client.GetEventSelectors(ctx, &cloudtrail.GetEventSelectorsInput{TrailName: &name})
	if err != nil || len(got.EventSelectors) != 1 || got.EventSelectors[0].ReadWriteType != types.ReadWriteTypeWriteOnly || len(got.EventSelectors[0].ExcludeManagementEventSources) != 1 {
		t.Errorf("selectors %+v: %v", got, err)
	}
	described, err := s.client.DescribeTrails(ctx, &cloudtrail.DescribeTrailsInput{TrailNameList: []string{name}})
	if err != nil || len(described.TrailList) != 1 || aws.ToString(described.TrailList[0].HomeRegion) != s.target.Config.Region ||
		aws.ToBool(described.TrailList[0].HasCustomEventSelectors) == s.target.Deviations.CloudTrailSelectorsUnchecked {
		t.Errorf("described %+v: %v", described, err)
	}
	_, err = s.client.DeleteTrail(ctx, &cloudtrail.DeleteTrailInput{Name: &name})
	wantCode(t, err, "")
	deleted = err == nil
	if !s.target.Deviations.CloudTrailUnknownTrailFails {
		_, err = s.client.StopLogging(ctx, &cloudtrail.StopLoggingInput{Name: &name})
		wantCode(t, err, "TrailNotFoundException")
	}
}

// lookup finds a call that was just made, for which an account takes minutes.
func (s cloudTrailSuite) lookup(t *testing.T) {
	if s.target.Deviations.CloudTrailNoLookup {
		t.Skip("deviation CloudTrailNoLookup: this server has no LookupEvents")
	}
	in := &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyResourceName, AttributeValue: s.bucket(t)}},
		StartTime:        aws.Time(time.Now().Add(-time.Minute)),
	}
	for deadline := time.Now().Add(20 * time.Minute); ; time.Sleep(10 * time.Second) {
		out, err := s.client.LookupEvents(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(out.Events); n > 0 {
			if first := out.Events[n-1]; aws.ToString(first.EventName) != "CreateBucket" || aws.ToString(first.EventSource) != "s3.amazonaws.com" || aws.ToString(first.ReadOnly) != "false" || aws.ToString(first.CloudTrailEvent) == "" {
				t.Errorf("event %+v", first)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the bucket's creation is not found")
		}
	}
	_, err := s.client.LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{MaxResults: aws.Int32(51)})
	wantCode(t, err, "InvalidMaxResultsException")
}
