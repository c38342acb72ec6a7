package s3_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// TestKeptConfigurations: what is only kept comes back as it was set.
func TestKeptConfigurations(t *testing.T) {
	s := newServer(t, nil, wire.Caller{})
	b := aws.String(s.bucket(t, "kept"))
	ctx := t.Context()

	replication := &sdk.PutBucketReplicationInput{Bucket: b, ReplicationConfiguration: &types.ReplicationConfiguration{
		Role: aws.String("arn:aws:iam::000000000000:role/r"),
		Rules: []types.ReplicationRule{{Status: types.ReplicationRuleStatusEnabled, Destination: &types.Destination{
			Bucket: aws.String("arn:aws:s3:::replica"), EncryptionConfiguration: &types.EncryptionConfiguration{ReplicaKmsKeyID: aws.String("arn:k")},
		}}},
	}}
	if _, err := s.PutBucketReplication(ctx, replication); err == nil {
		t.Error("a bucket without versions takes replication rules")
	}
	if _, err := s.PutBucketVersioning(ctx, &sdk.PutBucketVersioningInput{Bucket: b, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutBucketReplication(ctx, replication); err != nil {
		t.Fatal(err)
	}
	got, err := s.GetBucketReplication(ctx, &sdk.GetBucketReplicationInput{Bucket: b})
	if err != nil || aws.ToString(got.ReplicationConfiguration.Rules[0].Destination.EncryptionConfiguration.ReplicaKmsKeyID) != "arn:k" {
		t.Errorf("replication: %+v, %v", got, err)
	}

	if _, err := s.PutBucketNotificationConfiguration(ctx, &sdk.PutBucketNotificationConfigurationInput{Bucket: b, NotificationConfiguration: &types.NotificationConfiguration{
		QueueConfigurations: []types.QueueConfiguration{{QueueArn: aws.String("arn:q"), Events: []types.Event{types.EventS3ObjectCreated}}},
	}}); err != nil {
		t.Fatal(err)
	}
	notification, err := s.GetBucketNotificationConfiguration(ctx, &sdk.GetBucketNotificationConfigurationInput{Bucket: b})
	if err != nil || len(notification.QueueConfigurations) != 1 || aws.ToString(notification.QueueConfigurations[0].QueueArn) != "arn:q" {
		t.Errorf("notification: %+v, %v", notification, err)
	}

	if _, err := s.PutBucketLifecycleConfiguration(ctx, &sdk.PutBucketLifecycleConfigurationInput{Bucket: b, LifecycleConfiguration: &types.BucketLifecycleConfiguration{
		Rules: []types.LifecycleRule{{Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")}, Expiration: &types.LifecycleExpiration{Days: aws.Int32(30)}}},
	}}); err != nil {
		t.Fatal(err)
	}
	lifecycle, err := s.GetBucketLifecycleConfiguration(ctx, &sdk.GetBucketLifecycleConfigurationInput{Bucket: b})
	if err != nil || len(lifecycle.Rules) != 1 || aws.ToInt32(lifecycle.Rules[0].Expiration.Days) != 30 {
		t.Errorf("lifecycle: %+v, %v", lifecycle, err)
	}
}
