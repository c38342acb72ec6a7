package kms_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
)

// A primary key waits for its replicas; with the last of them its window begins.
func TestReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, trail.Settings{})
		c := w.as("ADA")
		key := create(t, c, func(in *sdk.CreateKeyInput) { in.MultiRegion = aws.Bool(true) })
		w.take()
		if _, err := c.ReplicateKey(t.Context(), &sdk.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}); err != nil {
			t.Fatal(err)
		}
		events := w.take()
		if diff := cmp.Diff([]string{"AWS API Call via CloudTrail ReplicateKey", "AWS API Call via CloudTrail SynchronizeMultiRegionKey"}, names(events)); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		if d := events[1].Detail; string(d.UserIdentity) != `{"accountId":"111122223333","invokedBy":"AWS Internal"}` || string(d.RequestParameters) != "null" || d.Resources[0].ARN != key {
			t.Errorf("synchronized: %+v", d)
		}
		if _, err := c.ScheduleKeyDeletion(t.Context(), &sdk.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}); err != nil {
			t.Fatal(err)
		}
		state := func() types.KeyState {
			out, err := c.DescribeKey(t.Context(), &sdk.DescribeKeyInput{KeyId: &key})
			if err != nil {
				return types.KeyState(code(err))
			}
			return out.KeyMetadata.KeyState
		}
		time.Sleep(30 * 24 * time.Hour)
		if got := state(); got != types.KeyStatePendingReplicaDeletion {
			t.Errorf("with a replica: %s", got)
		}
		w.DeleteReplica(key, "us-west-2")
		if got := state(); got != types.KeyStatePendingDeletion {
			t.Errorf("without: %s", got)
		}
		time.Sleep(7 * 24 * time.Hour)
		if got := state(); got != "NotFoundException" {
			t.Errorf("after the window: %s", got)
		}
	})
}

// The primary key goes to another Region and comes back; the record of its coming
// back is the other Region's.
func TestPrimaryComesBack(t *testing.T) {
	w := newWorld(t, trail.Settings{})
	c := w.as("ADA")
	key := create(t, c, func(in *sdk.CreateKeyInput) { in.MultiRegion = aws.Bool(true) })
	if _, err := c.ReplicateKey(t.Context(), &sdk.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}); err != nil {
		t.Fatal(err)
	}
	w.take()
	w.TakePrimary(callers["ADA"], key) // which it is
	if got := w.take(); len(got) != 0 {
		t.Errorf("events %v", names(got))
	}
	if _, err := c.UpdatePrimaryRegion(t.Context(), &sdk.UpdatePrimaryRegionInput{KeyId: &key, PrimaryRegion: aws.String("us-west-2")}); err != nil {
		t.Fatal(err)
	}
	rotate := func() string {
		_, err := c.EnableKeyRotation(t.Context(), &sdk.EnableKeyRotationInput{KeyId: &key})
		return code(err)
	}
	if got := rotate(); got != "UnsupportedOperationException" {
		t.Errorf("rotation of a replica: %q", got)
	}
	w.take()
	w.TakePrimary(callers["ADA"], key)
	d := w.last(t).Detail
	if d.EventName != "UpdatePrimaryRegion" || d.Resources != nil || !strings.Contains(string(d.UserIdentity), `"invokedBy":"kms.amazonaws.com"`) ||
		string(d.RequestParameters) != `{"keyId":"`+key+`","primaryRegion":"`+region+`"}` || string(d.ResponseElements) != `{"keyId":"`+key+`"}` {
		t.Errorf("record %+v", d)
	}
	if got := rotate(); got != "" {
		t.Errorf("rotation of the primary key: %q", got)
	}
}
